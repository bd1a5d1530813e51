"""Where the rows of a dataset are: a file, a folder of files, or a dataset on the hub at a pinned commit."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from fgpipe import resources, store
from fgpipe.config import DatasetConfig
from fgpipe.data import hub
from fgpipe.data.readers import READERS, SourceRow, known_files, read_file, reader_of, suffix
from fgpipe.errors import DataError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
REVISION = re.compile(r"[0-9a-f]{40}")
SPLIT_NAME = re.compile(r"(?<![a-z])(train|training|test|testing|validation|valid|dev|eval|evaluation)(?![a-z])")
NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the `datasets` library writes beside the rows."""


def read(dataset: DatasetConfig) -> list[SourceRow]:
    """The rows of `dataset.source` in file order, at most `dataset.limit` of them.

    Raises:
        DataError: the source does not exist, is not pinned (hub), or a file in it cannot be read; names file and line.
    """
    files = hub_files(dataset) if is_hub_id(dataset.source) else local_files(dataset.source)
    return list(islice((row for path, name in files for row in read_file(path, name)), dataset.limit))


def fingerprint(dataset: DatasetConfig) -> str:
    """SHA-256 over the source's files, or `id@revision` of a hub dataset."""
    if is_hub_id(dataset.source):
        return f"{dataset.source}@{pinned(dataset)}"
    path = resources.resolve(dataset.source)
    names = [name for _, name in local_files(dataset.source)]
    return store.digest_files(path if path.is_dir() else path.parent, names)


def is_hub_id(source: str) -> bool:
    """Whether `source` means a hub dataset: `org/name`, no such path here, and no data file's ending."""
    if not HUB_ID.fullmatch(source) or suffix(source) in READERS or source.startswith("data/"):
        return False
    return not resources.resolve(source).exists()


def local_files(source: str) -> list[tuple[Path, str]]:
    """The file `source`, or every data file in the folder `source`, by name; each with what to call it in messages."""
    hint = f"give a file ({known_files()}), a folder of such files, or a hub id such as org/name"
    if not source:
        raise DataError("task.dataset.source: got nothing, expected where the rows are", hint=hint)
    path = resources.resolve(source)
    if path.is_file():
        reader_of(path.name)
        return [(path, path.name)]
    if not path.is_dir():
        raise DataError(f"task.dataset.source: got {source}, which does not exist", hint=hint)
    below = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    names = sorted(str(file) for file in below if not any(part.startswith(".") for part in file.parts))
    return [(path / name, name) for name in data_files(names, source)]


def hub_files(dataset: DatasetConfig) -> list[tuple[Path, str]]:
    """The files of one split of a hub dataset at its pinned commit, each with what to call it in messages."""
    revision = pinned(dataset)
    names = split_files(data_files(hub.list_files(dataset.source, revision), dataset.source), dataset)
    paths = hub.download(dataset.source, revision, names)
    return [(path, f"{dataset.source}/{name}") for path, name in zip(paths, names, strict=True)]


def pinned(dataset: DatasetConfig) -> str:
    """The commit of a hub dataset.

    Raises:
        DataError: none is given, or a name that may move.
    """
    if dataset.revision is None or not REVISION.fullmatch(dataset.revision):
        raise DataError(
            f"task.dataset.revision: got {dataset.revision or 'none'}, expected a commit of the hub dataset "
            f"{dataset.source} (40 hex digits)",
            hint=f"https://huggingface.co/datasets/{dataset.source}/commits/main lists them; "
            f"if you meant a local path, {dataset.source} does not exist here",
        )
    return dataset.revision


def data_files(names: list[str], source: str) -> list[str]:
    """Those of `names` that hold rows; all of one kind, as a mixture may hold the same rows twice.

    Raises:
        DataError: there are none, or of several kinds.
    """
    found = [name for name in names if suffix(name) in READERS and Path(name).name not in NOT_ROWS]
    if not found:
        raise DataError(f"{source}: got no data file, expected {known_files()}")
    kinds = sorted({suffix(name) for name in found})
    if len(kinds) > 1:
        raise DataError(
            f"{source}: got files of several kinds ({', '.join(kinds)}), expected one",
            hint="put the files to read into a folder of their own, or name one file",
        )
    return found


def split_files(names: list[str], dataset: DatasetConfig) -> list[str]:
    """Those of `names` that belong to `dataset.split`; all, if no name tells a split and "train" is wanted.

    Raises:
        DataError: the split is in none of the names.
    """
    split = re.compile(rf"(?<![a-z]){re.escape(dataset.split.lower())}(?![a-z])")
    wanted = [name for name in names if split.search(name.lower())]
    if wanted or (dataset.split == "train" and not any(SPLIT_NAME.search(name.lower()) for name in names)):
        return wanted or names
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise DataError(f"task.dataset.split: got {dataset.split}, expected a split in {dataset.source}, which has {shown}")
