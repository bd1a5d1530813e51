"""Training, measured on this machine: the packed engine alone, beside its peers, as a fleet, and its agreement.

    python benchmarks/training.py --parts engine,peers,fleet,fleet20,agreement,trials,cpu [--limit-s 560]
    python benchmarks/training.py --markdown training-results/training.json [MORE.json …]

`benchmarks/training.md` says what each part does and how figures are taken. The base has FunctionGemma's exact shape
and random weights, the rows are random words, all made here; `--shape tiny` tries everything in minutes without a GPU.
Words such as `lora.r=8` go to every command of fgpipe. A part that fails is recorded, the others run; what has been
found is in OUT/training.json at any moment. --markdown writes what documents need from one or more such files, --draw
plots.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent / "src")]

import html_report  # noqa: E402
import training_report  # noqa: E402
from training_base import SHAPES  # noqa: E402
from training_parts import PARTS, PEERS, Bench, Found  # noqa: E402
from training_peers import WAYS  # noqa: E402
from training_run import FailedError, nvidia_smi, read_json  # noqa: E402


def command(part: str, chosen: argparse.Namespace) -> str:
    """What repeats a part elsewhere: without this machine's folders and limit."""
    ways = ["--ways", chosen.ways] if part == "peers" and chosen.ways else []
    shape = ["--shape", chosen.shape] if chosen.shape != "functiongemma" else []
    return " ".join(["python benchmarks/training.py --parts", part, *ways, *shape, *chosen.words])


def machine() -> dict[str, Any]:
    """Where this runs, and with what."""
    versions = {}
    for name in ("torch", "triton", "transformers", "peft", "trl", "datasets", "accelerate", "liger-kernel", "unsloth"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "gpu": nvidia_smi("name"),
        "driver": nvidia_smi("driver_version"),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def write_page(found: Found, plots: Sequence[Path], out: Path) -> Path:
    """All figures and plots as one page."""
    path = out / "training.html"
    path.write_text(html_report.page("Training", training_report.markdown(found), plots), encoding="utf-8")
    return path


def main() -> int:
    """Measure, or report what was measured; 1 if a part failed."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings for every command of fgpipe")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--ways", help=f"of part peers, any of {','.join(PEERS)}, or with other numbers of rows a step")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="functiongemma")
    parser.add_argument("--limit-s", type=float, default=3600, help="everything ends inside this")
    parser.add_argument("--out", type=Path, default=Path("training-results"))
    parser.add_argument(
        "--data", type=Path, help="folder for base, rows and logs, kept for the next run; else OUT/data"
    )
    parser.add_argument("--unsloth-site", type=Path, help="folder with Unsloth and the versions it wants, for it alone")
    parser.add_argument(
        "--markdown", type=Path, nargs="+", metavar="FILE", help="print documents' text; measure nothing"
    )
    parser.add_argument("--draw", type=Path, nargs="+", metavar="FILE", help="plots from files; measure nothing")
    chosen = parser.parse_intermixed_args()
    if chosen.markdown or chosen.draw:
        found = training_report.merged([read_json(path) for path in chosen.markdown or chosen.draw])
        if chosen.markdown:
            print(training_report.markdown(found))
        if chosen.draw:
            chosen.out.mkdir(parents=True, exist_ok=True)
            plots = training_report.draw(found, chosen.out)
            print("\n".join(map(str, [*plots, write_page(found, plots, chosen.out)])))
        return 0
    wanted = chosen.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--parts: got {', '.join(sorted(unknown))}, expected any of {', '.join(PARTS)}")
    known = [way for way in (chosen.ways or "").split(",") if way and way not in WAYS]
    if wrong := [way for way in known if not training_report.is_ours(way)]:
        parser.error(f"--ways: got {wrong[0]}, expected any of {', '.join(PEERS)}")
    # One GPU: a fleet would take them all, and TRL refuses to see several.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    chosen.began, chosen.data = began, chosen.data or chosen.out / "data"
    chosen.out.mkdir(parents=True, exist_ok=True)
    result: Found = {"parts": {}}

    def save() -> None:
        aside = chosen.out / ".training.json"
        aside.write_text(json.dumps(result, indent=1))
        aside.replace(chosen.out / "training.json")

    bench = Bench(chosen)
    where = machine()
    for name in wanted:
        part: Found = {
            "machine": where,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": command(name, chosen),
            "shape": bench.shape,
        }
        result["parts"][name] = part
        print(f"== {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            PARTS[name](bench, part, save)
        except Exception as failure:  # of one part; the others run
            part["failed"] = str(failure) if isinstance(failure, FailedError) else traceback.format_exc()
            print(f"{name}: {part['failed']}", file=sys.stderr, flush=True)
        part["seconds"] = time.monotonic() - start
        save()
    logs = chosen.data / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    shutil.move(bench.work / "logs", logs)
    shutil.rmtree(bench.work, ignore_errors=True)
    plots: list[Path] = []
    try:
        plots = training_report.draw(result, chosen.out)
    except ImportError:
        print("matplotlib is not installed: no plots; --draw draws them later", file=sys.stderr)
    print("\n".join(training_report.table(result)))
    print(f"report: {write_page(result, plots, chosen.out)}")
    return int(any("failed" in part for part in result["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
