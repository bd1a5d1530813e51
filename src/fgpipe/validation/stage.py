"""The `validate` stage: one adapter against one server's contract, the verdict kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgpipe import store
from fgpipe.artifacts import Verdict, writing
from fgpipe.validation.contract import Contract
from fgpipe.validation.report import Finding, failures, findings_from_json, findings_json, require_pass
from fgpipe.validation.static import RULES_REVISION, validate


def validate_config(contract: Contract, *, name: str | None = None) -> dict[str, Any]:
    """What a verdict depends on besides the adapter: the contract, its name in the server, and which set of rules."""
    return {"contract": contract.as_json(), "name": name, "rules": RULES_REVISION}


def validate_adapter(
    adapter: Path, contract: Contract, *, name: str | None = None, adapter_fingerprint: str, out: Path
) -> Verdict:
    """Check the PEFT folder `adapter` and write `verdict.json` to `out`, whatever the verdict is.

    A refused adapter raises nothing here: `require_pass(read_findings(verdict))` does, after the verdict is kept.
    """
    findings = validate(adapter, contract, name=name)
    inputs = {"adapter": adapter_fingerprint}
    with writing(Verdict, out, config=validate_config(contract, name=name), inputs=inputs) as draft:
        store.write_json(draft.path / "verdict.json", findings_json(findings))
        draft.numbers = {
            "passed": not failures(findings),
            "rules": len(findings),
            "failed": len(failures(findings)),
            "warned": sum(finding.status == "warn" for finding in findings),
        }
    return Verdict.open(out)


def read_findings(verdict: Verdict) -> list[Finding]:
    """The findings kept in `verdict`."""
    return findings_from_json(store.read_json(verdict.path / "verdict.json"))


def gate(contract: Contract) -> Callable[[Path], None]:
    """A function that raises ValidationError for a folder `contract` refuses; what publishing is given."""

    def check(adapter: Path) -> None:
        require_pass(validate(adapter, contract), adapter=adapter)

    return check
