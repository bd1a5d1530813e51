"""`python -m fgpipe.data.tasks [sql] [email] [math] --out data`: rebuilds the shipped tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from fgpipe.data.tasks import email, math, sql
from fgpipe.data.tasks.readme import readme
from fgpipe.data.tasks.rows import Row, to_jsonl

TASKS: dict[str, Callable[[], list[Row]]] = {"sql": sql.rows, "email": email.rows, "math": math.rows}


def write_task(name: str, out: Path) -> int:
    """Write `out/name/rows.jsonl` and its README; gives the number of rows."""
    rows = TASKS[name]()
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text(to_jsonl(rows), encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(readme(name, rows), encoding="utf-8", newline="\n")
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rebuild the named tasks, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m fgpipe.data.tasks", description="Rebuild the shipped tasks.")
    parser.add_argument("names", nargs="*", metavar="task", help=f"which tasks: {', '.join(TASKS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder that holds one folder a task")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in TASKS]
    if unknown:
        parser.error(f"task: got {', '.join(unknown)}, expected any of {', '.join(TASKS)}")
    for name in options.names or TASKS:
        print(f"{name}: {write_task(name, options.out)} rows in {options.out / name}")


if __name__ == "__main__":
    main()
