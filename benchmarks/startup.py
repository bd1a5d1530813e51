"""How long the command line takes to answer, next to a bare interpreter: python benchmarks/startup.py [runs].

Each round runs every command once, so that a machine whose speed drifts affects them alike; medians and their ratios
are printed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "fgpipe --help": ["-m", "fgpipe", "--help"],
    "fgpipe train --help": ["-m", "fgpipe", "train", "--help"],
    "fgpipe config task=sql": ["-m", "fgpipe", "config", "task=sql"],
}


def seconds(words: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print a line a command: median, range, ratio to the bare interpreter in the same rounds."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for words in COMMANDS.values():
        seconds(words)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, words in COMMANDS.items():
            times[name].append(seconds(words))
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(
            f"{name:24} median {1000 * middle:6.0f} ms   from {1000 * min(values):.0f} to {1000 * max(values):.0f} ms"
            f"   {middle / bare:5.1f} x a bare interpreter"
        )


if __name__ == "__main__":
    main()
