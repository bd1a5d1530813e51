"""The question families of the sql task: each puts a sentence and the query that answers it together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from fgpipe.data.tasks import sql_wordings as wordings
from fgpipe.data.tasks.rows import Wording, Wordings, capitalise
from fgpipe.data.tasks.sql_domains import DOMAINS
from fgpipe.data.tasks.sql_phrases import column_list, describe, draw_style, spoken_order, state, superlative
from fgpipe.data.tasks.sql_query import Condition, Query, is_told_apart
from fgpipe.data.tasks.sql_schemas import QUALITIES, Column
from fgpipe.data.tasks.sql_tables import FilledTable, fill, narrow

_AGGREGATES = {
    "AVG": ("average", "mean"),
    "SUM": ("total", "combined"),
    "MAX": ("highest", "maximum"),
    "MIN": ("lowest", "minimum"),
}
_NEVER_SUMMED = ("age", "rating", "floor", "score")
_NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Scene:
    """A drawn schema and the wording a question about it must use.

    Attributes:
        tables: the schema, parents first.
        focus: the table whose things are asked about.
        parent: the table joined to, if the question needs one.
    """

    rng: random.Random
    wording: Wording
    tables: tuple[FilledTable, ...]
    focus: FilledTable
    parent: FilledTable | None = None

    def say(self, frames: Wordings, **slots: object) -> tuple[str, str]:
        """A frame's id and the frame with its slots filled."""
        identity, frame = frames.pick(self.rng, self.wording)
        return identity, capitalise(frame.format(**slots))

    def spelled(self, column: str, *, of_parent: bool = False) -> str:
        """The column as the query spells it."""
        if self.parent is None:
            return column
        return f"{(self.parent if of_parent else self.focus).table.name}.{column}"

    def join(self) -> str:
        """The JOIN clause, empty without a parent."""
        if self.parent is None:
            return ""
        parent, child = self.parent.table, self.focus.table
        return f"JOIN {parent.name} ON {child.name}.{parent.singular}_id = {parent.name}.id"

    def columns(self, *kinds: str) -> list[Column]:
        """The columns of those kinds of the table asked about."""
        return [column for column in self.focus.table.columns if column.kind in kinds]

    def context(self) -> str:
        """The schema as the developer message shows it."""
        return "\n".join(filled.ddl() for filled in self.tables)

    def script(self) -> str:
        """The statements that create and fill the tables."""
        return "\n".join(f"{filled.ddl()}\n{filled.inserts()}" for filled in self.tables)

    def spelled_columns(self) -> list[str]:
        """Every column the query could name, as it would spell it."""
        tables = (self.focus,) if self.parent is None else (self.focus, self.parent)
        return [self.spelled(name, of_parent=filled is self.parent) for filled in tables for name, _ in filled.header]


@dataclass(frozen=True)
class Question:
    """A sentence without greeting, the frame it came from, and its query."""

    frame: str
    text: str
    query: Query


@dataclass(frozen=True)
class Things:
    """What a question is about, in words, and the query's part that selects it."""

    plural: str
    singular: str
    query: Query


def draw_scene(rng: random.Random, wording: Wording, *, joined: bool) -> Scene:
    """A schema from a random domain with data in it; `joined` asks for a child table and its parent."""
    tables = rng.choice(list(DOMAINS.values()))
    if joined:
        child = rng.choice([table for table in tables if table.parent])
        above = next(table for table in tables if table.name == child.parent)
        parent = fill(rng, narrow(rng, above, keep=2), count=rng.choice((3, 4, 5)))
        focus = fill(rng, narrow(rng, child, keep=2), parent=parent, count=rng.choice((6, 7, 8)))
        return Scene(rng, wording, (parent, focus), focus, parent)
    focus = fill(rng, narrow(rng, rng.choice(tables), keep=rng.choice((3, 4))), count=rng.choice((5, 6, 7)))
    others = [table for table in tables if table.name != focus.table.name]
    if rng.random() < 0.8:
        return Scene(rng, wording, (focus,), focus)
    other = fill(rng, narrow(rng, rng.choice(others), keep=2), count=5)
    return Scene(rng, wording, tuple(sorted((focus, other), key=lambda filled: filled.table.name)), focus)


def things_of(scene: Scene, *, least: int = 0, most: int = 2, without: tuple[str, ...] = ()) -> Things:
    """Records to ask about, under `least` to `most` conditions; a joined scene puts one on the parent."""
    rng, table = scene.rng, scene.focus.table
    free = [column for column in table.columns if column.name not in (*without, table.label)]
    wanted = rng.choice(range(least, most + 1))
    if scene.parent is not None:
        free = [column for column in free if column.adjective]
        wanted = int(rng.random() < 0.4)
    style = draw_style(rng)
    stated = [state(rng, scene.focus, column, style=style) for column in rng.sample(free, min(wanted, len(free)))]
    where = tuple(replace(part, column=scene.spelled(part.column)) for part in spoken_order(stated))
    plural, singular = describe(table.name, stated), describe(table.singular, stated)
    if scene.parent is not None:
        of_parent, words = _parent_things(scene, scene.parent)
        where = (*where, replace(of_parent, column=scene.spelled(of_parent.column, of_parent=True)))
        plural, singular = f"{plural} {words}", f"{singular} {words}"
    return Things(plural, singular, Query((), table.name, join=scene.join(), where=where))


def _parent_things(scene: Scene, parent: FilledTable) -> tuple[Condition, str]:
    rng, link = scene.rng, scene.focus.table.link
    label = parent.table.column(parent.table.label)
    if rng.random() < 0.4:
        value = rng.choice(parent.records)[label.name]
        noun = rng.choice((f"{parent.table.singular} ", f"the {parent.table.singular} ", ""))
        return Condition(label.name, "=", (value,)), f"{link} {noun}{value}"
    column = rng.choice([column for column in parent.table.columns if column is not label])
    stated = state(rng, parent, column, style=draw_style(rng))
    return stated.condition, f"{link} {describe(parent.table.name, [stated])}"


def _list(scene: Scene) -> Question | None:
    rng = scene.rng
    columns = list(scene.focus.table.columns)
    shown = sorted(rng.sample(columns, min(len(columns), rng.choice((1, 2, 2)))), key=columns.index)
    things = things_of(scene, least=0 if scene.parent else 1, without=tuple(column.name for column in shown))
    plural = rng.random() < 0.4
    frame, text = scene.say(
        wordings.LIST,
        columns=column_list(shown, plural=plural),
        things=things.plural,
        be="is" if len(shown) == 1 and not plural else "are",
    )
    return Question(frame, text, replace(things.query, select=tuple(scene.spelled(column.name) for column in shown)))


def _everything(scene: Scene) -> Question | None:
    things = things_of(scene, least=1)
    frame, text = scene.say(wordings.EVERYTHING, things=things.plural)
    return Question(frame, text, replace(things.query, select=("*",)))


def _look_up(scene: Scene) -> Question | None:
    table = scene.focus.table
    if table.label == "id":
        return None
    column = scene.rng.choice([column for column in table.columns if column.name != table.label])
    value = scene.rng.choice(scene.focus.records)[table.label]
    who = scene.rng.choice((f"{value}", f"the {table.singular} {value}", f"{table.singular} {value}"))
    frame, text = scene.say(wordings.LOOK_UP, column=column.phrase, who=who)
    return Question(frame, text, Query((column.name,), table.name, where=(Condition(table.label, "=", (value,)),)))


def _count(scene: Scene) -> Question | None:
    things = things_of(scene, least=int(scene.rng.random() < 0.9))
    frame, text = scene.say(wordings.COUNT, things=things.plural)
    return Question(frame, text, replace(things.query, select=("COUNT(*)",)))


def _aggregated(scene: Scene) -> tuple[Column, str, str] | None:
    """A number to summarise, the word for the summary, and the SQL item."""
    columns = scene.columns("number", "date")
    if not columns:
        return None
    column = scene.rng.choice(columns)
    if column.kind == "date" or column.name == "year":
        word, function = scene.rng.choice((("latest", "MAX"), ("earliest", "MIN")))
    else:
        function = scene.rng.choice([name for name in _AGGREGATES if name != "SUM" or column.name not in _NEVER_SUMMED])
        word = scene.rng.choice(_AGGREGATES[function])
    return column, word, f"{function}({scene.spelled(column.name)})"


def _aggregate(scene: Scene) -> Question | None:
    aggregated = _aggregated(scene)
    if aggregated is None:
        return None
    column, word, item = aggregated
    things = things_of(scene, without=(column.name,))
    frame, text = scene.say(wordings.AGGREGATE, aggregate=word, column=column.phrase, things=things.plural)
    return Question(frame, text, replace(things.query, select=(item,)))


def _group(scene: Scene) -> tuple[str, str] | None:
    """What to group by: its words and its spelling; in a joined scene, the parent's label."""
    if scene.parent is not None:
        return scene.parent.table.singular, scene.spelled(scene.parent.table.label, of_parent=True)
    groups = [column for column in scene.focus.table.columns if column.plural]
    column = scene.rng.choice(groups) if groups else None
    return (column.phrase, column.name) if column else None


def _grouped_things(scene: Scene, without: tuple[str, ...]) -> Things:
    """Things to group: all of a joined scene's children, else under one condition at most."""
    if scene.parent is None:
        return things_of(scene, most=int(scene.rng.random() < 0.4), without=without)
    table = scene.focus.table
    return Things(table.name, table.singular, Query((), table.name, join=scene.join()))


def _group_count(scene: Scene) -> Question | None:
    group = _group(scene)
    if group is None:
        return None
    words, column = group
    things = _grouped_things(scene, (column,))
    frame, text = scene.say(wordings.GROUP_COUNT, group=words, things=things.plural)
    return Question(frame, text, replace(things.query, select=(column, "COUNT(*)"), group_by=column))


def _group_aggregate(scene: Scene) -> Question | None:
    group, aggregated = _group(scene), _aggregated(scene)
    if group is None or aggregated is None:
        return None
    words, key = group
    column, word, item = aggregated
    things = _grouped_things(scene, (key, column.name))
    frame, text = scene.say(
        wordings.GROUP_AGGREGATE, group=words, aggregate=word, column=column.phrase, things=things.plural
    )
    return Question(frame, text, replace(things.query, select=(key, item), group_by=key))


def _having(scene: Scene) -> Question | None:
    groups = [column for column in scene.focus.table.columns if column.plural]
    if not groups:
        return None
    column, table = scene.rng.choice(groups), scene.focus.table
    compare, operator = scene.rng.choice((("more than", ">"), ("at least", ">="), ("fewer than", "<")))
    number = scene.rng.choice((2, 3, 4))
    frame, text = scene.say(
        wordings.HAVING, groups=column.plural, compare=compare, n=_spoken(scene.rng, number), things=table.name
    )
    having = f"COUNT(*) {operator} {number}"
    return Question(frame, text, Query((column.name,), table.name, group_by=column.name, having=having))


def _spoken(rng: random.Random, number: int) -> str:
    return _NUMBER_WORDS[number] if rng.random() < 0.4 else str(number)


def _top(scene: Scene) -> Question | None:
    rng, keys = scene.rng, scene.columns("number", "date")
    if not keys:
        return None
    key, number = rng.choice(keys), rng.choice((1, 1, 2, 3, 3, 4, 5))
    things = things_of(scene, most=1 if number < 3 else 0, without=(key.name,))
    quality = QUALITIES.get(key.name)
    if quality is not None and quality.most and (key.name == "year" or rng.random() < 0.6):
        table = wordings.BEST_QUALITY if number == 1 else wordings.TOP_QUALITY
        words, direction = rng.choice(((quality.most, "DESC"), (quality.least, "ASC")))
        kind = "quality"
    else:
        table = wordings.BEST_BY if number == 1 else wordings.TOP_BY
        words, direction = superlative(rng, key, several=number > 1)
        kind = "column"
    spoken = _spoken(rng, number) if number > 1 else ""
    frame, text = scene.say(table, n=spoken, superlative=words, things=things.plural, thing=things.singular)
    select = (scene.focus.table.label,)
    query = replace(things.query, select=select, order_by=key.name, direction=direction, limit=number)
    return Question(f"{'one' if number == 1 else 'some'}_by_{kind}.{frame}", text, query)


def _sort(scene: Scene) -> Question | None:
    rng, keys = scene.rng, scene.columns("number", "date")
    if not keys:
        return None
    key = rng.choice(keys)
    label = [column for column in scene.focus.table.columns if column.name == scene.focus.table.label]
    shown = label or [rng.choice(scene.focus.table.columns)]
    if rng.random() < 0.5 and key not in shown:
        shown.append(key)
    latest_first = key.kind == "date" or key.name == "year"
    descending, ascending = ("latest", "earliest") if latest_first else ("highest", "lowest")
    word, direction = rng.choice(((descending, "DESC"), (ascending, "ASC")))
    things = things_of(scene, most=1, without=tuple(column.name for column in (*shown, key)))
    frame, text = scene.say(
        wordings.SORT,
        columns=column_list(shown, plural=rng.random() < 0.4),
        things=things.plural,
        key=key.phrase.removeprefix("number of "),
        order=word,
    )
    select = tuple(column.name for column in shown)
    return Question(frame, text, replace(things.query, select=select, order_by=key.name, direction=direction))


def _distinct(scene: Scene) -> Question | None:
    return _of_groups(scene, wordings.DISTINCT, counted=False)


def _count_distinct(scene: Scene) -> Question | None:
    return _of_groups(scene, wordings.COUNT_DISTINCT, counted=True)


def _of_groups(scene: Scene, table: Wordings, *, counted: bool) -> Question | None:
    groups = [column for column in scene.focus.table.columns if column.plural]
    if not groups:
        return None
    column = scene.rng.choice(groups)
    things = things_of(scene, most=1, without=(column.name,))
    frame, text = scene.say(table, groups=column.plural, things=things.plural)
    if counted:
        return Question(frame, text, replace(things.query, select=(f"COUNT(DISTINCT {column.name})",)))
    return Question(frame, text, replace(things.query, select=(column.name,), distinct=True))


def _name_both(scene: Scene) -> Question | None:
    if scene.parent is None:
        return None
    child, parent = scene.focus.table, scene.parent.table
    shown = list(child.columns)[: scene.rng.choice((1, 2))]
    frame, text = scene.say(
        wordings.NAME_BOTH,
        columns=column_list(shown),
        child=child.singular,
        children=child.name,
        parent=parent.singular,
        label=parent.label,
    )
    select = (*(scene.spelled(column.name) for column in shown), scene.spelled(parent.label, of_parent=True))
    return Question(frame, text, Query(select, child.name, join=scene.join()))


_BUILDERS: dict[str, Callable[[Scene], Question | None]] = {
    "list": _list,
    "everything": _everything,
    "look_up": _look_up,
    "count": _count,
    "aggregate": _aggregate,
    "group_count": _group_count,
    "group_aggregate": _group_aggregate,
    "having": _having,
    "top": _top,
    "sort": _sort,
    "distinct": _distinct,
    "count_distinct": _count_distinct,
    "name_both": _name_both,
}


def ask(scene: Scene, family: str) -> Question | None:
    """A question of the family whose answer the scene's data pins down."""
    question = _BUILDERS[family](scene)
    if question is None or not is_told_apart(scene.script(), question.query, scene.spelled_columns()):
        return None
    return question
