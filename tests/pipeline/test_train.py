"""The train stage on a small random model: what it learns, writes, resumes and refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_random
from fgpipe.artifacts import Adapter, FormattedDataset
from fgpipe.config import LoraConfig, ModelConfig, TrainConfig
from fgpipe.errors import TrainingError
from fgpipe.training import stage, trl_backend
from fgpipe.training.fast.engine import Engine
from fgpipe.training.trainer import AdapterTrainer, Collator
from machines import CPU

pytestmark = pytest.mark.usefixtures("one_thread")

BACKENDS = ("trl", "fast")
LORA = LoraConfig(r=4, lora_alpha=8)
QUICK = TrainConfig(
    backend="trl", batch_size=8, max_steps=7, learning_rate=1e-2, log_every_steps=1, checkpoint_every_steps=2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FormattedDataset:
    """21 rows: the last step of an epoch is incomplete."""
    return tiny_random.formatted(tmp_path_factory.mktemp("data") / "format", tiny_random.toy_rows(21))


def weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    return load_file(adapter.path / "adapter_model.safetensors")


def metrics(adapter: Adapter) -> list[dict[str, float]]:
    return [json.loads(line) for line in (adapter.path / "metrics.jsonl").read_text().splitlines()]


def largest_difference(left: Adapter, right: Adapter) -> float:
    one, other = weights(left), weights(right)
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def settings(backend: str) -> tuple[LoraConfig, TrainConfig]:
    """Those of QUICK; with dropout where there is any, since it must be resumed too."""
    dropout = 0.1 if backend == "trl" else 0.0
    return LORA.model_copy(update={"lora_dropout": dropout}), QUICK.model_copy(update={"backend": backend})


@pytest.fixture(scope="module", params=BACKENDS)
def uninterrupted(
    request: pytest.FixtureRequest,
    data: FormattedDataset,
    base_model: ModelConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Adapter:
    torch.set_num_threads(1)
    lora, config = settings(request.param)
    return stage.train(data, base_model, lora, config, seed=0, out=tmp_path_factory.mktemp("run") / "train")


def made_with(adapter: Adapter) -> tuple[LoraConfig, TrainConfig]:
    return settings(adapter.manifest["config"]["train"]["backend"])


def test_both_back_ends_train_the_same_adapter(data: FormattedDataset, base_model: ModelConfig, tmp_path: Path) -> None:
    """Which machine a user trains on must decide nothing but the time: start, rows, loss, schedule and optimizer."""
    config = QUICK.model_copy(update={"max_steps": 40, "log_every_steps": 5, "weight_decay": 0.1})
    lora = LORA.model_copy(update={"use_rslora": True})
    trl, fast = (
        stage.train(
            data, base_model, lora, config.model_copy(update={"backend": backend}), seed=0, out=tmp_path / backend
        )
        for backend in BACKENDS
    )
    assert largest_difference(trl, fast) < 1e-5
    for file in ("adapter_config.json", "manifest.json"):
        assert (trl.path / file).is_file()
    assert (trl.path / "adapter_config.json").read_text() == (fast.path / "adapter_config.json").read_text()
    timing = ("tokens_per_s",)
    for one, other in zip(metrics(trl), metrics(fast), strict=True):
        assert {k: v for k, v in one.items() if k not in timing} == pytest.approx(
            {k: v for k, v in other.items() if k not in timing}, rel=1e-4
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_learns(backend: str, data: FormattedDataset, base_model: ModelConfig, tmp_path: Path) -> None:
    """A run that does not lower the loss on a rule of four words trains nothing."""
    lora, config = settings(backend)
    config = config.model_copy(update={"max_steps": 40, "log_every_steps": 5})
    lines = metrics(stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "train"))
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_same_seed_same_adapter(
    uninterrupted: Adapter, data: FormattedDataset, base_model: ModelConfig, tmp_path: Path
) -> None:
    """Otherwise no result could be repeated, and the seed would mean nothing."""
    lora, config = made_with(uninterrupted)
    again = stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "again")
    other = stage.train(data, base_model, lora, config, seed=1, out=tmp_path / "other")
    assert largest_difference(uninterrupted, again) == 0.0
    assert again.fingerprint == uninterrupted.fingerprint
    assert largest_difference(uninterrupted, other) > 0.0


def stop_in_step_six(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after five steps, with either back end."""
    clip, run = AdapterTrainer._clip_grad_norm, Engine.run

    def trl_step(self: Any, model: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return clip(self, model)

    def fast_step(self: Any, packed: Any, updates: Any) -> None:
        if any(update.number == 6 for update in updates.values()):
            raise KeyboardInterrupt
        run(self, packed, updates)

    monkeypatch.setattr(AdapterTrainer, "_clip_grad_norm", trl_step)
    monkeypatch.setattr(Engine, "run", fast_step)


def test_stopped_run_ends_where_an_uninterrupted_one_ends(
    uninterrupted: Adapter,
    data: FormattedDataset,
    base_model: ModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A user who presses Ctrl-C, or whose machine dies, must lose time alone: rows, dropout and schedule go on."""
    lora, config = made_with(uninterrupted)
    stop_in_step_six(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "train")
    assert not (tmp_path / "train").exists()
    monkeypatch.undo()
    resumed = stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "train")
    assert "resuming from step 4 of 7" in capsys.readouterr().err
    assert largest_difference(uninterrupted, resumed) == 0.0
    assert [line["step"] for line in metrics(resumed)] == [1, 2, 3, 4, 5, 6, 7]
    assert not (tmp_path / "train.checkpoints").exists()


@pytest.mark.parametrize(("batch_size", "gradient_accumulation"), [(4, 2), (1, 8)])
def test_accumulation_does_not_change_the_result(
    batch_size: int, gradient_accumulation: int, data: FormattedDataset, base_model: ModelConfig, tmp_path: Path
) -> None:
    """Less memory must not mean another loss: each labelled token of a step weighs the same, however it is cut."""
    cut = QUICK.model_copy(update={"batch_size": batch_size, "gradient_accumulation": gradient_accumulation})
    whole = stage.train(data, base_model, LORA, QUICK, seed=0, out=tmp_path / "whole")
    pieces = stage.train(data, base_model, LORA, cut, seed=0, out=tmp_path / "pieces")
    assert largest_difference(whole, pieces) < 1e-5


def test_passes_that_hold_less_than_a_step_do_not_change_the_result(
    data: FormattedDataset, base_model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast back end cuts steps to fit the memory of the machine it finds."""
    lora, config = settings("fast")
    whole = stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "whole")
    monkeypatch.setattr("fgpipe.training.plan.PASS_TOKENS", 256)
    pieces = stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "pieces")
    passes = [json.loads((adapter.path / "plan.json").read_text())["pass_tokens"] for adapter in (whole, pieces)]
    assert passes == [512, 256]
    assert largest_difference(whole, pieces) < 1e-5


def test_gradient_checkpointing_does_not_change_the_result(
    data: FormattedDataset, base_model: ModelConfig, tmp_path: Path
) -> None:
    """It trades time for memory, nothing else."""
    config = QUICK.model_copy(update={"gradient_checkpointing": True})
    without = stage.train(data, base_model, LORA, QUICK, seed=0, out=tmp_path / "without")
    checkpointed = stage.train(data, base_model, LORA, config, seed=0, out=tmp_path / "with")
    assert largest_difference(without, checkpointed) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_infinite_loss_stops_the_run(
    backend: str, data: FormattedDataset, base_model: ModelConfig, tmp_path: Path
) -> None:
    """Otherwise an adapter of NaN would be written, scored and perhaps published."""
    lora, config = settings(backend)
    config = config.model_copy(update={"learning_rate": 1e30, "warmup_fraction": 0.0, "checkpoint_every_steps": 1})
    with pytest.raises(TrainingError, match=r"step \d of 7: got loss .*nan") as caught:
        stage.train(data, base_model, lora, config, seed=0, out=tmp_path / "train")
    assert "train.learning_rate" in caught.value.hint
    assert not (tmp_path / "train").exists()
    kept = list((tmp_path / "train.checkpoints").glob("*/complete.json"))
    assert kept
    assert all(
        tensor.isfinite().all()
        for path in kept
        for file in path.parent.glob("*.safetensors")
        for tensor in load_file(file).values()
    )


def test_folder_holds_an_adapter_and_nothing_else(uninterrupted: Adapter, base_model: ModelConfig) -> None:
    """VLLM refuses unknown tensors, and a local path as base name would tie the adapter to this machine."""
    assert {path.name for path in uninterrupted.path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "metrics.jsonl",
        "plan.json",
    }
    config = json.loads((uninterrupted.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base_model.id
    assert config["inference_mode"] is True
    assert config["target_modules"] == sorted(LORA.target_modules)
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (4, 8, None)
    found = weights(uninterrupted)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in found)
    planned = json.loads((uninterrupted.path / "plan.json").read_text())
    assert sum(tensor.numel() for tensor in found.values()) == planned["trainable_parameters"]
    on_gpu = planned["device"] == "cuda"
    assert isinstance(planned["peak_bytes"], int) if on_gpu else planned["peak_bytes"] is None


def test_metrics_have_a_line_a_logging_step(uninterrupted: Adapter) -> None:
    """Reports and plots read these names."""
    lines = metrics(uninterrupted)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert all(
        line.keys() == {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_s"}
        for line in lines
    )
    assert all(earlier["tokens"] < later["tokens"] for earlier, later in itertools.pairwise(lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_mask": [[0, 0, 0]]}, "row a: got no token in the loss"),
        ({"loss_mask": [[1, 0, 0]]}, "row a: got no token in the loss"),
        ({"loss_mask": [[0, 1]]}, "row a: got a loss mask of 2 entries, expected 3"),
        ({"input_ids": [[2] * 20], "loss_mask": [[1] * 20]}, "row a: got 20 tokens, expected at most"),
        ({"id": [], "input_ids": [], "loss_mask": []}, "got no training rows"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(change: dict[str, list[Any]], message: str) -> None:
    """A row without a labelled token, or one cut silently, would spoil training unseen."""
    columns = {"id": ["a"], "input_ids": [[2, 9, 9]], "loss_mask": [[0, 0, 1]]} | change
    with pytest.raises(TrainingError, match=message):
        stage.check_rows(columns, TrainConfig(max_length_tokens=16))


@pytest.fixture
def trainer(data: FormattedDataset, base_model: ModelConfig, tmp_path: Path) -> AdapterTrainer:
    """Ready to train, with B away from its initial zeros, so that gradients reach A."""
    run = stage.prepare(
        data, base_model, LORA, QUICK, seed=0, name="train", out=tmp_path / "train", machine=CPU, backend="trl"
    )
    built = trl_backend.build_trainer(run)
    generator = torch.Generator().manual_seed(0)
    for name, weight in built.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0.0, 0.1, generator=generator)
    return built


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def batch(data: FormattedDataset, rows: list[int]) -> dict[str, torch.Tensor]:
    columns = data.training_columns()
    examples = []
    for row in rows:
        ids, mask = columns["input_ids"][row], columns["loss_mask"][row]
        examples.append({"input_ids": ids, "labels": [i if m else -100 for i, m in zip(ids, mask, strict=True)]})
    return Collator(pad_id=0)(examples)


def test_collator_adds_no_token(data: FormattedDataset) -> None:
    """A second <bos> or a stray <eos> would train a format the server never sees."""
    columns, made = data.training_columns(), batch(data, [0, 1, 2])
    for place, row in enumerate([0, 1, 2]):
        ids = columns["input_ids"][row]
        assert made["input_ids"][place].tolist() == ids + [0] * (made["input_ids"].shape[1] - len(ids))
        learnt = [i for i, m in zip(ids, columns["loss_mask"][row], strict=True) if m]
        assert [label for label in made["labels"][place].tolist() if label != -100] == learnt


def test_loss_and_gradients_are_those_of_transformers(trainer: AdapterTrainer, data: FormattedDataset) -> None:
    """Our loss skips prompt positions and the attention mask; both must change nothing but the time it takes."""
    inputs = batch(data, [0, 1, 2, 3, 4])
    count = (inputs["labels"][:, 1:] != -100).sum()
    ours = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)
    found = gradients(trainer.model, ours)
    attention_mask = torch.tensor([[int(token != 0) for token in row] for row in inputs["input_ids"].tolist()])
    logits = trainer.model(input_ids=inputs["input_ids"], attention_mask=attention_mask).logits
    reference = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
    expected = gradients(trainer.model, reference)
    assert ours.item() == pytest.approx(reference.item(), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6), name


def test_only_the_adapter_has_gradients(trainer: AdapterTrainer, data: FormattedDataset) -> None:
    """A trained base weight would be lost, as only the adapter is saved."""
    inputs = batch(data, [0, 1])
    found = gradients(trainer.model, trainer.compute_loss(trainer.model, inputs, num_items_in_batch=torch.tensor(9)))
    assert found
    assert all(".lora_A." in name or ".lora_B." in name for name in found)
    frozen = [name for name, weight in trainer.model.named_parameters() if not weight.requires_grad]
    assert not any("lora_" in name for name in frozen)


def test_what_follows_the_last_labelled_token_has_no_effect(trainer: AdapterTrainer, data: FormattedDataset) -> None:
    """Padding and text behind the answer must not leak into what is learnt."""
    inputs = batch(data, [0, 1, 2])
    count = (inputs["labels"] != -100).sum()
    before = gradients(trainer.model, trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count))
    longer = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 5), value=200),
        "labels": torch.nn.functional.pad(inputs["labels"], (0, 5), value=-100),
    }
    longer["input_ids"][longer["input_ids"] == 0] = 201
    after = gradients(trainer.model, trainer.compute_loss(trainer.model, longer, num_items_in_batch=count))
    for name, gradient in before.items():
        assert torch.allclose(after[name], gradient, rtol=1e-4, atol=1e-6), name
