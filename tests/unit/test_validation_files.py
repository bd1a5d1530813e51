"""Validation of files as they come: cut, linked, special, odd bytes; never a crash, never a look outside."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import adapter_folders
from adapter_folders import CONTRACT, settings, statuses, tensors, write
from fgpipe.validation.static import validate


def test_missing_empty_and_cut_files_are_told_apart(tmp_path: Path) -> None:
    """Half a download would reach the server."""
    assert statuses(tmp_path / "nothing", "fail") == {"files"}
    assert statuses(write(tmp_path / "empty" / ".."), "fail") == set()
    folder = write(tmp_path / "config")
    (folder / "adapter_config.json").write_text('{"r": 4,')
    assert statuses(folder, "fail") == {"config_json"}
    (folder / "adapter_config.json").unlink()
    assert statuses(folder, "fail") == {"files"}
    folder = write(tmp_path / "weights")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert statuses(folder, "fail") == {"files"}
    (folder / "adapter_model.safetensors").unlink()
    assert statuses(folder, "fail") == {"files"}


HEADERS: dict[str, tuple[str, bytes]] = {
    "length beyond the file": ("expected a header of", b"\xff" * 8),
    "header of nothing": ("", struct.pack("<Q", 0) + b"12345678"),
    "git lfs": ("git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    "a page instead of a file": ("", b"<!DOCTYPE html><html></html>" * 20),
    "a pickle under the name": ("", b"PK\x03\x04" + b"\0" * 400),
}


@pytest.mark.parametrize("case", HEADERS)
def test_what_is_no_safetensors_file_is_said_in_a_line(tmp_path: Path, case: str) -> None:
    """A download that went wrong would look like a broken adapter, or crash."""
    said, content = HEADERS[case]
    (write(tmp_path) / "adapter_model.safetensors").write_bytes(content)
    finding = next(finding for finding in validate(tmp_path, CONTRACT) if finding.rule == "weights_file")
    assert finding.status == "fail"
    assert said in finding.message
    assert "\n" not in finding.message


@pytest.mark.parametrize(
    "change", ["overlap", "hole", "beyond", "negative", "twice", "dtype", "shape", "short", "nested", "long"]
)
def test_a_header_that_lies_is_found_out(tmp_path: Path, change: str) -> None:
    """Weights of one module would be read as another's, or memory that is not the file's."""
    content = adapter_folders.safetensors_bytes(tensors())
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    first, second = [entry for name, entry in header.items() if name != "__metadata__"][:2]
    text = ""
    if change == "overlap":
        second["data_offsets"] = first["data_offsets"]
    elif change == "hole":
        first["data_offsets"], first["shape"] = [0, 8], [2, 1]
    elif change == "beyond":
        first["data_offsets"] = [len(body), len(body) + first["data_offsets"][1]]
    elif change == "negative":
        first["data_offsets"] = [-4, 4]
    elif change == "twice":
        name = next(name for name in header if name != "__metadata__")
        text = json.dumps(header)[:-1] + f', "{name}": {json.dumps(first)}}}'
    elif change == "dtype":
        first["dtype"] = "F33"
    elif change == "shape":
        first["shape"] = [2**62, 2**62, 16]
    elif change == "short":
        body = body[:-1]
    elif change == "nested":
        header["deep"] = {"a": 1}
        text = json.dumps(header)[:-1] + ', "x": ' + "[" * 20000 + "]" * 20000 + "}"
    elif change == "long":
        text = json.dumps(header) + " " * (17 << 20)
    encoded = (text or json.dumps(header)).encode()
    (write(tmp_path) / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    assert "weights_file" in statuses(tmp_path, "fail")


CONFIGS = {
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(settings()).encode(),
    "utf-16": json.dumps(settings()).encode("utf-16"),
    "nested": b'{"r": ' + b"[" * 200 + b"]" * 200 + b"}",
    "deeply nested": b'{"r": ' + b"[" * 100000 + b"]" * 100000 + b"}",
    "endless number": b'{"r": ' + b"9" * 5000 + b"}",
    "two megabytes": json.dumps(settings(note="x" * (2 << 20))).encode(),
    "empty object cut": b"{",
    "nothing but blanks": b"   \n",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_no_reader_agrees_on_are_refused(tmp_path: Path, case: str) -> None:
    """The server would fail on a file that validation passed, or validation itself would crash."""
    (write(tmp_path) / "adapter_config.json").write_bytes(CONFIGS[case])
    assert statuses(tmp_path, "fail") == {"config_json"}


def test_an_empty_config_fails_what_it_lacks_and_nothing_else(tmp_path: Path) -> None:
    """The owner would be sent after a dozen faults instead of one."""
    assert statuses(write(tmp_path, config={}), "fail") == {"peft_type", "fields", "base_id"}


def test_a_repeated_setting_is_named_and_the_last_counts(tmp_path: Path) -> None:
    """PEFT and vLLM take the last; judging by another would give another verdict than theirs."""
    text = json.dumps(settings())
    (write(tmp_path) / "adapter_config.json").write_text(text[:-1] + ', "r": 64}')
    assert "config_json" in statuses(tmp_path, "warn")
    assert statuses(tmp_path, "fail") == {"rank", "ranks"}


def test_names_in_messages_cannot_steer_a_terminal_or_break_utf8(tmp_path: Path) -> None:
    """A stranger's file could write over the verdict, or printing it would crash."""
    odd = "\ud800\x1b[2J\n"
    write(tmp_path, config=settings(**{odd: 1, "alpha_pattern": {odd: float("inf")}, "peft_type": odd}))
    for finding in validate(tmp_path, CONTRACT):
        assert finding.message.isprintable()
        finding.message.encode()


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", ["outside", "dangling", "loop", "folder", "pipe", "device"])
def test_links_out_of_the_folder_and_special_files_are_not_opened(tmp_path: Path, file: str, kind: str) -> None:
    """A published folder could hold any file of the machine, or validation wait for ever on a pipe."""
    other = write(tmp_path / "other")
    path = write(tmp_path / "adapter") / file
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"outside": other / file, "dangling": "nowhere", "loop": path, "device": "/dev/zero"}[kind])
    assert "files" in statuses(path.parent, "fail")
    rule = "config_json" if file == "adapter_config.json" else "weights_file"
    assert rule in statuses(path.parent, "skip")


def test_links_inside_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    """An adapter reached through `latest -> v3` would be refused."""
    folder = write(tmp_path / "v3")
    (folder / "adapter_model.safetensors").rename(folder / "weights")
    (folder / "adapter_model.safetensors").symlink_to("weights")
    (tmp_path / "latest").symlink_to("v3")
    assert statuses(tmp_path / "latest", "fail") == set()


@pytest.mark.parametrize(
    "path", ["adapter/adapter_config.json", "nothing", "a\0b", "x" * 5000, "/dev/null", "loop", "\udcff"]
)
def test_whatever_a_path_names_gets_a_verdict(tmp_path: Path, path: str) -> None:
    """A script that validates many paths would stop at the first odd one."""
    write(tmp_path / "adapter")
    (tmp_path / "loop").symlink_to("loop")
    assert statuses(tmp_path / path, "fail") == {"files"}


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_cut_weights_file_never_passes(tmp_path: Path, share: float) -> None:
    """An adapter whose copying was interrupted would be served."""
    whole = adapter_folders.safetensors_bytes(tensors())
    folder = write(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(whole[: int(len(whole) * share)])
    assert statuses(folder, "fail") & {"files", "weights_file"}


def test_a_pickle_is_refused_and_never_opened(tmp_path: Path) -> None:
    """Validating a stranger's adapter would run the stranger's code."""
    folder = write(tmp_path)
    pickle = folder / "adapter_model.bin"
    pickle.write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    assert "pickle" in statuses(folder, "warn")
    (folder / "adapter_model.safetensors").unlink()
    program = (
        "import sys\nfrom pathlib import Path\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, a: opened.append(str(a[0])) if event == 'open' else None)\n"
        "from adapter_folders import CONTRACT\nfrom fgpipe.validation.static import validate\n"
        f"found = validate(Path({str(folder)!r}), CONTRACT)\n"
        "assert [f.status for f in found if f.rule == 'pickle'] == ['fail']\n"
        "assert not [name for name in opened if name.endswith('.bin')]\n"
        "assert not {'torch', 'vllm', 'pickle_compat'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
