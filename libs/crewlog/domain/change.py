"""A change: what comes out of a run. Its id is that of the run.

commits of the run's workspaces, one each, the latest generation's  --deliver-->  one branch
                                                                    --deliver (a later attempt)-->  the same branch

What was delivered does not change: only workspaces that were not part of it may have further commits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from crewlog.domain.errors import Conflict, StaleClaim, WrongState
from crewlog.v1.workspace_pb2 import Change as ChangeView
from crewlog.v1.workspace_pb2 import ChangeCommitted, ChangeDelivered, DeliverChange, RecordCommit, RecordDelivery
from google.protobuf.message import Message
from immutables import Map

KIND = "change"
VERSION = 1

Command: TypeAlias = RecordCommit | RecordDelivery
Event: TypeAlias = ChangeCommitted | ChangeDelivered


@dataclass(frozen=True, slots=True)
class Change:
    """`commits` is by workspace. `delivered` is the last delivery, `sealed` are the workspaces that were part of one,
    and `left_at` is the commit that the branch was left at; empty while none was made."""

    commits: Map[str, ChangeCommitted] = field(default_factory=Map)
    delivered: ChangeDelivered | None = None
    sealed: frozenset[str] = frozenset()
    left_at: str = ""


INITIAL = Change()


def decide(change: Change, command: Command) -> list[Message]:
    """What a command causes. Raises Conflict, WrongState or StaleClaim."""
    match command:
        case RecordCommit():
            return _record_commit(change, command)
        case RecordDelivery():
            return _record_delivery(change, command)
        case _:
            assert_never(command)


def evolve(change: Change, event: Event) -> Change:
    """What an event means."""
    match event:
        case ChangeCommitted():
            return replace(change, commits=change.commits.set(event.workspace_id, event))
        case ChangeDelivered():
            left_at = event.change.commit if event.change.branch else change.left_at
            return replace(change, delivered=event, sealed=frozenset(change.commits), left_at=left_at)
        case _:
            assert_never(event)


def committed(change: Change, workspace_id: str, tree: str, base_commit: str) -> ChangeCommitted | None:
    """The recorded commit of these files on this base: there is never a second one."""
    known = change.commits.get(workspace_id)
    return known if known is not None and (known.tree, known.base_commit) == (tree, base_commit) else None


def delivered(change: Change, command: DeliverChange) -> ChangeView | None:
    """What came of this very command; None when it has to be done. Raises Conflict when another was delivered: by the
    same attempt or a later one, or to another place."""
    done = change.delivered
    if done is None:
        return None
    place = (command.project_id, command.base_commit, command.branch)
    is_later = command.attempt > done.attempt
    is_same = command.attempt == done.attempt and list(command.commits) == list(done.commits)
    if place != (done.project_id, done.change.base_commit, done.branch) or not (is_later or is_same):
        raise Conflict(f"the change of run {command.run_id!r} was delivered as branch {done.branch!r}")
    return None if is_later else done.change


def _record_commit(change: Change, command: RecordCommit) -> list[Message]:
    asked, made, base = command.commit, command.committed, command.base_commit
    known = change.commits.get(asked.workspace_id)
    if known is not None and asked.generation < known.generation:
        raise StaleClaim(f"generation {known.generation} has made the commit of {asked.workspace_id!r}")
    if committed(change, asked.workspace_id, asked.snapshot.tree, base) or (known is None and made.commit == base):
        return []
    if asked.workspace_id in change.sealed:
        raise WrongState(
            f"the change of run {asked.run_id!r} was delivered with the commit of {asked.workspace_id!r}",
            what_to_do="take the run up again with `crewlog retry`, or start another one",
        )
    return [
        ChangeCommitted(
            commit=made.commit,
            tree=asked.snapshot.tree,
            base_commit=base,
            stat=made.stat,
            generation=asked.generation,
            at_unix_micros=asked.at_unix_micros,
            workspace_id=asked.workspace_id,
        )
    ]


def _record_delivery(change: Change, command: RecordDelivery) -> list[Message]:
    asked = command.deliver
    if delivered(change, asked) is not None:
        return []
    return [
        ChangeDelivered(
            project_id=asked.project_id,
            change=command.change,
            at_unix_micros=asked.at_unix_micros,
            commits=asked.commits,
            branch=asked.branch,
            attempt=asked.attempt,
        )
    ]
