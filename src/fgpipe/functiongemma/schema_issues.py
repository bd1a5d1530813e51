"""What `schema.normalise` finds, and where its parts note it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SchemaIssue:
    """One thing the format cannot show as written: where, what, whether `normalise` mends it, and what to do."""

    path: str
    problem: str
    repaired: bool
    hint: str


@dataclass(frozen=True)
class Notes:
    """The issues found so far, and the schema that local references point into."""

    issues: list[SchemaIssue]
    root: Mapping[str, Any]

    def repaired(self, path: str, problem: str, hint: str) -> None:
        """Note what normalising mends."""
        self.issues.append(SchemaIssue(path, problem, True, hint))

    def left(self, path: str, problem: str, hint: str) -> None:
        """Note what only the author can mend."""
        self.issues.append(SchemaIssue(path, problem, False, hint))
