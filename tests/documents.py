"""What the documents tell a reader to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, GUIDE, CONCEPT, STACK = (
    ROOT / name for name in ("README.md", "docs/SETUP_GUIDE.md", "docs/CONCEPT.md", "serve/README.md")
)
DOCUMENTS = [GUIDE, CONCEPT, STACK]
EVERY_DOCUMENT = sorted(
    path
    for folder in (".", "docs", "serve", "recipes", "benchmarks", "data/tiny")
    for path in (ROOT / folder).glob("*.md")
)

SHELLS = ("sh", "bash", "powershell")
STARTS = ("docker", "make", "pip", "pytest", "python", "ssh", "uv", "wsl")
"""What inline code and indented blocks begin with that are commands; all else there may be anything."""


def code(document: Path) -> str:
    """Everything set as code."""
    text = document.read_text()
    return "\n".join([*re.findall(r"(?ms)^```\w*\n(.*?)^```", text), *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)])


def commands(document: Path) -> Iterator[list[str]]:
    """Every command in words: all of the shells' blocks, and what else begins like one."""
    text = document.read_text()
    for shell, block in re.findall(r"(?ms)^ *```(\w*)\n(.*?)^ *```", text):
        if shell in SHELLS:
            for line in block.replace("\\\n", " ").splitlines():
                yield from _parts(line)
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    for line in [*re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose), *re.findall(r"(?m)^    (\S.*)$", prose)]:
        if line.split()[0] in STARTS and " " in line:
            yield from _parts(line)


def _parts(line: str) -> Iterator[list[str]]:
    """The commands of a line, without what they set in front of themselves."""
    try:
        words = shlex.split(line.replace("…", "ELLIPSIS"), comments=True)
    except ValueError:
        raise AssertionError(f"no shell reads this: {line}") from None
    part: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";"):
            while part and re.match(r"[A-Z_]+=", part[0]):
                part = part[1:]
            if part:
                yield part
            part = []
        else:
            part.append(word)
