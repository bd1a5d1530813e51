"""The email task: a mail assistant with five tools and the conventions of one company.

The conventions, which no declaration spells out: addresses are `first.last@domain`; subjects are `Tag: topic`; every
message has a priority; each folder takes in several kinds of mail; times are `mon-am`; dates are ISO dates of the year
that the context names.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fgpipe.data.tasks import email_wordings as wordings
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
from fgpipe.data.tasks.vocabulary import CITIES, FIRST_NAMES, person

_SENDER = parameter("string", "The sender.")
TOOLS = {
    "send_email": tool(
        "send_email",
        "Send a message.",
        {
            "to": parameter("array", "Addresses.", items="string"),
            "subject": parameter("string", "Subject line."),
            "priority": parameter("string", "Priority.", enum=("low", "normal", "high")),
        },
        required=["to", "subject", "priority"],
    ),
    "search_email": tool(
        "search_email",
        "Search messages.",
        {
            "address": _SENDER,
            "unread": parameter("boolean", "Unread only."),
            "after": parameter("string", "Start date."),
        },
        required=["address"],
    ),
    "move_email": tool(
        "move_email",
        "Move messages to a folder.",
        {"address": _SENDER, "folder": parameter("string", "The folder.", enum=tuple(wordings.FOLDERS))},
        required=["address", "folder"],
    ),
    "snooze_email": tool(
        "snooze_email",
        "Hide messages for now.",
        {"address": _SENDER, "until": parameter("string", "Time slot.")},
        required=["address", "until"],
    ),
    "set_auto_reply": tool(
        "set_auto_reply",
        "Answer messages while away.",
        {"until": parameter("string", "Last date.")},
        required=["until"],
    ),
}
QUOTAS = (
    ("send", 880),
    ("search", 500),
    ("move", 400),
    ("snooze", 360),
    ("auto_reply", 180),
    ("parallel", 220),
    ("no_call", 370),
)
_DOMAINS = (
    *("brightwell.io", "northpine.com", "oakline.org", "lumio.net", "harborco.com", "pixelmill.io", "greenway.org"),
    *("bluefin.net", "coralbay.com", "stonegate.io", "farmlink.org", "redkite.net", "cityloop.com", "silverleaf.io"),
    *("openfield.org", "kestrel.com"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SLOTS = (("morning", "am"), ("afternoon", "pm"), ("evening", "eve"))
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_ADJECTIVES = (
    *("new", "final", "revised", "updated", "latest", "draft", "Q1", "Q2", "Q3", "Q4"),
    *("Oslo", "Madrid", "Boston", "Lyon", "Dublin", "Vienna", "Austin", "Milan"),
)
_THINGS = (
    *("budget", "contract", "invoice", "roadmap", "price list", "report", "sales plan", "floor plan", "website text"),
    *("travel policy", "survey", "slides", "training plan", "product photos", "test results", "stock count"),
    *("job offer", "customer list", "security audit", "press release", "design brief", "holiday rota"),
)
_EVENTS = (
    *("team lunch", "planning meeting", "budget review", "summer party", "kick-off call", "product demo", "workshop"),
    *("board meeting", "training day", "town hall", "farewell drinks", "client dinner", "design review", "sales call"),
)
_FAVOURS = ("feedback on the", "help with the", "work on the", "comments on the", "quick reply on the")
_REPLIES = {
    "off_topic": "I can't do that; I can only help with your email.",
    "small_talk": "Happy to help with your email!",
    "no_topic": "What should the email be about?",
    "no_person": "Who should I send it to?",
    "no_time": "Until when should I snooze it?",
    "no_folder": "Which folder should I move it to?",
}


@dataclass(frozen=True)
class Task:
    """Something asked of the assistant: the sentence, the frame it came from, and the calls that do it."""

    frame: str
    text: str
    calls: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Scene:
    """One company's mailbox, and the wording that a request must use.

    Attributes:
        year: the year in which every named date lies.
    """

    rng: random.Random
    wording: Wording
    domain: str
    year: int

    def say(self, frames: Wordings, **slots: object) -> tuple[str, str]:
        """A frame's id and the frame with its slots filled."""
        identity, frame = frames.pick(self.rng, self.wording)
        return identity, capitalise(frame.format(**slots))

    def address(self, name: str) -> str:
        """The company's address of a person."""
        return f"{name.lower().replace(' ', '.')}@{self.domain}"

    def date(self) -> tuple[str, str]:
        """A date as people write it, and as the tools want it."""
        month, day = self.rng.randint(1, 12), self.rng.randint(1, 28)
        name = _MONTHS[month - 1]
        spoken = self.rng.choice((f"{day} {name}", f"{name} {day}", f"the {_ordinal(day)} of {name}"))
        return spoken, f"{self.year}-{month:02d}-{day:02d}"

    def context(self) -> str:
        """What the developer message says."""
        return f"Domain: {self.domain}. Year: {self.year}."


def _ordinal(day: int) -> str:
    suffix = "th" if 10 <= day <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


def _draw_scene(rng: random.Random, wording: Wording) -> Scene:
    return Scene(rng, wording, rng.choice(_DOMAINS), rng.choice((2024, 2025, 2026, 2027)))


def _topic(rng: random.Random, tag: str) -> tuple[str, str]:
    """A topic as spoken, and as it stands in a subject line: without its article."""
    if tag == "Invite":
        event = f"{rng.choice(_EVENTS)} on {rng.choice(_DAYS)}" if rng.random() < 0.5 else rng.choice(_EVENTS)
        return f"the {event}", event
    thing = rng.choice(_THINGS)
    if rng.random() < 0.6:
        thing = f"{rng.choice(_ADJECTIVES)} {thing}"
    if tag == "Thanks":
        favour = rng.choice(_FAVOURS)
        return f"the {favour} {thing}", f"{favour} {thing}"
    return f"the {thing}", thing


def _send(scene: Scene) -> Task:
    rng = scene.rng
    tag = rng.choice(tuple(wordings.SEND))
    names = _people(rng, rng.choice((1, 1, 1, 2, 2, 3)))
    spoken, topic = _topic(rng, tag)
    frame, text = scene.say(wordings.SEND[tag], who=spoken_list(names), topic=spoken)
    priority = "normal" if tag == "Thanks" else rng.choice(("low", "normal", "normal", "high"))
    if priority != "normal":
        _, urgency = scene.say(wordings.URGENCY[priority])
        text = f"{text} {urgency}"
    to = [scene.address(name) for name in names]
    sent = call("send_email", to=to, subject=f"{tag}: {topic}", priority=priority)
    return Task(f"send_{tag.lower()}.{frame}", text, (sent,))


def _people(rng: random.Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[person(rng)] = None
    return list(names)


def _search(scene: Scene) -> Task:
    rng, name = scene.rng, person(scene.rng)
    unread, dated = rng.random() < 0.5, rng.random() < 0.6
    arguments: dict[str, Any] = {"address": scene.address(name)}
    mail = (
        rng.choice(("unread mail", "unread messages", "unopened mail"))
        if unread
        else rng.choice(("mail", "messages", "emails"))
    )
    if unread:
        arguments["unread"] = True
    when = ""
    if dated:
        spoken, arguments["after"] = scene.date()
        when = f" {rng.choice(('since', 'after'))} {spoken}"
    frame, text = scene.say(wordings.SEARCH, mail=mail, who=name, when=when)
    return Task(f"search.{frame}", text, (call("search_email", **arguments),))


def _move(scene: Scene) -> Task:
    rng = scene.rng
    names = _people(rng, 2 if rng.random() < 0.15 else 1)
    folder = rng.choice(tuple(wordings.FOLDERS))
    frame, text = scene.say(wordings.MOVE, who=" and ".join(names), folder=rng.choice(wordings.FOLDERS[folder]))
    calls = tuple(call("move_email", address=scene.address(name), folder=folder) for name in names)
    return Task(f"move.{frame}", text, calls)


def _snooze(scene: Scene) -> Task:
    rng, name = scene.rng, person(scene.rng)
    day = rng.choice(_DAYS)
    part, code = rng.choice(_SLOTS) if rng.random() < 0.75 else ("", "am")
    frame, text = scene.say(wordings.SNOOZE, who=name, when=f"{day} {part}".strip())
    until = f"{day[:3].lower()}-{code}"
    return Task(f"snooze.{frame}", text, (call("snooze_email", address=scene.address(name), until=until),))


def _auto_reply(scene: Scene) -> Task:
    spoken, until = scene.date()
    frame, text = scene.say(wordings.AWAY_ON, when=spoken)
    return Task(f"auto_reply.{frame}", text, (call("set_auto_reply", until=until),))


_BUILDERS = {
    "send": _send,
    "search": _search,
    "move": _move,
    "snooze": _snooze,
    "auto_reply": _auto_reply,
}


def _parallel(rng: random.Random, wording: Wording) -> tuple[Scene, Task]:
    """Two requests in one message; their own frames are common ones, only their joint may be held out."""
    scene = _draw_scene(rng, "common")
    first, second = (_BUILDERS[family](scene) for family in rng.sample(("send", "move", "snooze", "search"), 2))
    frame, joint = wordings.BOTH.pick(rng, wording)
    text = joint.format(first=first.text, first2=decapitalise(first.text), second=decapitalise(second.text))
    return scene, Task(f"parallel.{frame}", text, first.calls + second.calls)


def _decline(scene: Scene) -> tuple[str, str, str]:
    """Frame, request and answer of a row in which no call is right; the missing thing is asked for."""
    rng = scene.rng
    kinds = ("off_topic", "small_talk", "no_topic", "no_person", "no_time", "no_folder")
    kind = rng.choices(kinds, (30, 10, 16, 14, 15, 15))[0]
    frames: Wordings = getattr(wordings, kind.upper())
    frame, text = scene.say(
        frames,
        who=person(rng),
        first=rng.choice(FIRST_NAMES),
        city=rng.choice(CITIES),
        day=rng.choice(_DAYS),
        topic=_topic(rng, "Update")[0],
    )
    text = text if kind == "small_talk" else dress(rng, text, scene.wording)
    return f"{kind}.{frame}", text, _REPLIES[kind]


_NEEDED = {"no_topic": "send_email", "no_person": "send_email", "no_time": "snooze_email", "no_folder": "move_email"}


def _build(rng: random.Random, family: str, wording: Wording) -> Row:
    if family == "no_call":
        scene = _draw_scene(rng, wording)
        frame, text, reply = _decline(scene)
        needed = _NEEDED.get(frame.split(".")[0])
        return make_row(scene.context(), text, reply, declare(rng, TOOLS, [needed] if needed else []), frame=frame)
    if family == "parallel":
        scene, task = _parallel(rng, wording)
        text = task.text
    else:
        scene = _draw_scene(rng, wording)
        task = _BUILDERS[family](scene)
        text = dress(rng, task.text, wording)
    tools = declare(rng, TOOLS, [entry["function"]["name"] for entry in task.calls])
    return make_row(scene.context(), text, list(task.calls), tools, frame=task.frame)


def rows() -> list[Row]:
    """Every row of the task, the same on every call."""
    return generate(random.Random("fgpipe email 1"), QUOTAS, _build)
