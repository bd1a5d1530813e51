"""What a table of the sql task is made of, and how people speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_UNCOUNTABLE = ("stock", "mileage")
Kind = Literal["person", "title", "place", "category", "number", "date"]


@dataclass(frozen=True)
class Column:
    """A column, what may stand in it, and how people speak of it."""

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    """What a place, category or title is drawn from."""
    low: int = 0
    high: int = 0
    step: float = 1
    """Distance between the possible numbers from `low` to `high`; not whole for a REAL column."""
    plural: str = ""
    """What several values of a place or category are called; such columns can be grouped by."""
    counted: bool = False
    """The name is a plural noun ("pages"), so one says "number of pages" and "more than 300 pages"."""
    verb: str = ""
    """How a dated thing came about ("placed", "who joined")."""
    adjective: bool = False
    """A value may stand before the noun ("pending orders")."""

    @property
    def sql_type(self) -> str:
        """The type in the schema."""
        if self.kind == "number":
            return "INTEGER" if self.step == int(self.step) else "REAL"
        return "DATE" if self.kind == "date" else "TEXT"

    @property
    def phrase(self) -> str:
        """How a question names the column."""
        words = self.name.replace("_", " ").removesuffix(" km").removesuffix(" kg")
        return f"number of {words}" if self.counted else words

    @property
    def several(self) -> str:
        """How a question names the values of several rows."""
        if self.counted or self.name in _UNCOUNTABLE:
            return self.phrase
        return self.plural or (f"{self.phrase[:-1]}ies" if self.phrase.endswith("y") else f"{self.phrase}s")


@dataclass(frozen=True)
class Table:
    """A table; its rows are called by `label`, the column a "which" question asks for."""

    name: str
    singular: str
    label: str
    columns: tuple[Column, ...]
    parent: str = ""
    """Table whose `id` stands in this table's `<parent's singular>_id`."""
    link: str = "of"
    """The preposition between this table's things and their parent ("orders from customers")."""

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Quality:
    """How people compare things by a number without naming the column."""

    more: str
    less: str
    most: str = ""
    least: str = ""


QUALITIES = {
    "age": Quality("older than {v}", "younger than {v}", "oldest", "youngest"),
    "price": Quality("costing more than {v}", "costing less than {v}", "most expensive", "cheapest"),
    "minutes": Quality("longer than {v} minutes", "shorter than {v} minutes", "longest", "shortest"),
    "rating": Quality("rated above {v}", "rated below {v}", "best rated", "worst rated"),
    "salary": Quality("earning more than {v}", "earning less than {v}", "best paid", "worst paid"),
    "weight_kg": Quality("heavier than {v} kg", "lighter than {v} kg", "heaviest", "lightest"),
    "distance_km": Quality("longer than {v} km", "shorter than {v} km", "longest", "shortest"),
    "year": Quality("made after {v}", "made before {v}", "newest", "oldest"),
}
