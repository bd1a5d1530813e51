"""Names of invented people, and of real places, that the shipped tasks draw from."""

from __future__ import annotations

import random

FIRST_NAMES = (
    *("Maya", "Tom", "Priya", "Leon", "Clara", "Omar", "Nina", "Jonas", "Ruth", "Diego", "Elena", "Sam", "Aisha"),
    *("Paul", "Greta", "Hugo", "Ines", "Karl", "Lucy", "Marco", "Nadia", "Oscar", "Petra", "Rosa", "Simon", "Tara"),
    *("Victor", "Wendy", "Yusuf", "Zoe", "Anna", "Ben", "Carmen", "David", "Emma", "Felix", "Grace", "Henry", "Iris"),
    *("Jack",),
)
LAST_NAMES = (
    *("Chen", "Ruiz", "Nair", "Weber", "Costa", "Hassan", "Novak", "Berg", "Cole", "Silva", "Rossi", "Patel", "Khan"),
    *("Moore", "Lind", "Meyer", "Lopez", "Kim", "Fischer", "Adams", "Brown", "Clark", "Davis", "Evans", "Ford"),
    *("Green", "Hill", "Jones", "King", "Lee", "Martin", "Olsen", "Park", "Reed", "Stone", "Tanaka", "Walsh", "Young"),
    *("Shaw", "Bauer"),
)
CITIES = (
    *("Leeds", "Porto", "Lyon", "Oslo", "Turin", "Ghent", "Boston", "Denver", "Austin", "Dublin", "Madrid", "Prague"),
    *("Zurich", "Milan", "Perth", "Quito", "Lagos", "Osaka", "Tampa", "Cork", "Bergen", "Vienna", "Seattle", "York"),
)
COUNTRIES = (
    *("France", "Kenya", "Japan", "Brazil", "Norway", "Italy", "Canada", "India", "Spain", "Chile", "Egypt", "Poland"),
    *("Ireland", "Mexico", "Greece", "Ghana", "Peru", "Turkey"),
)


def person(rng: random.Random) -> str:
    """An invented full name."""
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
