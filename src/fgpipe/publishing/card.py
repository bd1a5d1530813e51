"""The model card of a published version: what it is for, how good it is, how to use it, where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fgpipe.config import VLLM_LORA_RANKS

SETTINGS_SHOWN = {
    "lora": ("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"),
    "train": ("learning_rate", "epochs", "max_steps", "batch_size", "gradient_accumulation", "scheduler"),
}
"""The part of the configuration a reader of a card looks for; the manifest holds all of it."""


def card(manifest: Mapping[str, Any]) -> str:
    """The text of `README.md` for the version that `manifest` describes; parts it knows nothing of are left out."""
    sections = [
        _front_matter(manifest),
        _introduction(manifest),
        _scores(manifest),
        _data(manifest),
        _use(manifest),
        _training(manifest),
        _provenance(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: Mapping[str, Any]) -> str:
    # JSON strings are YAML, whatever is in them.
    base = json.dumps(manifest["base"]["id"], ensure_ascii=False)
    tags = ("lora", "function-calling", "functiongemma", "fgpipe")
    lines = ["---", f"base_model: {base}", "base_model_relation: adapter", "library_name: peft"]
    return "\n".join([*lines, "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags), "---"])


def _introduction(manifest: Mapping[str, Any]) -> str:
    name, version, base = manifest["name"], manifest["version"], manifest["base"]["id"]
    lines = [f"# {name} {version}", "", f"A LoRA adapter that makes `{base}` call the functions of the task `{name}`."]
    instruction = manifest.get("instruction")
    if instruction:
        quoted = "\n".join(f"> {line}" for line in instruction.splitlines())
        lines += ["", "It was trained, and expects to be asked, with this developer sentence:", "", quoted]
    return "\n".join(lines)


def _scores(manifest: Mapping[str, Any]) -> str:
    scores = manifest.get("scores") or {}
    adapter, base = scores.get("adapter") or {}, scores.get("base") or {}
    if not adapter:
        return "## Scores\n\nNot scored."
    confidence = manifest.get("config", {}).get("evaluate", {}).get("confidence", 0.95)
    rows = [(name, _score(base.get(name)), _score(score), str(score.get("n", ""))) for name, score in adapter.items()]
    held_out = f"{scores['rows']} held-out rows" if "rows" in scores else "Held-out rows"
    what = f"{held_out}; in brackets the {confidence:.0%} interval."
    return f"## Scores\n\n{what}\n\n{_table(('metric', 'base', 'this adapter', 'n'), rows)}"


def _score(score: Mapping[str, Any] | None) -> str:
    if not score or score.get("value") is None:
        return "–"
    interval = (
        f" [{score['low']:.1%}, {score['high']:.1%}]" if None not in (score.get("low"), score.get("high")) else ""
    )
    return f"{score['value']:.1%}{interval}"


def _data(manifest: Mapping[str, Any]) -> str:
    data = manifest.get("data") or {}
    source = (manifest.get("task") or {}).get("dataset", {}).get("source")
    rows = ([("source", f"`{source}`")] if source else []) + [(str(key), f"`{value}`") for key, value in data.items()]
    return f"## Data\n\n{_table(('', ''), rows)}" if rows else ""


def _use(manifest: Mapping[str, Any]) -> str:
    name, version, base = manifest["name"], manifest["version"], manifest["base"]["id"]
    rank = _server_rank(manifest["adapter"])
    return f"""## Use

With fgpipe's server, which serves every published adapter: ask for the model `{name}` (always the live version) or
`{name}@{version}` (always this one).

    python -m fgpipe serve

With vLLM alone:

    vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}=adapters/{name}/{version}

With transformers and PEFT:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("{base}")
    model = PeftModel.from_pretrained(model, "adapters/{name}/{version}")"""


def _server_rank(adapter: Mapping[str, Any]) -> int:
    rank = max([adapter["r"], *(adapter.get("rank_pattern") or {}).values()])
    return next((legal for legal in VLLM_LORA_RANKS if legal >= rank), rank)


def _training(manifest: Mapping[str, Any]) -> str:
    config, figures = manifest.get("config") or {}, manifest.get("training") or {}
    rows = [
        (f"{section}.{key}", _plain(config[section][key]))
        for section, keys in SETTINGS_SHOWN.items()
        for key in keys
        if config.get(section, {}).get(key) is not None
    ]
    rows += [(key, _plain(value)) for key, value in figures.items()]
    return f"## Training\n\n{_table(('', ''), rows)}" if rows else ""


def _provenance(manifest: Mapping[str, Any]) -> str:
    base = manifest["base"]
    rows = [
        ("published", manifest["created"]),
        ("base", f"`{base['id']}`" + (f" at `{base['revision']}`" if base.get("revision") else "")),
        *([("base fingerprint", f"`{base['fingerprint']}`")] if base.get("fingerprint") else []),
        ("content", f"`{manifest['content']}`"),
        *([("code", f"`{manifest['git']}`")] if manifest.get("git") else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())),
        ("parity with the server", _parity(manifest["parity"])),
    ]
    return f"## Provenance\n\n{_table(('', ''), rows)}\n\nThe whole configuration is in `manifest.json`."


def _parity(found: Mapping[str, Any] | str) -> str:
    """A report in a line, or why there is none."""
    return found if isinstance(found, str) else str(found.get("line") or found.get("verdict"))


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
