"""Ways to serve 20 adapters, compared in one run: one plain vLLM, and fgpipe's gateway in front of one or more engines.

    python benchmarks/serving.py --parts plain,replicas4 --clients 256,1024 --adapters 20 --repeats 2

`benchmarks/README.md` says what is measured and how. The base has FunctionGemma's exact shape and random weights, made
here; `--model tiny` is for machines without a GPU. Parts: plain, plain-default, plain-api4 (vLLM alone); engine,
engine-default, engine-tuned (one fgpipe server, asked directly); replicasN (`serve server.replicas=N`: N of them behind
the gateway); enginesN (the same, started one by one) and enginesN-default (with vLLM's LoRA kernel settings); clients
(what the clients themselves can take in); plan (the capacity planner against what vLLM took). Words such as
`server.max_num_seqs=512` or `gateway.spill_in_flight=64` are settings of fgpipe's servers and gateway.

All servers of a run live side by side and take turns, so that a machine whose speed drifts affects them alike. A run
ends inside --limit-s; what it had no time for is named, and what it has is in OUT/serving.json at any moment.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "src")]

import html_report  # noqa: E402
import serving_capacity  # noqa: E402
import serving_plan  # noqa: E402
import serving_report  # noqa: E402
from gateway import cpu_s  # noqa: E402
from serving_base import make_adapters, make_base  # noqa: E402
from serving_load import Clients, Load, figures  # noqa: E402
from serving_ways import Bench, Way, names_known, running, ways  # noqa: E402

from fgpipe.errors import FgpipeError  # noqa: E402
from fgpipe.progress import say  # noqa: E402
from fgpipe.serving import gpus, plugin_installed  # noqa: E402
from fgpipe.serving.command import installed_version  # noqa: E402

APART = ("clients", "plan")
"""Parts that are no way to serve."""

STOP_S = 20.0
"""Kept for stopping all servers and writing the report."""


class TimeUp(BaseException):
    """The limit is near."""


class Run:
    """One run: what was asked for, how much time is left, and what was found."""

    def __init__(self, chosen: argparse.Namespace, bench: Bench) -> None:
        self.chosen, self.bench = chosen, bench
        self.until = chosen.began + chosen.limit_s - STOP_S
        self.result: dict[str, Any] = {
            "base": "FunctionGemma's shape, random weights" if chosen.model == "exact" else "model=tiny",
            "command": " ".join(sys.argv[1:]),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine(),
            "rows": [],
            "left_out": [],
        }
        self.longest_s = chosen.warm_s + chosen.window_s + 5

    def left_s(self) -> float:
        """Time for measuring."""
        return float(self.until - time.monotonic())

    def save(self) -> None:
        """Write what there is."""
        aside = self.chosen.out / ".serving.json"
        aside.write_text(json.dumps(self.result, indent=1))
        os.replace(aside, self.chosen.out / "serving.json")

    def measure(self, workers: Clients, way: Way, adapters: int, repeat: int, **load: Any) -> None:
        """Measure `way` once under a load, if there is time."""
        shown = load.pop("shown", "")
        what = f"{way.name}, {adapters or 'base'}, {shown or load.get('clients')}, repeat {repeat}"
        if self.left_s() < self.longest_s:
            self.result["left_out"].append(what)
            return
        began, before = time.monotonic(), _cores(way)
        wanted = self._load(way, adapters, seed=1 + repeat, **load)
        seen = figures(workers.run(wanted), wanted.models)
        took = time.monotonic() - began
        self.longest_s = max(self.longest_s, took + 1)
        cores = {part: (spent - before[part]) / took for part, spent in _cores(way).items()}
        row = {"way": way.name, "adapters": adapters, "clients": load.get("clients", 0), "load": shown}
        self.result["rows"].append({**row, "repeat": repeat, "cores": cores, **seen})
        self.save()
        wait = 1000 * seen["first_token_s"].get("p99", float("nan"))
        say(
            f"{what}: {seen['tokens_per_s']:,.0f} tok/s, TTFT p99 {wait:,.0f} ms, {seen['failed']} failed, {took:.0f} s"
        )

    def warm_up(self, workers: Clients, way: Way) -> None:
        """Let every engine of `way` load all adapters and see every size of batch; nothing is recorded."""
        most, count = max(self.chosen.clients), max(self.chosen.adapters)
        load = self._load(way, count, seed=0, clients=most, warm_s=2.0, window_s=self.chosen.warm_s)
        seen = figures(workers.run(load))
        say(f"{way.name}: warm, {seen['requests']} answered, {seen['failed']} failed {' '.join(seen['faults'][:1])}")

    def _load(self, way: Way, adapters: int, *, seed: int, **more: Any) -> Load:
        names = tuple(self.bench.names[:adapters]) or (self.bench.model.id,)
        least, most = (1000, 262_143) if self.chosen.model == "exact" else (300, 4_799)
        times = {"warm_s": self.chosen.warm_s, "window_s": self.chosen.window_s}
        return Load(way.url, names, seed, least_id=least, most_id=most, **{**times, **more})


def _cores(way: Way) -> dict[str, float]:
    return {part: sum(cpu_s(pid) for pid in pids) for part, pids in way.sessions().items()}


def closed_loops(run: Run, workers: Clients, found: Sequence[Way]) -> None:
    """Every number of clients and adapters by every way, in an order that turns round with every repeat."""
    cases = [(adapters, count) for adapters in run.chosen.adapters for count in run.chosen.clients]
    for repeat in range(run.chosen.repeats):
        for adapters, count in _turned(cases, repeat):
            for way in _turned(found, repeat):
                run.measure(workers, way, adapters, repeat, clients=count)


def arrivals(run: Run, workers: Clients, found: Sequence[Way]) -> None:
    """Poisson arrivals at shares of the first way's peak, and of each other way's own."""
    most = max(run.chosen.adapters)
    peaks = {way.name: _peak_rps(run, way, most) for way in found}
    for repeat in range(run.chosen.repeats):
        for share in run.chosen.poisson:
            for way in _turned(found, repeat):
                for rate in sorted({share * peaks[found[0].name], share * peaks[way.name]} - {0.0}):
                    run.measure(workers, way, most, repeat, rate_rps=rate, shown=f"{rate:.3g} req/s")


def _peak_rps(run: Run, way: Way, adapters: int) -> float:
    """The most requests a second that `way` answered in closed loops: median of the repeats, best number of clients."""
    found: dict[int, list[float]] = {}
    for row in run.result["rows"]:
        if row["way"] == way.name and row["adapters"] == adapters and row["clients"]:
            found.setdefault(row["clients"], []).append(row["requests_per_s"])
    return max(map(statistics.median, found.values()), default=0.0)


def _turned(items: Sequence[Any], repeat: int) -> list[Any]:
    return list(reversed(items)) if repeat % 2 else list(items)


def measure_all(run: Run) -> None:
    """All parts, in the order: clients, plan, then the ways together."""
    chosen = run.chosen
    with Clients(chosen.processes) as workers:
        if "clients" in chosen.parts:
            run.result["capacity"] = [
                serving_capacity.measure(workers, count, window_s=min(5.0, chosen.window_s)) for count in chosen.clients
            ]
            run.save()
        if "plan" in chosen.parts:
            try:
                run.result["plan"] = serving_plan.compare(run.bench, timeout_s=run.left_s())
            except FgpipeError as error:
                run.result["left_out"].append(f"plan: {error.message}")
            run.save()
        wanted = [part for part in chosen.parts if part not in APART]
        if not wanted:
            return
        started = ways(run.bench, wanted, timeout_s=run.left_s())
        try:
            with running(run.bench, started) as found:
                run.result["start_s"] = {way.name: way.start_s for way in found}
                for way in found:
                    run.warm_up(workers, way)
                closed_loops(run, workers, found)
                if chosen.poisson and found:
                    arrivals(run, workers, found)
        finally:
            run.result["left_out"] += [f"{way.name}: {way.problem}" for way in started if way.problem]


def report(run: Run) -> int:
    """Write and print everything; the exit status: 1 if a request failed, or a part did not run."""
    rows = run.result["rows"]
    run.result["comparisons"] = serving_report.comparisons(rows)
    run.save()
    lines = [f"{run.result['base']}; {json.dumps(run.result['machine'])}; {run.result['date']}"]
    if "plan" in run.result:
        lines += serving_plan.table(run.result["plan"]["rows"])
    for capacity in run.result.get("capacity", []):
        busy = capacity["client_busy"]
        lines.append(
            f"clients alone, {capacity['streams']} streams, {capacity['processes']} processes: "
            f"{capacity['tokens_per_s']:,.0f} tok/s, busiest process {busy:.0%} of a core, {capacity['failed']} failed"
        )
    if rows:
        lines += serving_report.table(rows) + serving_report.ratio_table(run.result["comparisons"])
        lines += _plot(run)
    for row in rows:
        lines += [f"failed in {row['way']}, {row['clients'] or row['load']}: {fault}" for fault in row["faults"][:1]]
    lines += [f"left out: {what}" for what in run.result["left_out"]]
    print("\n".join(lines), flush=True)
    print(f"report: {_write_page(run.result, run.chosen.out / 'serving.png')}", flush=True)
    return int(any(row["failed"] for row in rows) or bool(run.result["left_out"]))


def _write_page(result: dict[str, Any], plot: Path) -> Path:
    """All tables and the plot as one page, beside the plot."""
    path = plot.with_suffix(".html")
    text = serving_report.markdown(result, serving_plan.table)
    path.write_text(html_report.page("Serving", text, [plot]), encoding="utf-8")
    return path


def _plot(run: Run) -> list[str]:
    try:
        serving_report.draw(run.result, run.chosen.out / "serving.png")
    except ImportError:
        return [f"no plot: matplotlib is not installed; elsewhere: --draw {run.chosen.out / 'serving.json'}"]
    return []


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    found = gpus.found_gpus()
    gpu = f"{found[0].name}, driver {found[0].driver}" if found else "no GPU"
    plugin = "fgpipe's plugin" if plugin_installed() else "without fgpipe's plugin: it is not installed"
    return {"gpu": gpu, "cores": os.cpu_count(), "vllm": installed_version(), "servers": plugin}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, TimeUp is raised after `seconds`."""

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeUp

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=_words, default=_words("plain,replicas4"))
    parser.add_argument("--adapters", type=_numbers, default=[20], help="0: the base; 1,20; …")
    parser.add_argument("--clients", type=_counts, default=[64, 256, 1024], help="streams at a time")
    parser.add_argument("--poisson", type=_shares, default=[], help="shares of the peak: 0.5,0.8; none by default")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--warm-s", type=float, default=4.0, help="of each measurement, before its window")
    parser.add_argument("--window-s", type=float, default=12.0)
    parser.add_argument("--limit-s", type=float, default=3600.0, help="for everything, starts included")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 4) // 4), help="of the clients")
    parser.add_argument("--model", choices=("exact", "tiny"), default="exact")
    parser.add_argument("--tuned", type=Path, help="folder of LoRA kernel settings, for engine-tuned")
    parser.add_argument("--data", type=Path, help="where base and adapters are made and kept; default: made anew")
    parser.add_argument("--out", type=Path, default=Path("serving-results"))
    parser.add_argument("--draw", type=Path, metavar="JSON", help="only plot and page of earlier results, beside them")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings of fgpipe's servers and gateway")
    chosen = parser.parse_args()
    unknown = [part for part in chosen.parts if part not in APART and not names_known(part)]
    if unknown:
        parser.error(f"--parts: got {unknown[0]}, expected plain, engine, replicas4, clients, plan, … (--help)")
    if "engine-tuned" in chosen.parts and not (chosen.tuned and chosen.tuned.is_dir()):
        parser.error("--parts engine-tuned: got no --tuned, expected a folder made by python -m fgpipe tune")
    return chosen


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _list(kind: Callable[[str], Any], least: float) -> Callable[[str], list[Any]]:
    def read(text: str) -> list[Any]:
        values = [kind(word) for word in _words(text)]
        if not values or min(values) < least:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers of at least {least:g}, as 1,20")
        return values

    read.__name__ = "list of numbers"
    return read


_numbers, _counts, _shares = _list(int, 0), _list(int, 1), _list(float, 0.01)


def main() -> int:
    """Measure and report; 1 if a request failed or something was left out."""
    chosen = arguments()
    chosen.began = time.monotonic()
    if chosen.draw:
        result, plot = json.loads(chosen.draw.read_text()), chosen.draw.with_suffix(".png")
        serving_report.draw(result, plot)
        _write_page(result, plot)
        return 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        data = (chosen.data or Path(temporary)).absolute()
        data.mkdir(parents=True, exist_ok=True)
        base = make_base(data, chosen.model)
        folder = data / f"adapters-{chosen.model}"
        names = make_adapters(folder, base, max(chosen.adapters))
        say(f"base and adapters: {time.monotonic() - chosen.began:.0f} s")
        logs = chosen.out.absolute() / "logs"
        logs.mkdir(exist_ok=True)
        bench = Bench(base, folder, names, logs, tuple(chosen.words), max(chosen.clients), chosen.tuned)
        run = Run(chosen, bench)
        try:
            with time_limit(run.left_s()):
                measure_all(run)
        except TimeUp:
            run.result["left_out"].append(f"what follows: --limit-s {chosen.limit_s:g} was near")
        except KeyboardInterrupt:
            run.result["left_out"].append("what follows: interrupted")
        return report(run)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FgpipeError as error:
        print(f"serving: {error}", file=sys.stderr)
        sys.exit(2)
