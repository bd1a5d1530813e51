"""Whether vLLM will serve an adapter as it was trained: decided from the folder alone, without vLLM or torch.

`contract` says what the server demands, `validate` checks a folder against it, `render_findings` shows what it found,
`shrink` writes a folder anew at a rank the server takes.
"""

from fgpipe.validation.contract import Contract, contract
from fgpipe.validation.report import Finding, findings_json, render_findings, require_pass
from fgpipe.validation.shrink import Shrunk, default_out, render_shrunk, shrink
from fgpipe.validation.stage import gate, read_findings, validate_adapter, validate_config
from fgpipe.validation.static import RULES, validate

__all__ = [
    "RULES",
    "Contract",
    "Finding",
    "Shrunk",
    "contract",
    "default_out",
    "findings_json",
    "gate",
    "read_findings",
    "render_findings",
    "render_shrunk",
    "require_pass",
    "shrink",
    "validate",
    "validate_adapter",
    "validate_config",
]
