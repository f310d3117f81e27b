"""Every reason to refuse a command, as one tree; crewlog.runtime.status maps it to gRPC, in one table.

    Refused                     the caller is told, and nothing has changed
    +-- InvalidCommand          never acceptable
    +-- NotFound                there is no such thing
    +-- Conflict                the same id with other content
    +-- WrongState              not now
    |   +-- StaleClaim          a later generation has the task
    |   +-- MergeConflict       the files of several tasks cannot be merged
    +-- BudgetExceeded          it does not fit into the limit
    +-- NotAuthenticated        who is asking?
    +-- NotPermitted            not you
    +-- Contention              lost every race; try again
    +-- Unavailable             something that it needs does not answer; try again
    +-- TooLarge                over a limit of docs/limits.md

Anything else that is raised is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """`message` says what is wrong, `what_to_do` what to do next, `violations` which field is wrong and why."""

    def __init__(self, message: str, *, what_to_do: str = "", violations: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.what_to_do = what_to_do
        self.violations = dict(violations or {})


class InvalidCommand(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class WrongState(Refused):
    pass


class StaleClaim(WrongState):
    pass


class MergeConflict(WrongState):
    pass


class BudgetExceeded(Refused):
    pass


class NotAuthenticated(Refused):
    pass


class NotPermitted(Refused):
    pass


class Contention(Refused):
    pass


class Unavailable(Refused):
    pass


class TooLarge(Refused):
    pass


class UnknownEvent(Exception):
    """The log holds a fact that this release does not know; to decide would be a guess."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} holds an event that this release does not know: use the release that wrote it")
