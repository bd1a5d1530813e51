"""Tables and plot of what `serving.py` measured. Pure functions over its rows, but for the plot's file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""One measurement: way, adapters, clients or offered_rps, repeat, and the figures of `serving_load.figures`."""

TIMES = ("first_token_s", "token_s", "answer_s")


def cells(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows of all repeats together, by (way, adapters, clients, offered load)."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["way"], row["adapters"], row["clients"], row.get("load", "")), []).append(row)
    return found


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def ratios(rows: Sequence[Row], one: Row, other: Row, figure: Callable[[Row], float]) -> list[float]:
    """`figure` where the rows are like `one`, over that where they are like `other`, in the same repeat."""

    def by_repeat(like: Row) -> dict[int, float]:
        chosen = [row for row in rows if all(row.get(key) == value for key, value in like.items())]
        return {row["repeat"]: figure(row) for row in chosen if row["first_token_s"]}

    above, below = by_repeat(one), by_repeat(other)
    return [above[repeat] / below[repeat] for repeat in sorted(above.keys() & below.keys()) if below[repeat]]


def speed(row: Row) -> float:
    """Output tokens/s."""
    return float(row["tokens_per_s"])


def wait(row: Row) -> float:
    """p99 of the time to the first token."""
    return float(row["first_token_s"]["p99"])


def comparisons(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each way against the first one under the same load, and all adapters against the base in the same way."""
    found = []
    order = list(dict.fromkeys(row["way"] for row in rows))
    for way, adapters, clients, load in cells(rows):
        here = {"way": way, "adapters": adapters, "clients": clients, **({"load": load} if load else {})}
        against = []
        if way != order[0]:
            against.append((f"{way} / {order[0]}", {**here, "way": order[0]}))
        if adapters and not load:
            against.append((f"{way}: {adapters} adapters / base", {**here, "adapters": 0}))
        for name, other in against:
            speeds, waits = ratios(rows, here, other, speed), ratios(rows, here, other, wait)
            if speeds and waits:
                place = {"adapters": adapters, "clients": clients, "load": load}
                found.append({"what": name, **place, "tokens_per_s": speeds, "first_token_p99": waits})
    return found


def table(rows: Sequence[Row]) -> list[str]:
    """A line a cell: median and range over the repeats of the speed, medians of the times."""
    head = f"{'way':15}{'adapters':>9}{'load':>14}{'tok/s (range)':>26}{'req/s':>7}{'TTFT p50/p99 ms':>17}"
    head += f"{'TPOT p50/p99':>15}{'e2e p50/p99 s':>15}{'failed':>7}{'client':>8}{'cores gw':>9}{'servers':>8}"
    lines = [head]
    for (way, adapters, clients, load), group in cells(rows).items():
        median, least, most = middle([speed(row) for row in group])
        times = {name: [_median(group, name, cut) for cut in ("p50", "p99")] for name in TIMES}
        first, token, answer = (times[name] for name in TIMES)
        what = load or f"{clients} clients"
        lines.append(
            f"{way:15}{adapters or 'base':>9}{what:>14}{f'{median:,.0f} ({least:,.0f} to {most:,.0f})':>26}"
            f"{statistics.median(row['requests_per_s'] for row in group):7.0f}"
            f"{f'{1000 * first[0]:,.0f} / {1000 * first[1]:,.0f}':>17}"
            f"{f'{1000 * token[0]:.1f} / {1000 * token[1]:.1f}':>15}{f'{answer[0]:.2f} / {answer[1]:.2f}':>15}"
            f"{sum(row['failed'] for row in group):7d}{max(row['client_busy'] for row in group):7.0%} "
            f"{statistics.median(row['cores']['gateway'] for row in group):8.2f}"
            f"{statistics.median(row['cores']['servers'] for row in group):8.1f}"
        )
    return lines


def ratio_table(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line a comparison."""
    lines = [f"{'ratio in one repeat, median (range)':42}{'load':>14}{'tok/s':>24}{'TTFT p99':>24}{'n':>4}"]
    for entry in found:
        load = entry["load"] or f"{entry['clients']} clients"
        shown = ["{:.2f} ({:.2f} to {:.2f})".format(*middle(entry[key])) for key in ("tokens_per_s", "first_token_p99")]
        what = entry["what"] if "base" in entry["what"] else f"{entry['what']}, {entry['adapters'] or 'base'}"
        lines.append(f"{what:42}{load:>14}{shown[0]:>24}{shown[1]:>24}{len(entry['tokens_per_s']):4d}")
    return lines


def adapter_table(rows: Sequence[Row]) -> list[str]:
    """A line an adapter of each cell with several: medians over the repeats."""
    lines = [
        f"{'way':15}{'load':>14}  {'adapter':16}{'tok/s':>9}{'req/s':>8}{'TTFT p50/p99 ms':>18}{'e2e p50/p99 s':>16}"
    ]
    for (way, _, clients, load), group in cells(rows).items():
        names = group[0].get("by_model", {})
        for name in names if len(names) > 1 else ():
            own = [row["by_model"][name] for row in group if row["by_model"][name]["first_token_s"]]
            if not own:
                continue
            first, answer = (
                [_median(own, time, cut) for cut in ("p50", "p99")] for time in ("first_token_s", "answer_s")
            )
            lines.append(
                f"{way:15}{load or f'{clients} clients':>14}  {name:16}{statistics.median(map(speed, own)):9,.0f}"
                f"{statistics.median(row['requests_per_s'] for row in own):8.1f}"
                f"{f'{1000 * first[0]:,.0f} / {1000 * first[1]:,.0f}':>18}{f'{answer[0]:.2f} / {answer[1]:.2f}':>16}"
            )
    return lines if len(lines) > 1 else []


def markdown(result: dict[str, Any], plan_table: Callable[[Sequence[dict[str, Any]]], list[str]]) -> str:
    """Everything that was found, as Markdown."""
    where = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    parts = [f"# Serving\n\n{result['base']}; {where}; {result['date']}\n\n`benchmarks/serving.py {result['command']}`"]
    tables = {
        "Memory, planned and taken": plan_table(result["plan"]["rows"]) if "plan" in result else [],
        "Speed and times": table(result["rows"]) if result["rows"] else [],
        "Against the first way, and against the base": ratio_table(result.get("comparisons", [])),
        "By adapter": adapter_table(result["rows"]),
        "Left out": result["left_out"],
    }
    for head, lines in tables.items():
        if lines:
            parts.append(f"## {head}\n\n```\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts) + "\n"


def _median(group: Sequence[Row], name: str, cut: str) -> float:
    values = [row[name][cut] for row in group if row[name]]
    return statistics.median(values) if values else float("nan")


def draw(result: dict[str, Any], out: Path) -> None:
    """Speed and first-token time over the number of clients, a line a way and number of adapters.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    closed = [row for row in result["rows"] if row["clients"]]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8))
    lines: dict[tuple[str, int], list[tuple[int, list[Row]]]] = {}
    for (way, adapters, clients, _), group in cells(closed).items():
        lines.setdefault((way, adapters), []).append((clients, group))
    for (way, adapters), points in lines.items():
        points.sort(key=lambda point: point[0])
        places = [clients for clients, _ in points]
        label = f"{way}, {adapters or 'base'}{' adapters' if adapters > 1 else ' adapter' * (adapters == 1)}"
        speeds = [middle([speed(row) for row in group]) for _, group in points]
        spread = [[median - least for median, least, _ in speeds], [most - median for median, _, most in speeds]]
        left.errorbar(places, [median for median, _, _ in speeds], yerr=spread, marker="o", capsize=3, label=label)
        waits = [1000 * _median(group, "first_token_s", "p99") for _, group in points]
        right.plot(places, waits, marker="o", label=label)
    left.set_ylabel("output tokens/s, median and range")
    right.set_ylabel("time to first token, p99, ms")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("clients")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["clients"] for row in closed}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        axes.set_ylim(bottom=0 if axes is left else None)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.suptitle(
        f"{result['base']} on {result['machine']['gpu']}, vLLM {result['machine']['vllm']}, {result['date']}"
    )
    figure.tight_layout()
    figure.savefig(out, dpi=130)
