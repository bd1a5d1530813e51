"""Ten thousand damaged adapter folders: each gets a verdict, none a crash or a hang, none has another file read."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from adapter_damage import FILES, damage
from adapter_folders import CONTRACT, write
from fgpipe.errors import FgpipeError
from fgpipe.validation.report import failures, findings_json, printable, render_findings, require_pass
from fgpipe.validation.static import RULES, validate

FOLDERS = 10_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_damaged_folders_get_a_verdict(tmp_path: Path) -> None:
    """A stranger's folder would crash or hang the publisher, or have it read a file that is not the adapter's."""
    rng = random.Random(20261126)
    outside, folder = write(tmp_path / "outside"), tmp_path / "adapter"
    assert failures(validate(outside, CONTRACT)) == []
    printable("\n")  # now everything that is imported lazily is there
    opened: list[str] = []
    watching = True
    sys.addaudithook(lambda event, seen: opened.append(os.fsdecode(seen[0])) if watching and event == "open" else None)
    counts: Counter[tuple[str, bool]] = Counter()
    for number in range(FOLDERS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind = damage(folder, outside, rng)
        opened.clear()
        findings = validate(folder, CONTRACT)
        foreign = [path for path in opened if path not in {str(folder / name) for name in FILES}]
        assert not foreign, (number, kind)
        assert [finding.rule for finding in findings] == list(RULES), (number, kind)
        assert all((each.message + each.hint).isprintable() for each in findings), (number, kind)
        json.dumps(findings_json(findings), ensure_ascii=False).encode()
        counts[kind, not failures(findings)] += 1
        if number % 100 == 0:
            render_findings(findings)
            with contextlib.suppress(FgpipeError):
                require_pass(findings)
    watching = False
    assert counts["special", True] == counts["swap", True] == 0
    assert sum(passed for (_, sound), passed in counts.items() if sound) < FOLDERS / 4
    assert sum(counts.values()) == FOLDERS
