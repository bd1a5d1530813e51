"""The sql task: a question about a small database, answered by one `run_sql` call."""

from __future__ import annotations

import random

from fgpipe.data.tasks import sql_wordings as wordings
from fgpipe.data.tasks.rows import Row, Wording, call, decapitalise, dress, generate, make_row, parameter, tool
from fgpipe.data.tasks.sql_questions import ask, draw_scene, things_of
from fgpipe.data.tasks.vocabulary import CITIES, COUNTRIES, FIRST_NAMES, person

RUN_SQL = tool(
    "run_sql",
    "Run a read-only SQLite query and return its rows.",
    {"query": parameter("string", "One SELECT statement.")},
    required=["query"],
)
QUOTAS = (
    ("list", 360),
    ("everything", 70),
    ("look_up", 160),
    ("count", 350),
    ("aggregate", 350),
    ("group_count", 180),
    ("group_aggregate", 180),
    ("having", 90),
    ("top", 280),
    ("sort", 140),
    ("distinct", 90),
    ("count_distinct", 70),
    ("name_both", 90),
    ("parallel", 150),
    ("no_call", 360),
)
_JOINED_FRACTION = 0.3
"""Share of the questions of a family that reach into a second table, in the families where that makes sense."""
_JOINABLE = ("list", "count", "aggregate", "group_count", "group_aggregate")
_PAIRED = ("count", "aggregate", "top", "look_up", "distinct")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_REFUSED = {
    "write": wordings.WRITE,
    "off_topic": wordings.OFF_TOPIC,
    "small_talk": wordings.SMALL_TALK,
    "vague": wordings.VAGUE,
}
_REFUSALS = {
    "write": "I can only read this database, so I can't change anything in it.",
    "off_topic": "I can't help with that; I can only answer questions about this database.",
    "small_talk": "Happy to help! Ask me anything about this database.",
    "vague": "I'm not sure what you mean; which table and which values should I look at?",
}


def _build(rng: random.Random, family: str, wording: Wording) -> Row | None:
    if family == "no_call":
        return _decline(rng, wording)
    if family == "parallel":
        return _parallel(rng, wording)
    joined = family == "name_both" or (family in _JOINABLE and rng.random() < _JOINED_FRACTION)
    scene = draw_scene(rng, wording, joined=joined)
    question = ask(scene, family)
    if question is None:
        return None
    answer = [call("run_sql", query=question.query.sql())]
    text = dress(rng, question.text, wording)
    frame = f"{'join_' if joined and family != 'name_both' else ''}{family}.{question.frame}"
    return make_row(scene.context(), text, answer, [RUN_SQL], frame=frame, sqlite=scene.script())


def _parallel(rng: random.Random, wording: Wording) -> Row | None:
    scene = draw_scene(rng, "common", joined=False)
    first, second = (ask(scene, family) for family in rng.sample(_PAIRED, 2))
    if first is None or second is None:
        return None
    frame, joint = wordings.BOTH.pick(rng, wording)
    lower = {"second": decapitalise(second.text), "first2": decapitalise(first.text)}
    text = joint.format(first=first.text, **lower)
    answer = [call("run_sql", query=question.query.sql()) for question in (first, second)]
    return make_row(scene.context(), text, answer, [RUN_SQL], frame=f"parallel.{frame}", sqlite=scene.script())


def _decline(rng: random.Random, wording: Wording) -> Row | None:
    """A request that no SELECT answers: a change to the data, another job, a greeting, or a missing thing."""
    scene = draw_scene(rng, wording, joined=False)
    kind = rng.choices(("write", "off_topic", "small_talk", "vague"), (45, 30, 12, 13))[0]
    table = scene.focus.table
    numbers = [column for column in scene.columns("number") if not column.counted]
    if not numbers:
        return None
    column = rng.choice(numbers)
    frame, text = scene.say(
        _REFUSED[kind],
        things=things_of(scene, most=1, without=(column.name,)).plural,
        thing=table.singular,
        plural=table.name,
        column=column.phrase,
        value=rng.randint(column.low, column.high),
        n=rng.randint(2, 9),
        city=rng.choice(CITIES),
        country=rng.choice(COUNTRIES),
        name=person(rng),
        first=rng.choice(FIRST_NAMES),
        day=rng.choice(_WEEKDAYS),
    )
    text = text if kind == "small_talk" else dress(rng, text, wording)
    return make_row(scene.context(), text, _REFUSALS[kind], [RUN_SQL], frame=f"{kind}.{frame}")


def rows() -> list[Row]:
    """Every row of the task, the same on every call."""
    return generate(random.Random("fgpipe sql 1"), QUOTAS, _build)
