"""How good an adapter is: answers on held-out rows, judged, with intervals, next to the base's."""

from __future__ import annotations

from fgpipe.evaluation.report import render_scores
from fgpipe.evaluation.stage import evaluate, evaluate_config

__all__ = ["evaluate", "evaluate_config", "render_scores"]
