"""Leases: what one process has until it gives it up, or does not renew it in time; then another one may take it.

The server of the log counts the time, and takes a lease away when it is over. Whoever holds one counts for itself, from
before it asked: so it knows that its time is over before anybody else can have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

BUCKET = "crewlog_leases"
SUBJECTS = f"$KV.{BUCKET}"


@dataclass(frozen=True, slots=True)
class Lease:
    """`fencing` is the revision under which it was taken: that of every later holder is higher. `revision` is that of
    the last renewal. A holder has a name that no other process ever has."""

    key: str
    holder: str
    fencing: int
    revision: int


class LeaseLost(Exception):
    """It was not renewed in time, or another one has it."""


class Leases(Protocol):
    """Every method raises Unavailable when there is no answer: then it may have been done or not."""

    async def look(self, key: str) -> Lease | None:
        """Who has it now, with the revision of the last renewal for `fencing`; None when it can be had."""

    async def take(self, key: str, holder: str, seconds: int, *, instead_of: Lease | None = None) -> Lease | None:
        """The lease, for so many seconds, at least 1; None when somebody else has it.

        One that `instead_of` has is taken away unless it was renewed since: for a holder that is known to be gone.
        """

    async def renew(self, lease: Lease, seconds: int) -> Lease:
        """The lease as it is from now on. Raises LeaseLost."""

    async def give_up(self, lease: Lease) -> None:
        """The next one can have it at once. A lease that was lost stays with whoever has it now."""
