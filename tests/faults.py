"""Work stopped at its k-th step: the process killed, or the disk full.

A forked child does the work under an audit hook or a profiler, which see every file operation and connection, and every
call of the system and of open files.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from fgpipe.errors import FgpipeError

FILE_EVENTS = ("open", "os.", "shutil.", "fcntl.", "socket.connect")

KILLED = 9
REFUSED = 7
FINISHED = 0


def in_child(work: Callable[[], Any], arm: Callable[[], None]) -> int:
    """Exit status of a forked child that runs `work` after `arm`; REFUSED if it ended with an error of ours."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            arm()
            work()
            status = FINISHED
        except FgpipeError:
            status = REFUSED
        finally:
            sys.setprofile(None)
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_event(step: int) -> Callable[[], None]:
    """Die just before the step-th file operation."""

    def arm() -> None:
        left = [step]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event.startswith(FILE_EVENTS):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(KILLED)

        sys.addaudithook(hook)

    return arm


def kill_at_call(step: int) -> Callable[[], None]:
    """Die just before the step-th call of the system or of an open file: a write, a flush, a rename."""

    def arm() -> None:
        left = [step]

        def profile(frame: Any, event: str, argument: Any) -> None:
            if event == "c_call" and reaches_files(argument):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(KILLED)

        sys.setprofile(profile)

    return arm


def reaches_files(function: Any) -> bool:
    """Whether a built-in belongs to the system interface or is a method of an open file."""
    if function in (os.fspath, os._exit):
        return False
    owner = getattr(function, "__self__", None)
    return getattr(owner, "__name__", "") in ("posix", "fcntl", "io", "_io") or type(owner).__module__ == "_io"


def fail_from_event(step: int) -> Callable[[], None]:
    """From the step-th file operation on, whatever would take space fails: the disk is full."""

    def arm() -> None:
        left = [step]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if not event.startswith(FILE_EVENTS):
                return
            left[0] -= 1
            writes = event in ("os.mkdir", "os.rename", "shutil.copyfile") or (
                event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
            )
            if left[0] < 0 and writes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        sys.addaudithook(hook)

    return arm
