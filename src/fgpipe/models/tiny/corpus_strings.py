"""Other strings to compose from rules in the prompt: formulas, schedules, templates, lists of settings."""

from __future__ import annotations

import random
from typing import Any

from fgpipe.models.tiny import corpus_values as values
from fgpipe.models.tiny import words

Composed = tuple[list[str], list[dict[str, Any]], str, dict[str, Any]]
"""Developer notes, tools, request, and the call it needs."""


def _one(name: str, about: str, key: str, described: str, value: str, notes: list[str], said: str) -> Composed:
    schema = {"type": "object", "properties": {key: {"type": "string", "description": described}}, "required": [key]}
    tool = {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}
    return notes, [tool], said, {"name": name, "arguments": {key: value}}


# operator -> English forms over two operands
_STEPS = {
    "+": (
        "{a} plus {b}",
        "the sum of {a} and {b}",
        "add {b} to {a}",
        "{a} and {b} together",
        "{a} increased by {b}",
        "{a} combined with {b}",
        "{b} more than {a}",
        "{a} topped up with {b}",
        "{a} and another {b}",
        "{a} joined by {b}",
    ),
    "-": (
        "{a} minus {b}",
        "take {b} from {a}",
        "subtract {b} from {a}",
        "{a} less {b}",
        "{a} reduced by {b}",
        "{a} without {b}",
        "{b} fewer than {a}",
        "what is left of {a} after {b}",
        "{a} once {b} is gone",
        "{a} after losing {b}",
    ),
    "*": (
        "{a} times {b}",
        "the product of {a} and {b}",
        "multiply {a} by {b}",
        "{a} multiplied by {b}",
        "{a} at {b} each",
        "{b} lots of {a}",
        "{a} repeated {b} times",
        "{a} for every {b}",
        "{b} groups of {a}",
    ),
    "/": (
        "{a} divided by {b}",
        "divide {a} by {b}",
        "the ratio of {a} to {b}",
        "{a} over {b}",
        "{a} split {b} ways",
        "{a} shared equally among {b}",
        "{a} per {b}",
        "{a} spread evenly over {b}",
    ),
}
_ORDER = {
    "+": "{a}, then add {b}",
    "-": "{a}, then subtract {b}",
    "*": "{a}, then multiply by {b}",
    "/": "{a}, then divide by {b}",
}


def formula_row(rng: random.Random) -> Composed:
    """A derived column over named fields, in a notation the prompt defines; never a sum of two plain numbers."""
    symbols = rng.choice(
        (
            {"+": "+", "-": "-", "*": "*", "/": "/"},
            {"+": "add", "-": "sub", "*": "mul", "/": "div"},
            {"+": "plus", "-": "minus", "*": "times", "/": "over"},
            {"+": "sum", "-": "diff", "*": "prod", "/": "quot"},
        )
    )
    form = rng.choice(
        (
            "({o} {a} {b})",
            "{o}({a}, {b})",
            "({a} {o} {b})",
            "({a} {o} {b})",
            "{a} {b} {o}",
            "[{a} {o} {b}]",
            "{o}[{a};{b}]",
        )
    )
    fields = [
        rng.choice(
            (
                rng.choice(words.SINGULAR),
                f"{rng.choice(words.SINGULAR)}_{rng.choice(('price', 'count', 'cost', 'rate', 'total', 'size'))}",
            )
        )
        for _ in range(rng.randint(3, 6))
    ]
    mark = rng.choice(("{}", "{}", "{}", "${}", "[{}]", "{{{}}}", "row.{}"))

    def leaf(*, named: bool) -> tuple[str, str]:
        if named or rng.random() < 0.6:
            name = rng.choice(fields)
            return name.replace("_", " ") if rng.random() < 0.5 else name, mark.format(name)
        return values.said_number(rng)[0] if rng.random() < 0.4 else str(rng.randint(2, 500)), ""

    def operand(*, named: bool) -> tuple[str, str]:
        said, written = leaf(named=named)
        return said, written or said

    o = rng.choice("+-*/")
    (a_said, a), (b_said, b) = operand(named=True), operand(named=False)
    said, value = rng.choice(_STEPS[o]).format(a=a_said, b=b_said), form.format(o=symbols[o], a=a, b=b)
    for _ in range(rng.choice((0, 1, 1, 2))):
        o = rng.choice("+-*/")
        b_said, b = operand(named=False)
        said, value = _ORDER[o].format(a=said, b=b_said), form.format(o=symbols[o], a=value, b=b)
    noun = rng.choice(words.SINGULAR)
    rule = (
        rng.choice(("Formulas are written {f}.", "Notation: {f}", "Write {f} for each step", "Form: {f}.")).format(
            f=form.format(o="OP", a="A", b="B")
        )
        + " "
        + rng.choice(("OP: ", "with ", "where "))
        + ", ".join(
            f"{symbols[x]} {w}" for x, w in zip("+-*/", ("adds", "subtracts", "multiplies", "divides"), strict=True)
        )
    )
    notes = [
        f"{rng.choice(('Fields', 'Columns', 'The sheet has', 'Known fields'))}: {', '.join(fields)}"
        + (f" (written {mark.format('field')})" if mark != "{}" else "")
    ]
    described = "The formula"
    if rng.random() < 0.6:
        notes.append(rule)
    else:
        described = rule
    request = rng.choice(
        (
            "define a {n} column: {s}",
            "derive {n} as {s}",
            "add a field {n}: {s}",
            "the {n} is {s}",
            "new column {n} = {s}",
            "{s}, call it {n}",
            "show {s} as {n}",
        )
    ).format(n=noun, s=said)
    name = rng.choice(("define_column", "derive_field", "add_column", "new_field", f"{noun}_rule", "set_formula"))
    key = rng.choice(("formula", "rule", "definition", "expression", "as"))
    return _one(
        name,
        rng.choice(("Adds a derived column.", "Define a field", "New column from others")),
        key,
        described,
        value,
        notes,
        request,
    )


def schedule_row(rng: random.Random) -> Composed:
    """A recurring time as a compact string whose field order the prompt gives."""
    order = rng.sample(("minute", "hour", "weekday"), 3) if rng.random() < 0.6 else ["minute", "hour", "weekday"]
    hour, minute = rng.randint(0, 23), rng.choice((0, 15, 30, 45, rng.randint(0, 59)))
    separator, anything = rng.choice((" ", " ", ":", "/", ",", "|")), rng.choice(("*", "*", "any", "-", "?"))
    short = rng.random() < 0.5
    day = rng.choice(("", *words.WEEKDAYS))
    found = {"minute": str(minute), "hour": str(hour), "weekday": (day[:3].lower() if short else day) or anything}
    clock = f"{hour}:{minute:02}"
    when = (
        f"every {day} at {clock}"
        if day
        else rng.choice((f"every day at {clock}", f"daily at {clock}", f"at {clock} each day"))
    )
    thing = rng.choice(words.SINGULAR)
    rule = (
        rng.choice(("Schedule format: {r}", "Format {r}", "Written as {r}")).format(r=separator.join(order))
        + f", {anything} for any; weekdays like {'mon' if short else 'Monday'}"
    )
    verb = rng.choice(("run", "repeat", "trigger", "start"))
    name = f"{verb}_{thing}"
    value = separator.join(found[part] for part in order)
    in_notes = rng.random() < 0.5
    return _one(
        name,
        f"{verb.capitalize()} the {thing} on a schedule.",
        rng.choice(("when", "schedule", "timing")),
        "When" if in_notes else rule,
        value,
        [rule] if in_notes else [],
        rng.choice((f"{verb} the {thing} {when}", f"{when}, {verb} the {thing}")),
    )


def template_row(rng: random.Random) -> Composed:
    """A template from the prompt with its gaps filled from the request."""
    makers = {
        "name": values.said_person,
        "city": values.said_city,
        "code": values.said_code,
        "date": values.said_date,
        "time": values.said_time,
        "item": values.said_title,
        "count": values.said_integer,
        "price": values.said_number,
        "day": values.said_weekday,
    }
    keys = rng.sample(sorted(makers), rng.randint(2, 4))
    found = {key: makers[key](rng) for key in keys}
    gap = rng.choice(("{{{}}}", "<{}>", "[{}]", "${}", "%{}%"))
    text = ""
    joints = ("", " ", ", ", " - ", "/", ": ", " for ", " at ", " on ", " of ", " and ", " is ", "_")
    for key in keys:
        text += (
            (rng.choice(words.ADJECTIVES + words.SINGULAR) + " " if rng.random() < 0.5 else "")
            + gap.format(key)
            + rng.choice(joints)
        )
    text += rng.choice(("", "!", ".", rng.choice(words.SINGULAR)))
    text = rng.choice(("Dear ", "Hello ", "", "", "Note: ", "/")) + text.strip(" ,-:_")
    value = text
    for key in keys:
        value = value.replace(gap.format(key), str(found[key][1]))
    rng.shuffle(keys)
    thing = rng.choice(words.SINGULAR)
    said = values.listed(
        rng, [rng.choice((f"{k} {found[k][0]}", f"{k} is {found[k][0]}", f"{k}: {found[k][0]}")) for k in keys]
    )
    verb = rng.choice(("print", "write", "prepare", "fill"))
    request = rng.choice((f"{verb} the {thing}: {said}", f"{verb} a {thing} with {said}", f"{thing} {verb}, {said}"))
    rule = rng.choice(("Template: ", "Pattern: ", f"The {thing} reads: ", "Form: ")) + text
    in_notes = rng.random() < 0.5
    return _one(
        f"{verb}_{thing}",
        f"{verb.capitalize()} a {thing}.",
        rng.choice(("text", "line", "content", "label", "path")),
        "The text" if in_notes else rule,
        value,
        [rule] if in_notes else [],
        request,
    )


def pairs_row(rng: random.Random) -> Composed:
    """Settings as a list of keys and values in a syntax the prompt shows; keys are renamed by a legend."""
    separator, equals = (
        rng.choice((";", "; ", ",", ", ", "&", " ", "|")),
        rng.choice(("=", ":", "=", " = ", "->", ": ")),
    )
    legend = {
        rng.choice(words.SINGULAR): rng.choice((words.pseudo_word(rng), rng.choice(words.SINGULAR), ""))
        for _ in range(rng.randint(3, 5))
    }
    makers = (
        values.said_integer,
        values.said_number,
        values.said_colour,
        values.said_code,
        values.said_city,
        values.said_weekday,
    )
    chosen = {key: rng.choice(makers)(rng) for key in rng.sample(sorted(legend), rng.randint(1, min(3, len(legend))))}
    value = separator.join(f"{legend[key] or key}{equals}{v}" for key, (_, v) in chosen.items())
    said = values.listed(
        rng, [rng.choice((f"{key} {w}", f"{key} to {w}", f"{key} = {w}")) for key, (w, _) in chosen.items()]
    )
    thing = rng.choice(words.SINGULAR)
    rule = (
        rng.choice(("Keys: ", "Short names: ", "Legend: "))
        + ", ".join(f"{new or key} for {key}" for key, new in legend.items())
        + f". Write key{equals}value{separator}key{equals}value"
    )
    in_notes = rng.random() < 0.6
    return _one(
        f"set_{thing}",
        f"Changes settings of the {thing}.",
        rng.choice(("settings", "values", "config", "pairs")),
        "Settings" if in_notes else rule,
        value,
        [rule] if in_notes else [],
        rng.choice((f"set {said} on the {thing}", f"{thing}: {said}", f"change the {thing}: {said}")),
    )
