"""Argument values of the synthetic corpus: each is what the user says paired with what the call must hold."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

from fgpipe.models.tiny import words

Said = tuple[str, Any]
"""What the user says, and the argument it stands for."""


def code(rng: random.Random) -> str:
    """A reference such as `AB-1934`, `kx77`, `#40213` or `inv_2024_17`."""
    letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 4)))
    number = "".join(rng.choices(string.digits, k=rng.randint(2, 6)))
    return rng.choice(
        (
            f"{letters}-{number}",
            f"{letters}{number}",
            f"{letters.lower()}{number}",
            f"#{number}",
            f"{letters.lower()}_{number[:2]}_{number[2:]}",
            f"{number}{letters[0]}",
            f"{number}-{letters}-{rng.randint(1, 99)}",
            f"{words.pseudo_word(rng)}-{number}",
        )
    )


def title(rng: random.Random) -> str:
    """A name of a thing in one to four words, with any capitals."""
    text = " ".join(words.any_word(rng) for _ in range(rng.choice((1, 1, 2, 2, 2, 3, 4))))
    pick = rng.random()
    if pick < 0.5:
        return text.title()
    if pick < 0.7:
        return text
    return text.capitalize() if pick < 0.95 else text.upper()


def address(rng: random.Random) -> str:
    """An address of a person on an invented host, e.g. `nora.falk@brelou.example`."""
    first, last = rng.choice(words.FIRST_NAMES).lower(), rng.choice(words.LAST_NAMES).lower()
    local = rng.choice(
        (
            first,
            f"{first}.{last}",
            f"{first[0]}{last}",
            f"{first}_{last}",
            last,
            f"{first}{rng.randint(1, 99)}",
            rng.choice(words.SINGULAR),
        )
    )
    host = rng.choice((words.pseudo_word(rng), rng.choice(words.SINGULAR), rng.choice(words.ADJECTIVES)))
    return f"{local}@{host}.{rng.choice(('example', 'com', 'org', 'net', 'io', 'co'))}"


_BEYOND_ASCII = (
    "áàâäãåéèêëíìîïóòôöõøúùûüçñßæœłśżćěščžřýđğışабвгдежзиклмнопрстуфхцчшщыь"
    "эюяαβγδεζηθλμπρσωאבגדהוזחטיアイウエカキテスト東京中文日本語한국어العربية€£¥°±×→✓🙂🚀🎉❤"
)


def foreign(rng: random.Random) -> str:
    """Text with letters and signs beyond ASCII, so that the byte tokens get their training."""
    word = list(words.pseudo_word(rng))
    for _ in range(rng.randint(1, 4)):
        word.insert(rng.randint(0, len(word)), rng.choice(_BEYOND_ASCII))
    return "".join(word).strip()


def said_integer(rng: random.Random) -> Said:
    """An integer in digits, or a small one in words."""
    if rng.random() < 0.2:
        return rng.choice(list(words.NUMBER_WORDS.items()))
    value = rng.choice(
        (rng.randint(0, 12), rng.randint(1, 100), rng.randint(1, 100), rng.randint(100, 2000), rng.randint(1000, 99999))
    )
    return str(value), value


def said_number(rng: random.Random) -> Said:
    """A decimal that `str` writes as it is said; one in five is an integer, one in twenty negative."""
    pick = rng.random()
    value: int | float
    if pick < 0.2:
        value = rng.randint(1, 500)
    elif pick < 0.6:
        value = round(rng.uniform(0.1, 100), 1)
    else:
        value = round(rng.uniform(0.1, 1000), 2)
    if rng.random() < 0.05:
        value = -value
    return str(value), value


def iso_date(rng: random.Random) -> str:
    """A day as `YYYY-MM-DD`."""
    return f"{rng.randint(2018, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def said_date(rng: random.Random) -> Said:
    """A day, half the time said with the month's name; the argument is always ISO."""
    iso = iso_date(rng)
    if rng.random() < 0.55:
        return iso, iso
    year, month, day = iso.split("-")
    name, number = words.MONTHS[int(month) - 1], int(day)
    return rng.choice((f"{number} {name} {year}", f"{name} {number}, {year}", f"{name} {number} {year}")), iso


def said_time(rng: random.Random) -> Said:
    """A time of day as `HH:MM`, one in four said with am or pm."""
    hour, minute = rng.randint(0, 23), rng.choice((0, 0, 15, 30, 45, rng.randint(0, 59)))
    value = f"{hour:02}:{minute:02}"
    if rng.random() < 0.75:
        return value, value
    half = "am" if hour < 12 else "pm"
    clock = (hour - 1) % 12 + 1
    return (f"{clock} {half}" if minute == 0 else f"{clock}:{minute:02} {half}"), value


def _same(make: Callable[[random.Random], str]) -> Callable[[random.Random], Said]:
    def said(rng: random.Random) -> Said:
        value = make(rng)
        return value, value

    return said


def _quoted(make: Callable[[random.Random], str]) -> Callable[[random.Random], Said]:
    def said(rng: random.Random) -> Said:
        value = make(rng)
        mark = rng.choice('""\'')
        return (f"{mark}{value}{mark}" if mark not in value else value), value

    return said


def _city(rng: random.Random) -> str:
    return rng.choice(words.CITIES) if rng.random() < 0.85 else words.pseudo_word(rng).capitalize()


said_person = _same(words.person)
said_city = _same(_city)
said_code = _same(code)
said_address = _same(address)
said_title = _same(title)
said_quoted_title = _quoted(title)
said_sentence = _quoted(words.sentence)
said_colour = _same(lambda rng: rng.choice(words.COLOURS))
said_weekday = _same(lambda rng: rng.choice(words.WEEKDAYS))
said_foreign = _quoted(foreign)
said_path = _same(
    lambda rng: (
        "/".join(["", *(words.any_word(rng) for _ in range(rng.randint(1, 3)))])
        + rng.choice(("", ".txt", ".pdf", ".csv", ".log", ".json"))
    )
)


def listed(rng: random.Random, items: list[str]) -> str:
    """Items as people list them: `a, b and c`; the empty text for none."""
    if len(items) < 2:
        return "".join(items)
    last = rng.choice((" and ", " and ", ", ", " & ", ", and "))
    return ", ".join(items[:-1]) + last + items[-1]
