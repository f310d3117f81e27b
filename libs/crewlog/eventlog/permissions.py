"""Who may do what on the server of the log: each service appends only to the kinds that it owns.

The one exception: the scheduler ends agents that no executor hosts any more, so it appends to agents, too. Fencing by
the generation keeps the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crewlog.eventlog import leases, live_queue
from crewlog.eventlog.port import SUBJECTS

OWNED_KINDS: Mapping[str, Sequence[str]] = {
    "gateway": ("project",),
    "scheduler": ("run", "budget", "admission"),
    "executor": ("agent",),
    "git": ("workspace", "change"),
}
CLOSED_KINDS: Mapping[str, Sequence[str]] = {"scheduler": ("agent",)}
"""Kinds of other owners whose aggregates a service ends."""

_READING = (
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.DIRECT.GET.*",
    "$JS.API.CONSUMER.CREATE.*.*",
    "$JS.API.CONSUMER.DELETE.*.*",
    "$JS.API.CONSUMER.MSG.NEXT.*.*",
)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects; everything else is denied."""

    publish: Sequence[str]
    subscribe: Sequence[str]


def _of_service(user: str) -> Permissions:
    events = [f"{SUBJECTS}.*.{kind}.*" for kind in appended_kinds(user)]
    leads = [f"{leases.SUBJECTS}.>"] if user == "scheduler" else []
    sends_live = [f"{live_queue.SUBJECTS}.>"] if user == "executor" else []
    reads_live = [f"{live_queue.SUBJECTS}.>"] if user == "gateway" else []
    return Permissions((*events, *leads, *sends_live, *_READING), (inbox_prefix(user) + ".>", *reads_live))


def appended_kinds(user: str) -> Sequence[str]:
    return (*OWNED_KINDS[user], *CLOSED_KINDS.get(user, ()))


def inbox_prefix(user: str) -> str:
    """Nobody can listen to the answers that another user gets."""
    return f"_INBOX_{user}"


USERS: Mapping[str, Permissions] = {
    **{user: _of_service(user) for user in OWNED_KINDS},
    "operator": Permissions((">",), (">",)),
}
