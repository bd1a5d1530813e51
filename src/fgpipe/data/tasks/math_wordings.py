"""Word problems and other requests to a calculating assistant.

In a story, `{a}` to `{d}` are numbers, `{name}` a person, `{thing}` and `{other}` things in the plural.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fgpipe.data.tasks.rows import Wordings


@dataclass(frozen=True)
class Story:
    """Word problems that all come to the same expression.

    Attributes:
        expression: products, quotients and inner sums in brackets, one space around every sign.
        low: the smallest value of each of `{a}`, `{b}`, …
        high: the largest value of each.
        decimal: which of the numbers are amounts of money such as 3.75.
        shared: what of the numbers is divided by the last one; `{a}` is raised until it divides evenly.
    """

    expression: str
    low: tuple[int, ...]
    high: tuple[int, ...]
    wordings: Wordings
    decimal: str = ""
    shared: Callable[[dict[str, int]], int] | None = None


STORIES: dict[str, Story] = {
    "groups": Story(
        "{a} * {b}",
        (3, 4),
        (40, 60),
        Wordings(
            common=(
                "{name} buys {a} boxes with {b} {thing} each. How many {thing} is that?",
                "There are {a} rows of {b} {thing} each. How many {thing} are there in total?",
                "A shop gets {a} crates of {b} {thing} each. How many {thing} are there in all?",
                "{name} packs {b} {thing} into each of {a} bags. How many {thing} does that make?",
            ),
            held_out=("How many {thing} are there in {a} baskets if each one holds {b}?",),
        ),
    ),
    "groups_and_more": Story(
        "({a} * {b}) + {c}",
        (3, 4, 2),
        (40, 60, 90),
        Wordings(
            common=(
                "{name} has {a} boxes with {b} {thing} each and {c} loose ones. How many {thing} is that?",
                "There are {a} bags of {b} {thing} each, plus {c} more on the table. How many {thing} are there?",
                "{name} buys {a} packs of {b} {thing} each and then finds {c} more. How many {thing} in total?",
                "A shop gets {a} crates of {b} {thing} each and {c} extra ones. How many {thing} does it have now?",
            ),
            held_out=("With {a} jars of {b} {thing} each and {c} more on top, how many {thing} does {name} have?",),
        ),
    ),
    "groups_and_less": Story(
        "({a} * {b}) - {c}",
        (6, 8, 2),
        (40, 60, 40),
        Wordings(
            common=(
                "{name} has {a} boxes with {b} {thing} each and gives away {c}. How many {thing} are left?",
                "There are {a} bags of {b} {thing} each, but {c} are broken. How many good {thing} are left?",
                "A shop gets {a} crates of {b} {thing} each and sells {c}. How many {thing} are left?",
                "{name} buys {a} packs of {b} {thing} each and loses {c}. How many {thing} remain?",
            ),
            held_out=("Out of {a} trays with {b} {thing} each, {name} gives away {c}. What is left?",),
        ),
    ),
    "share": Story(
        "{a} / {b}",
        (40, 2),
        (900, 12),
        Wordings(
            common=(
                "{name} shares {a} {thing} equally among {b} friends. How many does each get?",
                "{a} {thing} are split evenly between {b} teams. How many does each team get?",
                "{name} divides {a} {thing} equally into {b} bags. How many go into each bag?",
                "If {b} children share {a} {thing} equally, how many does each child get?",
            ),
            held_out=("How many {thing} does each of {b} people get when {a} are shared equally?",),
        ),
        shared=lambda numbers: numbers["a"],
    ),
    "share_the_rest": Story(
        "({a} - {b}) / {c}",
        (60, 3, 2),
        (900, 50, 12),
        Wordings(
            common=(
                "{name} has {a} {thing}, keeps {b} and shares the rest equally among {c} friends. How many each?",
                "Of {a} {thing}, {b} are broken; the rest are split evenly between {c} shops. How many per shop?",
                "{name} takes {b} out of {a} {thing} and divides the rest equally into {c} bags. How many per bag?",
                "A school has {a} {thing}, keeps {b} and splits the rest evenly between {c} classes. How many each?",
            ),
            held_out=("After {b} of {a} {thing} are thrown away, {c} friends share the rest equally. How many each?",),
        ),
        shared=lambda numbers: numbers["a"] - numbers["b"],
    ),
    "share_both": Story(
        "({a} + {b}) / {c}",
        (20, 20, 2),
        (400, 400, 12),
        Wordings(
            common=(
                "{name} has {a} {thing} and {mate} has {b}. They share them equally among {c} friends. How many each?",
                "{a} red and {b} blue {thing} are split evenly between {c} teams. How many does each team get?",
                "{name} has {a} {thing}, buys {b} more and divides them all equally into {c} bags. How many per bag?",
                "{a} {thing} came on Monday and {b} on Tuesday. Split evenly into {c} crates, how many is that each?",
            ),
            held_out=(
                "{name} brings {a} {thing}, {mate} brings {b}, and {c} children share them equally. How many each?",
            ),
        ),
        shared=lambda numbers: numbers["a"] + numbers["b"],
    ),
    "two_prices": Story(
        "({a} * {b}) + ({c} * {d})",
        (2, 2, 2, 2),
        (12, 30, 12, 30),
        Wordings(
            common=(
                "{name} buys {a} {thing} at {b} dollars each and {c} {other} at {d} dollars each. What is the total?",
                "What do {a} {thing} at {b} euros each and {c} {other} at {d} euros each cost together?",
                "{a} {thing} cost {b} dollars each and {c} {other} cost {d} dollars each. What is the total?",
                "{name} sells {a} {thing} for {b} euros each and {c} {other} for {d} euros each. How much is that?",
            ),
            held_out=("What is the bill for {a} {thing} at {b} dollars each plus {c} {other} at {d} dollars each?",),
        ),
        "bd",
    ),
    "change": Story(
        "{a} - ({b} * {c})",
        (50, 2, 2),
        (200, 9, 5),
        Wordings(
            common=(
                "{name} pays with {a} dollars for {b} {thing} at {c} dollars each. How much change is there?",
                "With {a} euros {name} buys {b} {thing} at {c} euros each. How much money is left?",
                "{name} has {a} dollars and spends it on {b} {thing} at {c} dollars each. How much is left?",
                "Starting with {a} euros, {name} pays for {b} {thing} at {c} euros each. How much remains?",
            ),
            held_out=("{name} hands over {a} dollars and takes {b} {thing} at {c} dollars each. What is the change?",),
        ),
        "c",
    ),
    "sum": Story(
        "{a} + {b} + {c}",
        (5, 5, 5),
        (900, 900, 900),
        Wordings(
            common=(
                "{name} counted {a} {thing} on Monday, {b} on Tuesday and {c} on Wednesday. How many is that in total?",
                "Three shops sell {a}, {b} and {c} {thing}. How many do they sell altogether?",
                "Add up {a}, {b} and {c} {thing}.",
                "{name} has {a} {thing}, finds {b} and gets {c} as a gift. How many {thing} is that now?",
            ),
            held_out=("First {a} {thing} arrive, then {b}, and at last {c}. How many arrived in total?",),
        ),
    ),
    "percent_of": Story(
        "({a} / 100) * {b}",
        (2, 30),
        (95, 2000),
        Wordings(
            common=(
                "What is {a}% of {b}?",
                "How much is {a} percent of {b}?",
                "{a}% of {b} {thing} are sold. How many is that?",
                "{name} saves {a} percent of {b} dollars. How much is that?",
            ),
            held_out=("Of {b} {thing}, {a}% are broken. How many is that?",),
        ),
    ),
}
CONVERT = Wordings(
    common=(
        "Convert {amount} {source} to {target}.",
        "How many {target} are {amount} {source}?",
        "What is {amount} {source} in {target}?",
        "Can you turn {amount} {source} into {target}?",
        "I need {amount} {source} in {target}.",
        "{amount} {source} in {target}, please.",
        "How much is {amount} {source} in {target}?",
        "Please change {amount} {source} to {target}.",
    ),
    held_out=(
        "Give me the {target} for {amount} {source}.",
        "If I have {amount} {source}, how many {target} do I have?",
        "My notes say {amount} {source}, but I think in {target}.",
    ),
)
UNITS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "km": ("kilometres", "km"),
        "mi": ("miles",),
        "m": ("metres",),
        "ft": ("feet",),
        "cm": ("centimetres", "cm"),
        "in": ("inches",),
        "yd": ("yards",),
    },
    {"kg": ("kilograms", "kilos", "kg"), "lb": ("pounds",), "g": ("grams",), "oz": ("ounces",)},
    {"l": ("litres",), "ml": ("millilitres", "ml"), "gal": ("gallons",), "cup": ("cups",), "pt": ("pints",)},
    {"degC": ("degrees Celsius",), "degF": ("degrees Fahrenheit",)},
    {"s": ("seconds",), "min": ("minutes",), "h": ("hours",), "d": ("days",), "wk": ("weeks",)},
)
STATISTIC = Wordings(
    common=(
        "What is the {measure} of {numbers}?",
        "Find the {measure} of {numbers}.",
        "Give me the {measure} of these {of}: {numbers}.",
        "Calculate the {measure} for {numbers}.",
        "I need the {measure} of {numbers}.",
        "The {of} were {numbers}. What is the {measure}?",
        "My {of} are {numbers}. Can you find the {measure}?",
        "What's the {measure} of the {of} {numbers}?",
    ),
    held_out=(
        "We measured these {of}: {numbers}. Tell me the {measure}.",
        "Here are my {of}: {numbers}. The {measure}, please.",
        "For {numbers}, what does the {measure} come to?",
    ),
)
MEASURES: dict[str, tuple[str, ...]] = {
    "avg": ("average", "mean"),
    "med": ("median", "middle value"),
    "mode": ("mode", "most common value"),
    "range": ("range", "spread"),
    "sd": ("standard deviation",),
    "max": ("maximum", "largest value"),
    "min": ("minimum", "smallest value"),
}
ADJUST: dict[str, Wordings] = {
    "up": Wordings(
        common=(
            "Add {percent}% tax to {amount} dollars.",
            "What is {amount} euros plus {percent}% VAT?",
            "The bill is {amount} dollars. Add a {percent}% tip.",
            "A rent of {amount} euros goes up by {percent}%. What is it now?",
            "{name} earns {amount} dollars and gets a {percent}% raise. What is the new pay?",
            "Increase {amount} by {percent} percent.",
        ),
        held_out=(
            "With a {percent}% tip, what do I pay on a bill of {amount} dollars?",
            "Prices go up by {percent}%. What does a {amount} euro ticket cost then?",
        ),
    ),
    "down": Wordings(
        common=(
            "Take {percent}% off {amount} dollars.",
            "What is {amount} euros with a {percent}% discount?",
            "A coat costs {amount} dollars and is {percent}% off. What is the price now?",
            "A rent of {amount} euros goes down by {percent}%. What is it now?",
            "{name} gets a {percent}% discount on {amount} dollars. What is the price?",
            "Reduce {amount} by {percent} percent.",
        ),
        held_out=(
            "With a {percent}% discount, what do I pay for a bike of {amount} dollars?",
            "Prices go down by {percent}%. What does a {amount} euro ticket cost then?",
        ),
    ),
}
SOLVE: dict[str, Wordings] = {
    "({a} * x) + {b} = {c}": Wordings(
        common=(
            "{a} times a number plus {b} is {c}. What is the number?",
            "If I multiply a number by {a} and add {b}, I get {c}. Find the number.",
            "A taxi costs {b} dollars plus {a} dollars per mile. {name} paid {c} dollars. How many miles was it?",
            "Which number times {a}, plus {b}, gives {c}?",
        ),
        held_out=("{name} multiplies a number by {a}, adds {b} and gets {c}. Which number was it?",),
    ),
    "({a} * x) - {b} = {c}": Wordings(
        common=(
            "{a} times a number minus {b} is {c}. What is the number?",
            "If I multiply a number by {a} and subtract {b}, I get {c}. Find the number.",
            "Which number times {a}, minus {b}, gives {c}?",
        ),
        held_out=("{name} multiplies a number by {a}, subtracts {b} and gets {c}. Which number was it?",),
    ),
    "x + {a} = {c}": Wordings(
        common=(
            "A number plus {a} is {c}. What is the number?",
            "If I add {a} to a number, I get {c}. Find the number.",
            "Which number plus {a} gives {c}?",
        ),
        held_out=("{name} adds {a} to a number and gets {c}. Which number was it?",),
    ),
    "x / {a} = {c}": Wordings(
        common=(
            "A number divided by {a} is {c}. What is the number?",
            "If I divide a number by {a}, I get {c}. Find the number.",
            "Which number divided by {a} gives {c}?",
        ),
        held_out=("{name} divides a number by {a} and gets {c}. Which number was it?",),
    ),
}
BOTH = Wordings(
    common=(
        "{first} And {second}",
        "{first} Also, {second}",
        "Two things. {first} And {second}",
        "{first} After that, {second}",
    ),
    held_out=("First, {first2} Second, {second}", "{first} While you are at it, {second}"),
)

OFF_TOPIC = Wordings(
    common=(
        "What's the weather like in {city}?",
        "Who is the mayor of {city}?",
        "Write a poem about {thing}.",
        "Send {name} a message.",
        "Where can I buy {thing} in {city}?",
        "Tell me a story about {name} and the {thing}.",
        "Book a train to {city} for {name}.",
        "What colour are {thing}?",
        "Call {name}.",
    ),
    held_out=("Would you send a message to {name}?", "I need a hotel in {city}.", "Sing me a song about {thing}."),
)
SMALL_TALK = Wordings(
    common=(
        "Thanks, that was quick! {name}",
        "Hello, {name} here.",
        "Hi, I'm {name}. What can you do?",
        "Good morning! My name is {name}.",
        "Do you like {thing}?",
        "See you soon. {name}",
    ),
    held_out=("Nice to meet you, {name} is my name.", "I'm {name}, and I think {thing} are great."),
)
NO_NUMBERS = Wordings(
    common=(
        "How many {thing} does {name} have in total?",
        "What is the average of my {of}?",
        "{name} shares some {thing} with friends. How many does each get?",
        "How much do the {thing} cost together?",
        "{name} buys a few boxes of {thing}. How many {thing} is that?",
        "What is the median of {name}'s {of}?",
        "Add up all of {name}'s {of}.",
    ),
    held_out=(
        "Some of the {thing} are lost. How many does {name} still have?",
        "Tell me what {name}'s {of} come to on average.",
    ),
)
