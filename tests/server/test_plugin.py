"""What vLLM calls in our plugin, called without a server; the real server is in tests/server."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import shlex
import shutil
import subprocess
import warnings
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import calls, outputs
from tiny_server import chat_tools
from wrong_answers import mutated

# Kept out of tests/unit: importing vLLM takes seconds and changes torch's settings for the whole process.
pytestmark = pytest.mark.server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and vLLM warn of their own deprecations while they are imported
    from fgpipe import adapters_folder, vllm_plugin
    from fgpipe.config import ModelConfig, ServerConfig
    from fgpipe.errors import PublishError
    from fgpipe.functiongemma import ToolCall, render_call
    from fgpipe.serving import serve_command
    from fgpipe.vllm_plugin.catalogue import Catalogue
    from fgpipe.vllm_plugin.metrics import counters
    from fgpipe.vllm_plugin.tool_parser import FgpipeToolParser

CALL = ToolCall(
    "audio.set-volume",
    {"label": 'say "12" <end_function_call>', "level": 5, "mute": True, "none": None, "steps": [1, 2.5, {"a": "3"}]},
)
CALLS = render_call(CALL) + render_call(ToolCall("ping", {}))
REQUEST = SimpleNamespace(model="sql", tools=chat_tools(), tool_choice="auto", parallel_tool_calls=True)

OUTPUTS = [
    CALLS,
    f"Sure.  {CALLS}\n",
    f"{CALLS}<start_function_response>",
    "I cannot do that: 1 < 2, and <start_ is no tag.<end_of_turn>",
    f"{CALLS}<start_function_call>call:ping{{level:",
    "<start_function_call>call:ping{}<end_function",
    "<start_function_call>call:pi ng<end_function_call> then",
    "<",
    "",
]


def publish(adapters: Path, name: str, *versions: str, current: str, **aliases: str) -> None:
    """Empty files in the published layout."""
    for version in versions:
        (adapters / name / version).mkdir(parents=True, exist_ok=True)
        for file in (*adapters_folder.ADAPTER_FILES, adapters_folder.MANIFEST_FILE):
            (adapters / name / version / file).write_text("{}")
    (adapters / name / adapters_folder.CHANNEL_FILE).write_text(json.dumps({"current": current, "aliases": aliases}))


def batch(text: str, request: Any = REQUEST) -> tuple[list[tuple[str, str]], str]:
    """Calls and content of `text`, read whole."""
    found = FgpipeToolParser(None).extract_tool_calls(text, request)
    assert found.tools_called == bool(found.tool_calls)
    return [(call.function.name, call.function.arguments) for call in found.tool_calls], found.content or ""


def streamed(pieces: list[str], request: Any = REQUEST) -> tuple[list[tuple[str, str]], str]:
    """Calls and content of the joined deltas, as an OpenAI client joins them."""
    parser = FgpipeToolParser(None)
    deltas = [parser.extract_tool_calls_streaming("", "", piece, (), (), (), request) for piece in pieces]
    calls: list[tuple[str, str]] = []
    content = ""
    for delta in [*deltas, parser.finish_streaming()]:
        if delta is None:
            continue
        sent = delta.model_dump(exclude_unset=True)
        assert sent, "an empty delta"
        content += sent.get("content", "")
        for call in sent.get("tool_calls", ()):
            assert call["index"] == len(calls)
            assert call["type"] == "function"
            assert call["id"]
            json.loads(call["function"]["arguments"])
            calls.append((call["function"]["name"], call["function"]["arguments"]))
    return calls, content


@pytest.mark.parametrize("build", ["gpu", "cpu"])
def test_vllms_own_reader_of_flags_understands_the_command(build: Any) -> None:
    """A flag that this vLLM does not have would be found only on the machine that has the GPU."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    config = ServerConfig(max_num_batched_tokens=4096, prefix_caching=False, gpu_memory_utilization=0.25)
    command = serve_command(ModelConfig(revision="a" * 40), config, adapters=Path("adapters"), build=build)
    flags = command[command.index("serve") + 1 if build == "gpu" else 3 :]  # after `python -m <module>`
    read = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    assert {"gpu": read.model_tag, "cpu": read.model}[build] == ModelConfig().id
    assert (read.revision, read.max_num_batched_tokens, read.enable_prefix_caching) == ("a" * 40, 4096, False)
    assert (read.enable_lora, read.max_lora_rank, read.max_loras, read.max_cpu_loras) == (True, 32, 8, 32)
    assert read.override_generation_config == {"temperature": 0.0}
    if build == "gpu":
        assert read.gpu_memory_utilization == 0.25


def test_vllms_own_reader_of_flags_understands_a_model_of_several() -> None:
    """The same, for serve/model.sh with every variable that it has."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.tool_parsers import ToolParserManager
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    variables = {"ID": "a/b", "REVISION": "c" * 40, "PORT": "8003", "GPU_MEMORY_UTILIZATION": "0.25"}
    variables |= {"MAX_MODEL_LEN_TOKENS": "512", "MAX_NUM_SEQS": "4", "MAX_NUM_BATCHED_TOKENS": "1024"}
    variables |= {"DTYPE": "bfloat16", "ENFORCE_EAGER": "true", "TOOL_PARSER": "hermes", "PRINT": "1"}
    script = Path(__file__).parents[2] / "serve" / "model.sh"
    given = {f"MODEL_{name}": value for name, value in variables.items()}
    done = subprocess.run([script], env={"PATH": "/usr/bin:/bin", **given}, capture_output=True, text=True, check=True)
    words = shlex.split(done.stdout)
    read = make_arg_parser(FlexibleArgumentParser()).parse_args(words[words.index("serve") + 1 :])
    assert (read.model_tag, read.revision, read.port, read.gpu_memory_utilization) == ("a/b", "c" * 40, 8003, 0.25)
    assert (read.max_model_len, read.max_num_seqs, read.max_num_batched_tokens) == (512, 4, 1024)
    assert (read.dtype, read.enforce_eager, read.enable_auto_tool_choice) == ("bfloat16", True, True)
    assert read.tool_call_parser in ToolParserManager.list_registered()


def test_calls_keep_their_types() -> None:
    """Numbers, booleans, nulls, lists and objects would reach the tool as text, or not at all."""
    calls, content = batch(CALLS)
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [(CALL.name, CALL.arguments), ("ping", {})]
    assert content == ""


@pytest.mark.parametrize("text", OUTPUTS)
def test_streaming_gives_what_the_whole_answer_gives_wherever_it_is_cut(text: str) -> None:
    """A tag that arrives in two pieces would leak into the prose, or a call be lost."""
    whole = batch(text)
    for cut in range(len(text) + 1):
        assert streamed([text[:cut], text[cut:]]) == whole
    assert streamed(list(text)) == whole


@given(outputs(), st.lists(st.integers(0, 200), max_size=6))
def test_any_output_streams_as_it_reads(text: str, cuts: list[int]) -> None:
    """Some malformed answer would crash the stream, or read differently with `stream=true`."""
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    assert streamed([text[start:end] for start, end in pairwise(places)]) == batch(text)


@given(calls(), calls())
@settings(deadline=None, max_examples=30)
def test_calls_stream_as_they_read_at_every_split_point(first: ToolCall, second: ToolCall) -> None:
    """A call would be lost, doubled or changed if a piece of the stream happens to end inside it."""
    text = f"Well. {render_call(first)}{render_call(second)}<start_function_response>"
    whole = batch(text)
    assert len(whole[0]) == 2
    for cut in range(len(text) + 1):
        assert streamed([text[:cut], text[cut:]]) == whole


TYPED = "<start_function_call>call:audio.set-volume{{{}}}<end_function_call>"


@pytest.mark.parametrize(
    ("said", "expected", "repairs", "violations"),
    [
        ("level:<escape>5<escape>", {"level": 5}, 1, 0),
        ("label:5,level:5", {"label": "5", "level": 5}, 1, 0),
        ("label:1.50,level:5.0", {"label": "1.50", "level": 5}, 2, 0),
        ("label:loud,level:5,mute:<escape>true<escape>", {"label": "loud", "level": 5, "mute": True}, 2, 0),
        ("level:5,options:{steps:[<escape>1<escape>,2]}", {"level": 5, "options": {"steps": [1, 2]}}, 1, 0),
        ("level:<escape>five<escape>", {"level": "five"}, 0, 1),
        ("level:2.5,mute:1", {"level": 2.5, "mute": 1}, 0, 1),
        ("mute:true,other:1", {"mute": True, "other": 1}, 0, 1),
    ],
)
def test_arguments_get_their_declared_type_and_each_repair_is_counted(
    said: str, expected: dict[str, Any], repairs: int, violations: int
) -> None:
    """A tool would be handed text for a number, or nobody would see that a model gets its types wrong."""
    model = f"model of {said}"
    request = SimpleNamespace(model=model, tools=chat_tools(), tool_choice="auto")
    (whole,), (pieces,) = batch(TYPED.format(said), request)[0], streamed(list(TYPED.format(said)), request)[0]
    assert whole == pieces
    assert repr(json.loads(whole[1])) == repr(expected)
    counted = {name: counter.labels(model)._value.get() for name, counter in vars(counters()).items()}
    assert counted["calls"] == 2
    assert (counted["repairs"], counted["schema_violations"]) == (2 * repairs, 2 * violations)


@pytest.mark.slow
def test_thousands_of_broken_answers_stream_as_they_read() -> None:
    """Some malformed answer would crash a request, hang the server, or read differently with `stream=true`."""
    random = Random(20261126)
    for _ in range(5000):
        text = mutated(random)
        cut = random.randrange(len(text) + 1)
        assert streamed([text[:cut], text[cut:]]) == batch(text)


def test_a_broken_call_is_counted() -> None:
    """Nobody would see that an adapter's calls are cut off by max_tokens."""
    request = SimpleNamespace(model="cut", tools=chat_tools(), tool_choice="auto")
    batch("<start_function_call>call:ping{", request)
    streamed(list("<start_function_call>pong<start_function_call>call:ping{"), request)
    assert counters().parse_failures.labels("cut")._value.get() == 3


@pytest.mark.parametrize("text", [CALLS, "<start_function_call>call:f{a:", "plain <end_of_turn> text"])
def test_without_tools_text_is_left_as_it_is(text: str) -> None:
    """A client that parses raw text itself would find the calls cut out of it."""
    for request in (
        SimpleNamespace(tools=None, tool_choice="none"),
        SimpleNamespace(tools=chat_tools(), tool_choice="none"),
    ):
        assert batch(text, request) == ([], text)
        assert streamed(list(text), request) == ([], text)


def test_control_tokens_are_asked_for_when_tools_are_given() -> None:
    """VLLM would remove control tokens from the text before the parser sees it."""
    for tools, choice, expected in ((["any"], "auto", False), (["any"], "none", True), (None, "none", True)):
        request = SimpleNamespace(tools=tools, tool_choice=choice, skip_special_tokens=True, structured_outputs=None)
        assert FgpipeToolParser(None).adjust_request(request).skip_special_tokens is expected


def test_registering_twice_changes_nothing() -> None:
    """VLLM registers in every process and may do so again."""
    from vllm.tool_parsers import ToolParserManager

    vllm_plugin.register()
    vllm_plugin.register()
    assert ToolParserManager.get_tool_parser("fgpipe") is FgpipeToolParser


class Models:
    """What the catalogue uses of vLLM's OpenAIServingModels, and of its engine."""

    def __init__(self) -> None:
        self.lora_requests: dict[str, Any] = {}
        ids = itertools.count(1)
        self.lora_id_counter = SimpleNamespace(inc=lambda step: next(ids))
        self.engine_client = self
        self.loaded: list[str] = []
        self.broken = ""

    async def remove_lora(self, id_: int) -> None:
        self.removed = id_

    async def add_lora(self, request: Any) -> None:
        if self.broken and self.broken in request.lora_path:
            raise ValueError("half a file")
        self.loaded.append(request.lora_path)


def catalogue(adapters: Path) -> Catalogue:
    """A catalogue of `adapters` over `Models`, as a server has it."""
    made = Catalogue(Models(), adapters)
    made.install()
    return made


def take_up(known: Catalogue, name: str) -> Any:
    """What answers `name` after its pointer was read."""
    return asyncio.run(known.take_up(name))


def test_names_mean_version_folders(tmp_path: Path) -> None:
    """`sql@v0001` would give the live version, or a moved pointer go unseen, or equal paths stand for two versions."""
    publish(tmp_path, "sql", "v0001", "v0002", current="v0001", best="v0002")
    known = catalogue(tmp_path)
    assert take_up(known, "sql").lora_path == take_up(known, "sql@v0001").lora_path == str(tmp_path / "sql" / "v0001")
    assert take_up(known, "sql@best").lora_path == str(tmp_path / "sql" / "v0002")
    publish(tmp_path, "sql", current="v0002")
    assert take_up(known, "sql").lora_path == str(tmp_path / "sql" / "v0002")
    for name in ("nobody", "sql@v0009", "sql@worst", "../sql", str(tmp_path / "sql" / "v0001"), "sql/v0001", "", "@"):
        assert take_up(known, name) is None, name


def test_one_version_is_one_adapter_in_the_engine_by_whatever_name(tmp_path: Path) -> None:
    """VLLM tells adapters in a batch apart by name: an id too many of one name ends its engine."""
    publish(tmp_path, "sql", "v0001", "v0002", current="v0001", best="v0001")
    known = catalogue(tmp_path)
    first = [take_up(known, name) for name in ("sql", "sql@v0001", "sql@best")]
    publish(tmp_path, "sql", current="v0002")
    second = take_up(known, "sql")
    publish(tmp_path, "sql", current="v0001")
    first.append(take_up(known, "sql"))
    assert {(request.lora_name, request.lora_int_id) for request in first} == {("sql@v0001", 1)}
    assert (second.lora_name, second.lora_int_id) == ("sql@v0002", 2)
    assert known.answers()["sql"] == "sql@v0001"


def test_a_damaged_pointer_does_no_harm(tmp_path: Path) -> None:
    """One bad file would take down what answers, or answer every request for that adapter with an internal error."""
    publish(tmp_path, "sql", "v0001", current="v0001")
    known = catalogue(tmp_path)
    before = take_up(known, "sql")
    (tmp_path / "sql" / adapters_folder.CHANNEL_FILE).write_text("{")
    with pytest.raises(PublishError):
        take_up(known, "sql")
    assert known.models.lora_requests["sql"] is before
    assert take_up(known, "sql@v0001") is before


def test_taking_up_loads_first_and_swaps_then(tmp_path: Path) -> None:
    """A name would be dark while its new version loads, or for ever if that fails."""
    publish(tmp_path, "sql", "v0001", "v0002", "v0003", current="v0001")
    known = catalogue(tmp_path)
    for version in ("v0001", "v0001", "v0002"):
        publish(tmp_path, "sql", current=version)
        assert take_up(known, "sql").lora_path == str(tmp_path / "sql" / version)
    assert [Path(path).name for path in known.models.loaded] == ["v0001", "v0002"]
    publish(tmp_path, "sql", current="v0003")
    known.models.broken = "v0003"
    with pytest.raises(PublishError, match="half a file"):
        take_up(known, "sql")
    assert known.answers() == {"sql": "sql@v0002"}


def test_a_version_that_was_deleted_is_looked_up_anew(tmp_path: Path) -> None:
    """VLLM would read its files inside a batch, fail, and end for everybody."""
    publish(tmp_path, "sql", "v0001", "v0002", current="v0001")
    known = catalogue(tmp_path)
    take_up(known, "sql")
    assert "sql" in known.models.lora_requests
    publish(tmp_path, "sql", current="v0002")
    shutil.rmtree(tmp_path / "sql" / "v0001")
    assert "sql" not in known.models.lora_requests
    assert asyncio.run(known.resolve_lora("sql")).lora_name == "sql@v0002"


def test_a_drive_that_hiccups_drops_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network drive that fails for a moment would fail every request of every adapter, though all are in memory."""
    publish(tmp_path, "sql", "v0001", current="v0001")
    known = catalogue(tmp_path)
    take_up(known, "sql")

    def fail(*words: Any, **more: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "stat", fail)
    assert "sql" in known.models.lora_requests


def test_a_number_given_twice_is_another_adapter_in_the_engine(tmp_path: Path) -> None:
    """Weights and cached keys of a deleted version would answer for the one that took its number."""
    publish(tmp_path, "sql", "v0001", current="v0001")
    known = catalogue(tmp_path)
    first = take_up(known, "sql")
    (tmp_path / "sql/v0001/manifest.json").write_text('{"content": "another"}')
    second = take_up(known, "sql")
    assert first.lora_int_id != second.lora_int_id
    assert (first.lora_name, second.lora_name) == ("sql@v0001", "sql@v0001+another")
    assert take_up(known, "sql") is second


def test_a_server_that_looks_itself_takes_up_what_the_folder_says(tmp_path: Path) -> None:
    """In a container whose folder is filled from outside, nobody would tell the server of a new version."""
    publish(tmp_path, "sql", "v0001", "v0002", current="v0001")
    known = catalogue(tmp_path)

    async def run() -> dict[str, str]:
        await known.take_up("sql")
        watching = asyncio.create_task(known.watch(0.01))
        (tmp_path / "sql" / adapters_folder.CHANNEL_FILE).write_text("{")  # a fault does not end it
        await asyncio.sleep(0.05)
        publish(tmp_path, "sql", current="v0002")
        for _ in range(500):
            if known.answers()["sql"] == "sql@v0002":
                break
            await asyncio.sleep(0.01)
        watching.cancel()
        return known.answers()

    assert asyncio.run(run()) == {"sql": "sql@v0002"}


def test_servers_of_others_in_our_environment_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model's server would refuse to start, or render its conversations as FunctionGemma's."""
    from fgpipe.vllm_plugin.endpoint import AdminEndpoint, status

    monkeypatch.delenv(vllm_plugin.ADAPTERS_VARIABLE, raising=False)
    state = SimpleNamespace()
    asyncio.run(AdminEndpoint().init_state(None, state, SimpleNamespace(host="0.0.0.0")))
    assert vars(state) == {}
    request: Any = SimpleNamespace(app=SimpleNamespace(state=state))
    assert asyncio.run(status(request)).status_code == 409
