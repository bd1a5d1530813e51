"""Table, documents' text and plots of what `training.py` measured. Pure functions over its result, but for plots."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Found = dict[str, Any]

TRAJECTORY = (("fast", "train.backend=fast"), ("trl", "train.backend=trl"))


def is_ours(way: str) -> bool:
    """Whether a way's name is one of fgpipe's: fgpipe-fast-bN or fgpipe-trl-bN."""
    return re.fullmatch(r"fgpipe-(fast|trl)-b[1-9]\d*", way) is not None


def merged(results: Sequence[Found]) -> Found:
    """Several results as one; of a part measured more than once, the last that did not fail.

    Ways of `peers` measured in several runs on equal machines stand together, each with the ratio of its own run.
    """
    parts: Found = {}
    for result in results:
        for name, part in result["parts"].items():
            before = parts.get(name)
            if before is not None and name == "peers" and before["machine"] == part["machine"]:
                command = f"{before['command']}` and `{part['command']}"
                parts[name] = {**part, "command": command, "rows": [*_with_ratio(before), *_with_ratio(part)]}
            elif before is None or "failed" not in part or "failed" in before:
                parts[name] = part
    return {"parts": parts}


def _with_ratio(part: Found) -> list[Found]:
    """The rows of `peers`, those that were timed with how many times as fast the fastest of ours in their run was."""
    rows = part.get("rows", [])
    ours = [row["tokens_per_s"]["median"] for row in rows if is_ours(row["way"]) and "failed" not in row]
    if not ours:
        return [{"ratio": None, **row} for row in rows]
    return [row if "failed" in row else {"ratio": max(ours) / row["tokens_per_s"]["median"], **row} for row in rows]


def show_peer(row: Found) -> None:
    """A line on a way as soon as it is timed."""
    text = row["failed"].splitlines()[-1] if "failed" in row else _range(row["tokens_per_s"])
    print(f"{row['way']}: {text}", file=sys.stderr, flush=True)


def table(result: Found) -> list[str]:
    """A short line for each figure."""
    lines = []
    for name, part in result["parts"].items():
        gpu = part["machine"]["gpu"] or f"{part['machine']['cores']} CPU cores"
        lines.append(f"-- {name}: {part['seconds']:.0f} s, {gpu}{', FAILED' if 'failed' in part else ''}")
        if "failed" in part:
            lines += [f"   {line}" for line in part["failed"].splitlines()[-4:]]
        lines += [f"   {line}" for line in LINES[name](part)]
    return lines


def _engine_lines(part: Found) -> list[str]:
    return [
        f"{row['tokens_a_step']:7,.0f} tokens a step, {row['cache']}: {row['tokens_per_s']:9,.0f} tokens/s, command "
        f"{row['command_s']:.1f} s, GiB planned {_gib(row['planned_bytes'])} taken {_gib(row['peak_bytes'])} "
        f"GPU {_gib(row['gpu_bytes'])}"
        for row in part.get("rows", [])
    ]


def _peer_lines(part: Found) -> list[str]:
    lines = []
    for row in _with_ratio(part):
        if "failed" in row:
            lines.append(f"{row['way']:18} failed: {row['failed'].splitlines()[-1][:90]}")
            continue
        ratio = f"{row['ratio']:6.1f} x" if row["ratio"] else ""
        speed = _range(row["tokens_per_s"])
        lines.append(f"{row['way']:18} {speed:34} {_gib(row['peak_bytes'])} GiB  real {row['real_share']:.0%} {ratio}")
    return lines


def _fleet_lines(part: Found) -> list[str]:
    lines = [
        f"{state}: {part[state]['published']} published, {part[state]['tokens_per_s']:,.0f} tokens/s, "
        f"{part[state]['command_s']:.1f} s: {_parts(part[state]['breakdown_s'])}"
        for state in ("cold", "warm")
        if state in part
    ]
    if "ratio" in part:
        ratio = part["ratio"]
        lines.append(f"against the sequence: {ratio['tokens_per_s']:.2f} x tokens/s, {ratio['command']:.1f} x commands")
    return lines


def _agreement_lines(part: Found) -> list[str]:
    lines = [
        f"gradients of adapter {number}: {one['error']['fast']:.2e} off float32, transformers in "
        f"{part['gradients']['dtype']} {one['error']['transformers']:.2e}"
        for number, one in enumerate(part.get("gradients", {}).get("adapters", []))
    ]
    if "largest_relative_difference" in part:
        steps = len(part["losses"]["trl"])
        lines.append(f"losses of {steps} steps, fast and trl: at most {part['largest_relative_difference']:.2%} apart")
    return lines


TRIALS = ("alone", "evaluated", "killed", "tight")


def _trial_lines(part: Found) -> list[str]:
    lines = []
    for name in TRIALS:
        if name in part:
            one = part[name]
            memory = (
                f"GiB planned {_gib(one['planned_bytes'])} taken {_gib(one['peak_bytes'])} GPU {_gib(one['gpu_bytes'])}"
            )
            said = "; ".join(
                [*map(str, one.get("said", [])), *(f"{loss:.4f}" for loss in one.get("held_out_losses", []))]
            )
            lines.append(
                f"{name:10} loss {one['loss']:.4f}, {memory}, {one['command_s']:.1f} s{f': {said}' * bool(said)}"
            )
    return lines


def _cpu_lines(part: Found) -> list[str]:
    rounds = part.get("rounds", [])
    if not rounds:
        return []
    plain = next(iter(rounds[0]))
    return [
        f"{name:20} {statistics.median(one[name] for one in rounds):8,.0f} tokens/s, "
        f"{_ratio([one[name] / one[plain] for one in rounds])} plain TRL"
        for name in sorted(rounds[0])
    ]


LINES = {
    "engine": _engine_lines,
    "peers": _peer_lines,
    "fleet": _fleet_lines,
    "fleet20": _fleet_lines,
    "agreement": _agreement_lines,
    "trials": _trial_lines,
    "cpu": _cpu_lines,
}


def markdown(result: Found) -> str:
    """The section *Training* of docs/results.md: measured numbers only, each part with where it was measured."""
    parts = result["parts"]
    texts = ["## Training", INTRODUCTION]
    for name, write in MARKDOWN.items():
        if name in parts and (body := write(parts[name])):
            texts += [f"### {HEADINGS[name]}", f"`{parts[name]['command']}`, {_where(parts[name])}.", body]
    return "\n\n".join(texts)


INTRODUCTION = """\
FunctionGemma's exact shape with random weights, rows of random words in calls of tools: speed and memory depend on
lengths alone, and nothing here says what an adapter learns. Lengths are log-normal (mean about 342 tokens, at most
1,024), 15 % of the tokens are in the loss; rank 16 on all seven layers. Tokens are real ones: padding and free places
do not count.
What each part does: [benchmarks/training.md](../benchmarks/training.md)."""

HEADINGS = {
    "engine": "One adapter",
    "peers": "Against other ways to train",
    "fleet": "A fleet against a sequence",
    "fleet20": "From a file to published versions",
    "agreement": "Agreement",
    "trials": "What may happen to a run",
    "cpu": "On a CPU",
}


def _engine_markdown(part: Found) -> str:
    rows = [
        [
            f"{row['tokens_a_step']:,.0f}",
            row["cache"],
            f"{row['tokens_per_s']:,.0f}",
            _range(row["line_tokens_per_s"]),
            f"{row['command_s']:.0f} s",
            f"{row['stages_s'].get('compiled', 0):.1f} s" if "compiled" in row["stages_s"] else "",
            f"{_gib(row['planned_bytes'])} / {_gib(row['peak_bytes'])} / {_gib(row['gpu_bytes'])}",
        ]
        for row in part.get("rows", [])
    ]
    heads = [
        "tokens a step",
        "compile cache",
        "tokens/s",
        "lines of the log",
        "whole command",
        "compiling",
        "GiB planned / tensors / GPU",
    ]
    note = (
        "tokens/s: over the later half of the run, checkpoints included; beside it median and range of the log's own "
        "lines. GPU: what the driver shows, with CUDA's context."
    )
    return f"{_table(heads, rows)}\n\n{note}" if rows else ""


def _peer_markdown(part: Found) -> str:
    rows, failed = [], []
    for row in _with_ratio(part):
        if "failed" in row:
            failed.append(f"`{row['way']}`: {row['failed'].splitlines()[-1].strip()[:160]}")
            continue
        speed, ratio = _range(row["tokens_per_s"]), f"{row['ratio']:.1f} x" if row["ratio"] else ""
        rows.append(
            [
                f"`{row['way']}`",
                row["what"],
                speed,
                ratio,
                _gib(row["peak_bytes"]),
                f"{row['real_share']:.0%}",
            ]
        )
    heads = ["way", "what it is", "tokens/s", "fastest of ours is", "GiB", "real tokens"]
    text = _table(heads, rows) if rows else ""
    return text + ("\n\nDid not run: " + "; ".join(failed) + "." if failed else "")


def _fleet_markdown(part: Found) -> str:
    if "ratio" not in part:
        return ""
    warm, sequence = part["warm"], part["sequence"]
    rows = [
        [f"{warm['adapters']} together", f"{warm['tokens_per_s']:,.0f}", f"{warm['command_s']:.0f} s"],
        [
            f"one after another, reckoned from {sequence['reckoned_from']}",
            f"{sequence['tokens_per_s']:,.0f}",
            f"{sequence['command_s']:.0f} s",
        ],
        ["ratio", f"{part['ratio']['tokens_per_s']:.2f} x", f"{part['ratio']['command']:.1f} x"],
    ]
    note = f"Warm compile cache; with a cold one the fleet took {part['cold']['command_s']:.0f} s."
    return (
        f"{_table(['', 'tokens/s', 'commands in all'], rows)}\n\n{note} About {_a_step(part):,.0f} tokens a step each."
    )


def _a_step(part: Found) -> float:
    return float(statistics.mean(one["tokens_a_step"] for one in part["alone"]))


def _fleet20_markdown(part: Found) -> str:
    states = [state for state in ("cold", "warm") if state in part]
    names = list(dict.fromkeys(name for state in states for name in part[state]["breakdown_s"]))
    rows = [
        [
            state,
            f"{part[state]['published']} of {part[state]['adapters']}",
            f"{part[state]['training_rows']:,}",
            f"{part[state]['tokens'] / 1e6:.1f} M",
            f"{part[state]['tokens_per_s']:,.0f}",
            *(f"{part[state]['breakdown_s'].get(name, 0):.1f}" for name in names),
            f"**{part[state]['command_s']:.0f}**",
        ]
        for state in states
    ]
    heads = [
        "compile cache",
        "published",
        "rows",
        "tokens",
        "tokens/s",
        *(f"{name}, s" for name in names),
        "whole command, s",
    ]
    return _table(heads, rows) if rows else ""


def _agreement_markdown(part: Found) -> str:
    texts = []
    for number, one in enumerate(part.get("gradients", {}).get("adapters", [])):
        error, loss = one["error"], one["loss"]
        texts.append(
            f"- Adapter {number + 1} of {len(part['gradients']['adapters'])} in one pass, {one['tokens']:,} tokens: "
            f"all gradients together {error['fast']:.2g} off transformers + PEFT in float32 (transformers itself in "
            f"{part['gradients']['dtype']}: {error['transformers']:.2g}); loss {loss['fast']:.5f}, in float32 "
            f"{loss['float32']:.5f}."
        )
    if "largest_relative_difference" in part:
        first, last = (part["losses"]["trl"][place] for place in (0, -1))
        texts.append(
            f"- {len(part['losses']['trl'])} steps of both back ends on the same rows: losses at most "
            f"{part['largest_relative_difference']:.2%} apart, while they fell from {first:.2f} to {last:.2f}."
        )
    return "\n".join(texts)


def _cpu_markdown(part: Found) -> str:
    rounds = part.get("rounds", [])
    if not rounds:
        return ""
    plain = next(iter(rounds[0]))
    rows = []
    for name in sorted(rounds[0]):
        values = [one[name] for one in rounds]
        speed = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        rows.append([name, _range(speed), _ratio([one[name] / one[plain] for one in rounds])])
    return _table(["", "tokens/s", f"against {plain}, same round"], rows)


MARKDOWN = {
    "engine": _engine_markdown,
    "peers": _peer_markdown,
    "fleet": _fleet_markdown,
    "fleet20": _fleet20_markdown,
    "agreement": _agreement_markdown,
    "trials": lambda part: "```\n" + "\n".join(_trial_lines(part)) + "\n```",
    "cpu": _cpu_markdown,
}


def draw(result: Found, out: Path) -> list[Path]:
    """Plots of what is there: training-speed.png, training-fleet.png, training-agreement.png.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drawn = []
    for name, part_name, paint in (
        ("speed", "peers", _draw_peers),
        ("fleet", "fleet20", _draw_breakdown),
        ("agreement", "agreement", _draw_losses),
    ):
        part = result["parts"].get(part_name, {})
        figure, axes = pyplot.subplots(figsize=(9, 4.8))
        if paint(axes, part):
            figure.suptitle(f"{HEADINGS[part_name]}\n{_where(part)}", fontsize=8)
            figure.tight_layout()
            drawn.append(out / f"training-{name}.png")
            figure.savefig(drawn[-1], dpi=130)
        pyplot.close(figure)
    return drawn


def _draw_peers(axes: Any, part: Found) -> bool:
    rows = [row for row in part.get("rows", []) if "failed" not in row][::-1]
    if not rows:
        return False
    middles = [row["tokens_per_s"]["median"] for row in rows]
    ends = [
        [row["tokens_per_s"]["median"] - row["tokens_per_s"]["least"] for row in rows],
        [row["tokens_per_s"]["most"] - row["tokens_per_s"]["median"] for row in rows],
    ]
    colours = ["tab:green" if is_ours(row["way"]) else "tab:gray" for row in rows]
    axes.barh(range(len(rows)), middles, xerr=ends, color=colours, capsize=3)
    axes.set_yticks(range(len(rows)), [row["way"] for row in rows])
    longest = max(row["tokens_per_s"]["most"] for row in rows)
    for place, row in enumerate(rows):
        end = row["tokens_per_s"]["most"] + 0.01 * longest
        axes.text(end, place, f"{row['tokens_per_s']['median']:,.0f}", va="center", fontsize=8)
    axes.set_xlim(right=1.15 * longest)
    axes.set_xlabel("tokens/s without padding, median and range")
    return True


def _draw_breakdown(axes: Any, part: Found) -> bool:
    states = [state for state in ("warm", "cold") if state in part]
    for state in states:
        left = 0.0
        for number, (name, seconds) in enumerate(part[state]["breakdown_s"].items()):
            label = name if state == states[0] else None
            axes.barh(f"{state} compile cache", seconds, left=left, color=f"C{number}", label=label)
            left += seconds
        axes.text(left, state + " compile cache", f" {left:.0f} s", va="center", fontsize=9)
    if states:
        axes.set_xlabel(f"seconds from the command to {part[states[0]]['published']} published versions")
        axes.set_xlim(right=1.35 * max(part[state]["command_s"] for state in states))  # room for the legend
        axes.legend(fontsize=8, loc="center right")
    return bool(states)


def _draw_losses(axes: Any, part: Found) -> bool:
    losses = part.get("losses", {})
    for (name, label), style in zip(TRAJECTORY, ("-", "--"), strict=True):
        if name in losses:
            axes.plot(range(1, len(losses[name]) + 1), losses[name], style, label=label)
    if losses:
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats a token")
        axes.legend()
        axes.grid(alpha=0.3)
    return bool(losses)


def _where(part: Found) -> str:
    machine = part["machine"]
    names = ("torch", "transformers", "peft", "trl", "unsloth")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in names if name in machine["versions"])
    gpu = f"one {machine['gpu']} (driver {machine['driver']}), " if machine["gpu"] else "no GPU, "
    shape = "" if part["shape"] == "functiongemma" else f" (shape {part['shape']}: a trial, not a measurement)"
    return f"{gpu}{machine['cores']} CPU cores, Python {machine['python']}, {versions}, {part['date']}{shape}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows))


def _range(values: dict[str, float]) -> str:
    return f"{values['median']:,.0f} ({values['least']:,.0f} to {values['most']:,.0f})"


def _ratio(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} x ({min(values):.2f} to {max(values):.2f})"


def _parts(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())


def _gib(count: float | None) -> str:
    return "-" if count is None else f"{count / 2**30:.2f}"
