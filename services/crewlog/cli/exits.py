"""Exit codes, and how a refusal is said: one or two lines and what to do, never a traceback. docs/cli.md lists them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from crewlog.domain.errors import InvalidCommand, NotAuthenticated, NotPermitted, Refused, Unavailable


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    RUN_FAILED = 3
    NOT_AUTHENTICATED = 4
    UNAVAILABLE = 5
    RUN_PAUSED = 6
    TIMED_OUT = 124
    INTERRUPTED = 130


def code_of(refusal: Refused) -> ExitCode:
    match refusal:
        case NotAuthenticated() | NotPermitted():
            return ExitCode.NOT_AUTHENTICATED
        case Unavailable():
            return ExitCode.UNAVAILABLE
        case InvalidCommand():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def lines_of(refusal: Refused) -> Iterator[str]:
    """What a person reads: the message, the fields that are wrong and are not named in it, and what to do."""
    yield f"crewlog: {refusal.message}"
    for field, why in refusal.violations.items():
        if why not in refusal.message:
            yield f"  {field}: {why}"
    if refusal.what_to_do:
        yield f"  {refusal.what_to_do}"


class Failed(Exception):
    """A command cannot go on, for a reason that nobody refused."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
