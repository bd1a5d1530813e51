"""The math task: word problems put into calls; nothing is computed by the model.

The conventions, which no declaration spells out: an expression has one space around every sign and brackets around each
part but the whole; a percentage of something is `(p / 100) * n`; the unknown of an equation is `x`; units and measures
are codes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fgpipe.data.tasks import math_wordings as wordings
from fgpipe.data.tasks.rows import (
    Row,
    Wording,
    Wordings,
    call,
    capitalise,
    decapitalise,
    declare,
    dress,
    generate,
    make_row,
    parameter,
    spoken_list,
    tool,
)
from fgpipe.data.tasks.vocabulary import CITIES, FIRST_NAMES

TOOLS = {
    "calculate": tool(
        "calculate",
        "Work out a formula.",
        {"expression": parameter("string", "The formula.")},
        required=["expression"],
    ),
    "convert_units": tool(
        "convert_units",
        "Change the unit of an amount.",
        {
            "amount": parameter("number", "The amount."),
            "source": parameter("string", "Unit code."),
            "target": parameter("string", "Unit code."),
        },
        required=["amount", "source", "target"],
    ),
    "statistic": tool(
        "statistic",
        "Sum up a list of values.",
        {
            "measure": parameter("string", "Kind of summary.", enum=tuple(wordings.MEASURES)),
            "values": parameter("array", "The values.", items="number"),
        },
        required=["measure", "values"],
    ),
    "change_by_percent": tool(
        "change_by_percent",
        "Change an amount.",
        {
            "amount": parameter("number", "The amount."),
            "percent": parameter("number", "Size of change."),
            "direction": parameter("string", "The direction.", enum=("up", "down")),
        },
        required=["amount", "percent", "direction"],
    ),
    "solve_equation": tool(
        "solve_equation",
        "Find the value of x.",
        {"equation": parameter("string", "The formula.")},
        required=["equation"],
    ),
}
QUOTAS = (
    ("story", 940),
    ("convert", 450),
    ("statistic", 450),
    ("change", 310),
    ("solve", 290),
    ("parallel", 180),
    ("no_call", 380),
)
_THINGS = (
    *("apples", "pencils", "eggs", "marbles", "stickers", "books", "stamps", "cards", "cookies", "bottles", "shells"),
    *("oranges", "candles", "flowers", "buttons", "tickets", "chairs", "mugs", "beads", "plates", "lemons", "toys"),
)
_MEASURED = ("scores", "prices", "weights", "heights", "lap times", "marks", "temperatures", "distances")
_CENTS = (20, 25, 40, 50, 60, 75, 80, 95)
_ODD_CENTS = (25, 49, 75, 95, 99)
"""Cents that stay as written when the price becomes a number; 3.50 would become 3.5."""
_REPLIES = {
    "off_topic": "I can't help with that; I can only do calculations.",
    "small_talk": "Happy to help with calculations!",
    "no_numbers": "Which numbers should I use?",
}


@dataclass(frozen=True)
class Task:
    """A problem: the sentence, the frame it came from, and the call that works it out."""

    frame: str
    text: str
    call: dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """The wording that a problem must use."""

    rng: random.Random
    wording: Wording

    def say(self, frames: Wordings, **slots: object) -> tuple[str, str]:
        """A frame's id and the frame with its slots filled."""
        identity, frame = frames.pick(self.rng, self.wording)
        return identity, capitalise(frame.format(**slots))

    def number(self, low: int, high: int, *, decimals: int = 0) -> int | float:
        """A number from the range, whole unless `decimals` is given; a whole number is always an int."""
        if not decimals:
            return self.rng.randint(low, high)
        value = round(self.rng.randint(low * 10**decimals, high * 10**decimals) / 10**decimals, decimals)
        return int(value) if value == int(value) else value


def _story(scene: Scene) -> Task:
    rng = scene.rng
    family = rng.choice(tuple(wordings.STORIES))
    story = wordings.STORIES[family]
    money = bool(story.decimal) and rng.random() < 0.5
    drawn = zip("abcd", story.low, story.high, strict=False)
    whole = {letter: rng.randint(low, high) for letter, low, high in drawn}
    if story.shared is not None:
        whole["a"] += -story.shared(whole) % whole[max(whole)]
    numbers = {
        letter: f"{value}.{rng.choice(_CENTS):02d}" if money and letter in story.decimal else value
        for letter, value in whole.items()
    }
    name, mate = rng.sample(FIRST_NAMES, 2)
    thing, other = rng.sample(_THINGS, 2)
    frame, text = scene.say(story.wordings, **numbers, name=name, mate=mate, thing=thing, other=other)
    return Task(f"{family}.{frame}", text, call("calculate", expression=story.expression.format(**numbers)))


def _convert(scene: Scene) -> Task:
    rng = scene.rng
    source, target = rng.sample(sorted(kind := rng.choice(wordings.UNITS)), 2)
    amount = scene.number(2, 110 if "degC" in kind else 400, decimals=rng.choice((0, 0, 1)))
    frame, text = scene.say(
        wordings.CONVERT, amount=amount, source=rng.choice(kind[source]), target=rng.choice(kind[target])
    )
    return Task(f"convert.{frame}", text, call("convert_units", amount=amount, source=source, target=target))


def _statistic(scene: Scene) -> Task:
    rng = scene.rng
    measure = rng.choice(tuple(wordings.MEASURES))
    decimals = rng.choice((0, 0, 0, 1))
    high = rng.choice((30, 100, 500))
    numbers = [scene.number(1, high, decimals=decimals) for _ in range(rng.choice((3, 4, 5, 6)))]
    if measure == "mode":
        numbers.append(rng.choice(numbers))
    frame, text = scene.say(
        wordings.STATISTIC,
        measure=rng.choice(wordings.MEASURES[measure]),
        numbers=spoken_list([str(number) for number in numbers]),
        of=rng.choice(_MEASURED),
    )
    return Task(f"statistic.{frame}", text, call("statistic", measure=measure, values=numbers))


def _change(scene: Scene) -> Task:
    rng = scene.rng
    direction = rng.choice(("up", "down"))
    amount: int | float = rng.randint(10, 900)
    if rng.random() < 0.4:
        amount = round(amount + rng.choice(_ODD_CENTS) / 100, 2)
    percent = scene.number(2, 30 if direction == "up" else 60, decimals=rng.choice((0, 0, 0, 1)))
    frame, text = scene.say(wordings.ADJUST[direction], amount=amount, percent=percent, name=rng.choice(FIRST_NAMES))
    gold = call("change_by_percent", amount=amount, percent=percent, direction=direction)
    return Task(f"change_{direction}.{frame}", text, gold)


def _solve(scene: Scene) -> Task:
    """An equation whose solution is a whole number."""
    rng = scene.rng
    index, equation = rng.choice(tuple(enumerate(wordings.SOLVE)))
    a, x = rng.randint(2, 12), rng.randint(3, 40)
    b = rng.randint(1, 2 * x)
    if equation.startswith("x /"):
        x = x * a
    c = {"({a} * x) + {b} = {c}": a * x + b, "({a} * x) - {b} = {c}": a * x - b, "x + {a} = {c}": x + a}.get(
        equation, x // a
    )
    frame, text = scene.say(wordings.SOLVE[equation], a=a, b=b, c=c, name=rng.choice(FIRST_NAMES))
    return Task(f"solve{index}.{frame}", text, call("solve_equation", equation=equation.format(a=a, b=b, c=c)))


_BUILDERS = {
    "story": _story,
    "convert": _convert,
    "statistic": _statistic,
    "change": _change,
    "solve": _solve,
}


def _parallel(rng: random.Random, wording: Wording) -> tuple[str, str, list[dict[str, Any]]]:
    """Two problems in one message; their own frames are common ones, only their joint may be held out."""
    scene = Scene(rng, "common")
    first, second = (_BUILDERS[family](scene) for family in rng.choices(("convert", "statistic", "change"), k=2))
    frame, joint = wordings.BOTH.pick(rng, wording)
    text = joint.format(first=first.text, first2=decapitalise(first.text), second=decapitalise(second.text))
    return f"parallel.{frame}", text, [first.call, second.call]


def _decline(scene: Scene) -> tuple[str, str, str]:
    """Frame, request and answer of a row in which no call is right; missing numbers are asked for."""
    rng = scene.rng
    kind = rng.choices(("off_topic", "small_talk", "no_numbers"), (40, 18, 42))[0]
    frames: Wordings = getattr(wordings, kind.upper())
    slots = {
        "name": rng.choice(FIRST_NAMES),
        "thing": rng.choice(_THINGS),
        "city": rng.choice(CITIES),
        "of": rng.choice(_MEASURED),
    }
    frame, text = scene.say(frames, **slots)
    text = text if kind == "small_talk" else dress(rng, text, scene.wording)
    return f"{kind}.{frame}", text, _REPLIES[kind]


def _build(rng: random.Random, family: str, wording: Wording) -> Row:
    if family == "no_call":
        frame, text, reply = _decline(Scene(rng, wording))
        return make_row("", text, reply, declare(rng, TOOLS, []), frame=frame)
    if family == "parallel":
        frame, text, calls = _parallel(rng, wording)
    else:
        task = _BUILDERS[family](Scene(rng, wording))
        frame, text, calls = task.frame, dress(rng, task.text, wording), [task.call]
    return make_row("", text, calls, declare(rng, TOOLS, [entry["function"]["name"] for entry in calls]), frame=frame)


def rows() -> list[Row]:
    """Every row of the task, the same on every call."""
    return generate(random.Random("fgpipe math 1"), QUOTAS, _build)
