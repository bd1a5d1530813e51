"""Datasets on the Hugging Face hub: the raw files of one commit, never of a branch that may move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fgpipe.errors import DataError


def list_files(dataset: str, revision: str) -> list[str]:
    """Names of the files of `dataset` at the commit `revision`, sorted."""
    import huggingface_hub

    with one_line_errors(dataset, revision):
        return sorted(huggingface_hub.HfApi().list_repo_files(dataset, repo_type="dataset", revision=revision))


def download(dataset: str, revision: str, names: Sequence[str]) -> list[Path]:
    """Local copies of the files `names`, taken from the hub's cache where it has them."""
    import huggingface_hub

    with one_line_errors(dataset, revision):
        fetch = huggingface_hub.hf_hub_download
        return [Path(fetch(dataset, name, repo_type="dataset", revision=revision)) for name in names]


@contextmanager
def one_line_errors(dataset: str, revision: str) -> Iterator[None]:
    """What the hub refuses inside the block becomes a DataError that says what to do about it."""
    import httpx
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError as error:
        hint = f"accept the terms at https://huggingface.co/datasets/{dataset} and set HF_TOKEN"
        raise DataError(f"{dataset}: access to it is gated", hint=hint) from error
    except RevisionNotFoundError as error:
        raise DataError(f"task.dataset.revision: got {revision}, which {dataset} does not have") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"task.dataset.source: got {dataset}, which is neither a path here nor a dataset on the hub",
            hint="a private dataset needs HF_TOKEN",
        ) from error
    except (httpx.HTTPError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"{dataset}: cannot be downloaded ({reason})", hint="without network, give a local file or folder"
        ) from error
