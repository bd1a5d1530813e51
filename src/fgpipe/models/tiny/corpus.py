"""The synthetic corpus the tiny model is pretrained on: an endless stream of conversations, each drawn afresh.

It teaches calling functions in general. None of the shipped tasks' tools or wordings occur in it: no SQL statements,
no mail tools, no arithmetic tools (`FORBIDDEN` says it as a pattern, and a test holds the corpus to it).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from fgpipe.models.tiny import corpus_notes, corpus_queries, corpus_rows, corpus_strings, corpus_tools
from fgpipe.models.tiny.corpus_rows import Row

FORBIDDEN = re.compile(
    r"\bSELECT\s[\w\s*,.()]+\sFROM\s|run_sql|CREATE TABLE"
    r"|declaration:\w*(mail|inbox|calculat|math|sql|arithmetic|evaluate|solve|compute|statistic|percent)\w*",
    re.IGNORECASE,
)


def _composed(skill: str, make: Callable[[random.Random], corpus_queries.Composed]) -> Callable[[random.Random], Row]:
    """Rows of a composed string, one in four among other tools."""

    def row(rng: random.Random) -> Row:
        notes, tools, said, call = make(rng)
        if rng.random() < 0.25:
            others = corpus_tools.tools(rng, rng.choice((1, 1, 2)))
            tools = tools + [t.schema() for t in others if t.name != call["name"]]
            rng.shuffle(tools)
        if rng.random() < 0.5:
            rng.shuffle(notes)
        if rng.random() < 0.5:
            notes = notes + corpus_rows.noise(rng)
        asked = corpus_tools.asked if skill == "query" else corpus_tools.dressed
        return corpus_rows.conversation(rng, skill, notes, tools, asked(rng, said), [call])

    return row


# Each skill with its share of the rows.
SKILLS: dict[str, tuple[float, Callable[[random.Random], Row]]] = {
    "query": (0.38, _composed("query", corpus_queries.query_row)),
    "formula": (0.07, _composed("formula", corpus_strings.formula_row)),
    "schedule": (0.015, _composed("schedule", corpus_strings.schedule_row)),
    "template": (0.03, _composed("template", corpus_strings.template_row)),
    "pairs": (0.025, _composed("pairs", corpus_strings.pairs_row)),
    "single": (0.16, corpus_rows.single_row),
    "parallel": (0.07, corpus_rows.parallel_row),
    "decline": (0.075, corpus_rows.decline_row),
    "missing": (0.015, corpus_rows.missing_row),
    "answer": (0.04, corpus_rows.answer_row),
    "lookup": (0.07, corpus_notes.lookup_row),
    "today": (0.03, corpus_notes.today_row),
    "login": (0.04, corpus_notes.login_row),
    "copy": (0.03, corpus_notes.copy_row),
}
_NAMES = tuple(SKILLS)
_WEIGHTS = tuple(weight for weight, _ in SKILLS.values())


def row(rng: random.Random) -> Row:
    """One conversation of a skill drawn by weight; `meta.skill` names it."""
    return SKILLS[rng.choices(_NAMES, _WEIGHTS)[0]][1](rng)
