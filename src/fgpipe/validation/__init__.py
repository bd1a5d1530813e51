"""Whether vLLM will serve an adapter as it was trained: decided from the folder alone, without vLLM or torch.

`contract` says what the server demands, `validate` checks a folder against it, `render_findings` shows what it found.
"""

from fgpipe.validation.contract import Contract, contract
from fgpipe.validation.report import Finding, findings_json, render_findings, require_pass
from fgpipe.validation.stage import gate, read_findings, validate_adapter, validate_config
from fgpipe.validation.static import RULES, validate

__all__ = [
    "RULES",
    "Contract",
    "Finding",
    "contract",
    "findings_json",
    "gate",
    "read_findings",
    "render_findings",
    "require_pass",
    "validate",
    "validate_adapter",
    "validate_config",
]
