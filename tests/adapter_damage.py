"""Ways to damage an adapter folder: bytes, lengths, settings, headers, links, things in place of files."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter_folders import safetensors_bytes, settings, tensors
from fgpipe.validation.settings import KNOWN

FILES = ("adapter_config.json", "adapter_model.safetensors")
CONFIG = json.dumps(settings()).encode()
WEIGHTS = safetensors_bytes(tensors())

Random = random.Random


def nested(depth: int, innermost: Any) -> Any:
    for _ in range(depth):
        innermost = [innermost] if depth % 2 else {"a": innermost}
    return innermost


# fmt: off
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 4, 8, 9, 512, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.5, 4.0, -0.0, 1e-320, 1e308,
    float("inf"), float("-inf"), float("nan"), "", "4", "none", "all", "LORA", "lora", "IA3", "é", "\ud800",
    "\x1b[2J\n",
    "\0", "q_proj", "x" * 3000, "(", "[a-", "a{99999999999}", ".*_proj", "all-linear", "/etc/passwd", "../../..",
    [], {}, [None], [[]], ["q_proj"], ["q_proj"] * 50, ["\ud800"], [0, 1], [True], [10**30], [-1], [1.5], {"q_proj": 4},
    {"q_proj": "4"}, {"q_proj": 10**400}, {"q_proj": float("nan")}, {"(": 4}, {"": 4}, {"a": {"b": []}},
    {"layers.[01].*": 2}, {str(number): 1 for number in range(3000)},
    nested(3, 1), nested(49, 1), nested(60, 1), nested(401, 1), nested(900, 1),
)
HOSTILE = ("(.*)*x", ".*" * 9 + "x", ".?" * 60 + "x", {"(.|.)*" * 9 + "x": 4}, ["(((a*)*)*)*"], "(" * 900 + ")" * 900)
HEADER_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 4, 24, 2**31, 2**63, 2**64, 10**30, 1.5, "", "F32", "BF16", "I64", "F8_E4M3", "BOOL",
    "\ud800", "x" * 500, [], {}, [0], [0, 0], [0, 8], [-4, 4], [4, 0], [2**62, 2**62], [2**63, 2**64], [0, 10**30],
    [4, 24], [24, 4], [4, 24, 1], [0, 24], ["0", "8"], [None], nested(5, 1), nested(300, 1),
)
# fmt: on


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def flipped(content: bytes, rng: Random) -> bytes:
    damaged = bytearray(content)
    # Half of the flips hit the beginning, where a weights file has its header.
    reach = len(damaged) if rng.random() < 0.5 else min(len(damaged), 400)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(content: bytes, rng: Random) -> bytes:
    return (
        content[: rng.randrange(len(content))] if rng.random() < 0.8 else content + rng.randbytes(rng.randrange(1, 64))
    )


def spliced(content: bytes, rng: Random) -> bytes:
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    middle = rng.choice((b"", b"\0" * (end - start), rng.randbytes(min(end - start, 64)), content[start:end] * 2))
    return content[:start] + middle + content[end:]


def changed_settings(rng: Random) -> bytes:
    config = settings()
    keys = sorted(KNOWN)
    for _ in range(rng.choice((1, 1, 2, 3, 10))):
        key = rng.choice(keys)
        chance = rng.random()
        if chance < 0.1:
            config.pop(key, None)
        elif chance < 0.2:
            config[rng.choice(("é", "\ud800\n", "", "x" * 2000, "vllm_lora_scaling_factor"))] = rng.choice(VALUES)
        elif chance < 0.205:
            config[key] = rng.choice(HOSTILE)
        else:
            config[key] = rng.choice(VALUES)
    return dumped(config)


def odd_config(rng: Random) -> bytes:
    text = CONFIG.decode()
    return rng.choice(
        (
            lambda: b"\xef\xbb\xbf" + CONFIG,
            lambda: text.encode(rng.choice(("utf-16", "utf-32", "utf-16-le"))),
            lambda: dumped(rng.choice(VALUES)),
            lambda: (text[:-1] + ', "r": ' + rng.choice(("64", "[]", "4")) + "}").encode(),
            lambda: text.replace("4", rng.choice(("9" * 5000, "1e999", "NaN", "-", "4.", "0x4")), 1).encode(),
            lambda: b"[" * rng.choice((10, 900, 990, 1000, 50_000)),
            lambda: b'{"r":' * rng.choice((10, 330, 990, 50_000)) + b"1" + b"}" * 990,
            lambda: (text[:-1] + ",}").encode(),
            lambda: b"\0" * rng.randrange(1, 2000),
            lambda: b" " * rng.randrange(1, 2000) + CONFIG,
            lambda: CONFIG.replace(b"LORA", b"LO\xffRA"),
        )
    )()


def changed_header(rng: Random) -> bytes:
    length = struct.unpack("<Q", WEIGHTS[:8])[0]
    header, body = json.loads(WEIGHTS[8 : 8 + length]), WEIGHTS[8 + length :]
    text = b""
    for _ in range(rng.choice((1, 1, 2, 5))):
        names = sorted(header)
        name, other = rng.choice(names), rng.choice(names)
        action = rng.randrange(7)
        if action == 0 and isinstance(header[name], dict):
            header[name][rng.choice(("dtype", "shape", "data_offsets", "more"))] = rng.choice(HEADER_VALUES)
        elif action == 1 and isinstance(header[name], dict) and header[name]:
            del header[name][rng.choice(sorted(header[name]))]
        elif action == 2:
            header[name], header[other] = header[other], header[name]
        elif action == 3:
            header[rng.choice(("", "\ud800", name + ".", name.replace("model.", "", 1), "../" + name))] = header.pop(
                name
            )
        elif action == 4:
            header[name] = rng.choice(HEADER_VALUES)
        elif action == 5:
            del header[name]
        else:
            text = dumped(header)[:-1] + b", " + dumped(name) + b": " + dumped(header[name]) + b"}"
    text = text or dumped(header)
    said = rng.choice((len(text),) * 6 + (0, 1, len(text) - 1, len(text) + 8, 2**32, 2**63, 2**64 - 1))
    return struct.pack("<Q", said) + text + body


def put_special(folder: Path, outside: Path, rng: Random) -> None:
    """A folder, pipe or link in place of a file."""
    name = rng.choice(FILES)
    path = folder / name
    path.unlink()
    kind = rng.randrange(7)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/stdin", "/proc/self/mem", "/", "/etc/passwd")))
    elif kind == 3:
        path.symlink_to(rng.choice((name, "nowhere", "x" * 255, ".")))
    elif kind == 4:
        path.symlink_to(os.path.relpath(outside / name, folder))
    elif kind == 5:
        path.symlink_to(outside / name)
    # else: it is missing


def damage(folder: Path, outside: Path, rng: Random) -> str:
    """Fill the empty `folder` with an adapter and damage it; what was done, "sound" if it may have stayed sound."""
    content = {FILES[0]: CONFIG, FILES[1]: WEIGHTS}
    kinds: dict[str, Callable[[], bytes]] = {
        "config bytes": lambda: rng.choice((flipped, cut, spliced))(CONFIG, rng),
        "weight bytes": lambda: rng.choice((flipped, cut, spliced))(WEIGHTS, rng),
        "config values": lambda: changed_settings(rng),
        "config odd": lambda: odd_config(rng),
        "header": lambda: changed_header(rng),
    }
    kind = rng.choice((*kinds, "config values", "header", "swap", "special", "several", "pickle"))
    if kind in kinds:
        content[FILES["config" not in kind]] = kinds[kind]()
    elif kind == "several":
        content = {FILES[0]: kinds["config values"](), FILES[1]: kinds[rng.choice(("weight bytes", "header"))]()}
    elif kind == "swap":
        content = rng.choice(
            ({FILES[0]: WEIGHTS, FILES[1]: CONFIG}, dict.fromkeys(FILES, b""), dict.fromkeys(FILES, CONFIG))
        )
    for name, data in content.items():
        (folder / name).write_bytes(data)
    if kind == "special":
        put_special(folder, outside, rng)
    elif kind == "pickle":
        (folder / rng.choice(("adapter_model.bin", "adapter_model.pt"))).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        if rng.random() < 0.5:
            (folder / FILES[1]).unlink()
    return kind
