"""Keeps a process running: one that dies is started again by itself, more slowly each time, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from fgpipe.errors import FgpipeError, ServeError
from fgpipe.progress import say
from fgpipe.serving.process import POLL_S

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Before a start after a death; each quick death doubles it."""

SETTLED_S = 60.0
"""A process that answered for so long and dies is not counted among those that cannot live."""

QUICK_DEATHS = 5
"""In a row, after which it is left down: a fault of the machine or the settings, which no further start mends."""


class Service(Protocol):
    """A process of ours that answers when it is ready; VllmServer is one."""

    def start(self) -> None:
        """Start it; does not wait until it answers. Raises FgpipeError if it cannot be started."""

    def answers(self) -> bool:
        """Whether it is ready."""

    def require_alive(self) -> None:
        """Do nothing if it lives. Raises ServeError, with the reason, if it ended."""

    def stop(self) -> None:
        """End it and all it started; nothing if it is not running."""


def pause_s(quick_deaths: int) -> float | None:
    """How long to wait before the next start after so many quick deaths in a row; None: it is given up."""
    if quick_deaths >= QUICK_DEATHS:
        return None
    return float(min(FIRST_PAUSE_S * 2 ** max(0, quick_deaths - 1), LONGEST_PAUSE_S))


class Keeper:
    """Watches one service that was started and answered; `look` does the next thing that is due.

    Args:
        name: of the service, in messages.
        patience_s: longest wait for it to answer after a start.
    """

    def __init__(self, name: str, service: Service, *, patience_s: float) -> None:
        self.name = name
        self.service = service
        self.patience_s = patience_s
        self.given_up = False
        self.deaths = 0
        self._quick_deaths = 0
        self._answering_since: float | None = time.monotonic()
        self._began = 0.0
        self._next_start: float | None = None

    def look(self, now_s: float) -> None:
        """Start it again if it died and its pause is over; say what happened to it."""
        if self.given_up:
            return
        try:
            if self._next_start is None:
                self._watch(now_s)
            elif now_s >= self._next_start:
                self._next_start, self._began = None, now_s
                self.service.start()
        except FgpipeError as error:
            self._died(error, now_s)

    def _watch(self, now_s: float) -> None:
        self.service.require_alive()
        if self._answering_since is not None:
            return
        if self.service.answers():
            self._answering_since = now_s
            say(f"{self.name}: answers again, {now_s - self._began:.0f} s after its start")
        elif now_s - self._began > self.patience_s:
            raise ServeError(f"got no answer in {self.patience_s:.0f} s after its start, expected it to be ready")

    def _died(self, error: FgpipeError, now_s: float) -> None:
        self.service.stop()
        settled = self._answering_since is not None and now_s - self._answering_since >= SETTLED_S
        self.deaths += 1
        self._quick_deaths = 1 if settled else self._quick_deaths + 1
        self._answering_since = None
        pause = pause_s(self._quick_deaths)
        say(f"{self.name}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        if pause is None:
            self.given_up = True
            say(f"{self.name}: ended {self._quick_deaths} times soon after its start, expected it to live; left down")
        else:
            self._next_start = now_s + pause
            say(f"{self.name}: starts again in {pause:g} s; the others go on")


def keep(replicas: Sequence[Keeper], *needed: Keeper, look: Callable[[], object]) -> NoReturn:
    """Watch all of them, calling `look` often.

    Args:
        replicas: of which one is enough.
        needed: without which these are no use.

    Raises:
        ServeError: every replica was given up, or one that is needed.
    """
    while True:
        look()
        for keeper in (*replicas, *needed):
            keeper.look(time.monotonic())
        lost = [keeper.name for keeper in replicas if keeper.given_up]
        if len(lost) < len(replicas):
            lost = [keeper.name for keeper in needed if keeper.given_up]
        if lost:
            raise ServeError(
                f"{', '.join(lost)}: ended {QUICK_DEATHS} times soon after the start, expected it to live",
                hint="the reason is above; mend it and start again",
            )
        time.sleep(POLL_S)
