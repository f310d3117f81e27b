"""Who may do what on the server of the log: each service appends only to the kinds that it owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crewlog.eventlog import live_queue
from crewlog.eventlog.port import SUBJECTS

OWNED_KINDS: Mapping[str, Sequence[str]] = {
    "gateway": ("project",),
    "scheduler": ("run", "budget"),
    "executor": ("agent",),
    "git": ("workspace", "change"),
}

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
    events = [f"{SUBJECTS}.*.{kind}.*" for kind in OWNED_KINDS[user]]
    sends_live = [f"{live_queue.SUBJECTS}.>"] if user == "executor" else []
    reads_live = [f"{live_queue.SUBJECTS}.>"] if user == "gateway" else []
    return Permissions((*events, *sends_live, *_READING), (inbox_prefix(user) + ".>", *reads_live))


def inbox_prefix(user: str) -> str:
    """Nobody can listen to the answers that another user gets."""
    return f"_INBOX_{user}"


USERS: Mapping[str, Permissions] = {
    **{user: _of_service(user) for user in OWNED_KINDS},
    "operator": Permissions((">",), (">",)),
}
