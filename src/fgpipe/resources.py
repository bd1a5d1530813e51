"""Where the files that travel with fgpipe are: in the checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The shipped folder `name`: "conf" or "data"."""
    checkout = PACKAGE.parent.parent / name
    return checkout if (PACKAGE.parent.parent / "pyproject.toml").is_file() else PACKAGE / f"_{name}"


def resolve(path: str) -> Path:
    """`path` as the user means it: relative to the working folder, or `data/…` of the shipped files."""
    given = Path(path).expanduser()
    if not given.exists() and given.parts[:1] == ("data",):
        shipped = folder("data").joinpath(*given.parts[1:])
        if shipped.exists():
            return shipped
    return given
