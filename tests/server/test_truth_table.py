"""Every kind of adapter, sound and damaged: what vLLM makes of it, what the rules say, what comparing answers says.

`docs/truth-table.md` is this table; `make truth-table` writes it anew.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny_random
from fgpipe.config import ModelConfig, ServerConfig
from fgpipe.errors import EvaluationError
from fgpipe.serving import VllmServer, installed_build
from fgpipe.serving.command import serve_command
from fgpipe.validation import parity, validate
from tiny_server import SHAPE, free_port
from truth_cases import CASES, CONTRACT, Case

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.filterwarnings("default")]

GOLDEN = Path(__file__).parents[2] / "docs" / "truth-table.md"

PROMPTS = [
    f"<bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"
    for question in ("turn it up", "7 times 8", "Who am I?")
]

RIGHT = "answers as trained"

INTRODUCTION = """\
{count} adapters, {sound} of them sound, against vLLM 0.32.0 (CPU build, float32, `--max-lora-rank 32`) over a random
Gemma 3 of three layers. *vLLM*: what the server does, found by the test itself: its log-probs against those of
transformers and PEFT with the adapter as it was before any damage. *Rules*: `python -m fgpipe validate PATH`. *Live*:
what `--live` adds. *Accepted*: both are content. In lines that begin with *served* the server reads other files than
were trained, which no rule on files can see. `make truth-table` writes this; a test holds it against a real server."""

TOLERANCE = 1e-3
"""Of the test's own comparison, nats; sound adapters differ by 1e-4 in float32."""


@dataclass(frozen=True)
class Line:
    """What was found of one adapter."""

    case: Case
    server: str
    rules: str
    live: str

    @property
    def accepted(self) -> bool:
        """Whether fgpipe would publish it."""
        return self.rules == "pass" and self.live == "same as trained"


class Truth:
    """What the server does with a folder, found with none of fgpipe's own code: PEFT, HTTP and a subtraction."""

    def __init__(self, url: str, model: ModelConfig) -> None:
        text = tiny_random.tokenizer()
        self.url, self.model = url, model
        self.ids = [text(prompt + "abc(7) ok", add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
        self.base = self.served(model.id)

    def load(self, name: str, folder: Path) -> bool:
        """Whether the server accepts the folder."""
        try:
            self._post("load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except urllib.error.HTTPError:
            return False
        return True

    def unload(self, name: str) -> None:
        self._post("unload_lora_adapter", {"lora_name": name})

    def served(self, name: str) -> list[float]:
        """Log-probs of every prompt token."""
        body = {"model": name, "prompt": self.ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choices = json.loads(self._post("completions", body))["choices"]
        return [
            place[str(token)]["logprob"]
            for choice, ids in zip(choices, self.ids, strict=True)
            for place, token in zip(choice["prompt_logprobs"][1:], ids[1:], strict=True)
        ]

    def trained(self, folder: Path) -> list[float]:
        """The same by transformers and PEFT."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.model.path, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(folder)).eval()
        found: list[float] = []
        with torch.inference_mode():
            for ids in self.ids:
                rows = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                found += [float(rows[place, token]) for place, token in enumerate(ids[1:])]
        return found

    def verdict(self, name: str, served: Path, trained: Path) -> str:
        """In words; leaves `name` loaded if the server took it."""
        if not self.load(name, served):
            return "refuses to load"
        try:
            found = self.served(name)
        except urllib.error.HTTPError as error:
            return "loads, answers NaN" if "not JSON compliant" in error.read().decode() else "loads, answers errors"
        if apart(found, self.trained(trained)) <= TOLERANCE:
            return RIGHT
        return "loads, the base answers" if apart(found, self.base) == 0 else "loads, answers wrongly"

    def _post(self, path: str, body: dict[str, Any]) -> str:
        request = urllib.request.Request(
            f"{self.url}/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return str(answer.read().decode())


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[VllmServer, ModelConfig]]:
    """VLLM as it comes, over a random base: without our plugin, so that its own way to load a folder is open."""
    model = tiny_random.save(folder / "base", shape=SHAPE)
    config = ServerConfig(port=free_port(), max_model_len_tokens=512, max_num_seqs=16, max_lora_rank=32, max_loras=2)
    server = VllmServer(model, config, adapters=folder / "adapters", log=folder / "vllm.log")
    # vLLM as it is, its own route for loading any folder included; our plugin closes that.
    build = installed_build()
    server.command = serve_command(model, config, adapters=folder / "adapters", build=build, plugin=False)
    server.variables |= {"VLLM_PLUGINS": "", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with server:
        yield server, model


def rules_say(folder: Path) -> str:
    failed = [finding.rule for finding in validate(folder, CONTRACT) if finding.status == "fail"]
    return f"fail: {', '.join(failed)}" if failed else "pass"


def live_says(url: str, model: ModelConfig, name: str, trained: Path) -> str:
    try:
        known = parity.reference(model, trained, PROMPTS, answer_tokens=12)
    except EvaluationError:
        return "PEFT cannot answer with it"
    return parity.compare(known, base_url=url, served=name, served_base=model.id, dtype="float32").verdict


def judge(truth: Truth, number: int, case: Case, folder: Path) -> Line:
    """Write, serve and judge one adapter."""
    name = f"case-{number:02d}"
    served, trained = case.write(folder / f"{name}-served"), case.write_trained(folder / f"{name}-trained")
    server = truth.verdict(name, served, trained)
    line = Line(
        case, server, rules_say(served), live_says(truth.url, truth.model, name, trained if case.replaced else served)
    )
    if server != "refuses to load":
        truth.unload(name)
    return line


def fill(folder: Path) -> list[Line]:
    """The whole table."""
    with serving(folder) as (server, model):
        truth = Truth(server.base_url, model)
        return [judge(truth, number, case, folder) for number, case in enumerate(CASES)]


def render(lines: Sequence[Line]) -> str:
    """The table as Markdown."""
    sound = sum(line.case.sound for line in lines)
    rows = [
        f"| {line.case.name} | {line.server} | {line.rules} | {line.live} | {'yes' if line.accepted else 'no'} |"
        for line in lines
    ]
    return "\n".join(
        [
            "# Truth table",
            "",
            INTRODUCTION.format(count=len(lines), sound=sound),
            "",
            "| adapter | vLLM | rules | live | accepted |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    return fill(tmp_path_factory.mktemp("truth"))


def test_nothing_is_accepted_that_the_server_refuses_or_answers_wrongly(table: list[Line]) -> None:
    """A publish would succeed and users would get errors, or the base's answers, under the adapter's name."""
    print(render(table))
    assert len(table) >= 40
    assert [line for line in table if line.accepted and line.server != RIGHT] == []
    assert [line for line in table if line.accepted and not line.case.sound] == []


def test_no_sound_adapter_is_refused(table: list[Line]) -> None:
    """A user could not publish an adapter that works."""
    sound = [line for line in table if line.case.sound]
    assert [line for line in sound if line.server != RIGHT] == [], "the case is not what it is meant to be"
    assert [line for line in sound if not line.accepted] == []


def test_the_comparison_alone_never_passes_a_wrong_answer(table: list[Line]) -> None:
    """Where the rules have a gap, nothing would be left to find a wrong adapter."""
    assert [line for line in table if line.live == "same as trained" and line.server != RIGHT] == []


def test_rules_alone_find_what_files_can_show(table: list[Line]) -> None:
    """Without a running server, a damaged folder would be published."""
    assert [line for line in table if line.rules == "pass" and not line.case.sound and not line.case.replaced] == []


def test_table_in_the_documentation_is_what_was_found(table: list[Line]) -> None:
    """The documentation would promise verdicts that this version does not give: `make truth-table` writes it anew."""
    assert render(table) == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(render(fill(Path(scratch))), encoding="utf-8")
    print(GOLDEN.read_text(encoding="utf-8"))
