"""The rules of changes, as tables: given these facts, when this is asked, then that."""

from __future__ import annotations

import pytest
from crewlog.domain import change
from crewlog.domain.decider import fold
from crewlog.domain.errors import Conflict, Refused, StaleClaim, WrongState
from crewlog.v1.workspace_pb2 import Change as ChangeView
from crewlog.v1.workspace_pb2 import (
    ChangeCommitted,
    ChangeDelivered,
    CommittedWorkspace,
    CommitWorkspace,
    DeliverChange,
    DiffStat,
    RecordCommit,
    RecordDelivery,
    Snapshot,
)
from google.protobuf.message import Message

BASE, COMMIT, LATER, TREE, TREE_2 = ("0" * 40, "1" * 40, "2" * 40, "a" * 40, "b" * 40)


def record_commit(generation: int, commit: str, tree: str, workspace_id: str = "r_t-1") -> RecordCommit:
    asked = CommitWorkspace(
        workspace_id=workspace_id, generation=generation, run_id="r", snapshot=Snapshot(tree=tree), at_unix_micros=7
    )
    return RecordCommit(commit=asked, committed=CommittedWorkspace(commit=commit), base_commit=BASE)


def committed(generation: int, commit: str, tree: str, workspace_id: str = "r_t-1") -> ChangeCommitted:
    return ChangeCommitted(
        commit=commit,
        tree=tree,
        base_commit=BASE,
        stat=DiffStat(),
        generation=generation,
        at_unix_micros=7,
        workspace_id=workspace_id,
    )


def asked_delivery(commits: list[str], branch: str = "crewlog/r", at: int = 9, attempt: int = 0) -> DeliverChange:
    return DeliverChange(
        run_id="r",
        project_id="p",
        base_commit=BASE,
        commits=commits,
        branch=branch,
        at_unix_micros=at,
        attempt=attempt,
    )


def record_delivery(commits: list[str], branch: str = "crewlog/r", at: int = 9, attempt: int = 0) -> RecordDelivery:
    view = ChangeView(branch=branch, commit=commits[-1], base_commit=BASE)
    return RecordDelivery(deliver=asked_delivery(commits, branch, at, attempt), change=view)


def delivered(commit: str, attempt: int = 0) -> ChangeDelivered:
    return ChangeDelivered(
        project_id="p",
        change=ChangeView(branch="crewlog/r", commit=commit, base_commit=BASE),
        at_unix_micros=9,
        commits=[commit],
        branch="crewlog/r",
        attempt=attempt,
    )


DELIVERED = delivered(COMMIT)
AGAIN = delivered(LATER, 1)

TABLE: list[tuple[list[Message], change.Command, list[Message] | type[Refused]]] = [
    ([], record_commit(1, COMMIT, TREE), [committed(1, COMMIT, TREE)]),
    ([], record_commit(1, BASE, TREE), []),
    ([committed(1, COMMIT, TREE)], record_commit(1, COMMIT, TREE), []),
    ([committed(1, COMMIT, TREE)], record_commit(2, LATER, TREE), []),
    ([committed(1, COMMIT, TREE)], record_commit(2, LATER, TREE_2), [committed(2, LATER, TREE_2)]),
    ([committed(1, COMMIT, TREE)], record_commit(2, BASE, TREE_2), [committed(2, BASE, TREE_2)]),
    ([committed(2, COMMIT, TREE)], record_commit(1, LATER, TREE_2), StaleClaim),
    (
        [committed(1, COMMIT, TREE)],
        record_commit(1, LATER, TREE_2, "r_u-1"),
        [committed(1, LATER, TREE_2, "r_u-1")],
    ),
    ([committed(1, COMMIT, TREE)], record_delivery([COMMIT]), [DELIVERED]),
    ([DELIVERED], record_delivery([COMMIT]), []),
    ([DELIVERED], record_delivery([COMMIT], at=10), []),
    ([DELIVERED], record_delivery([COMMIT, LATER]), Conflict),
    ([DELIVERED], record_delivery([COMMIT], "crewlog/other"), Conflict),
    ([committed(1, COMMIT, TREE), DELIVERED], record_commit(1, LATER, TREE_2), WrongState),
    ([committed(1, COMMIT, TREE), DELIVERED], record_commit(2, LATER, TREE_2), WrongState),
    (
        [committed(1, COMMIT, TREE), DELIVERED],
        record_commit(1, LATER, TREE_2, "r_t-2"),
        [committed(1, LATER, TREE_2, "r_t-2")],
    ),
    (
        [committed(1, COMMIT, TREE), DELIVERED, committed(1, COMMIT, TREE, "r_t-2")],
        record_commit(2, LATER, TREE_2, "r_t-2"),
        [committed(2, LATER, TREE_2, "r_t-2")],
    ),
    ([committed(1, COMMIT, TREE, "r_t-2"), DELIVERED, AGAIN], record_commit(2, LATER, TREE_2, "r_t-2"), WrongState),
    ([DELIVERED], record_delivery([LATER], attempt=1), [AGAIN]),
    ([DELIVERED], record_delivery([COMMIT], attempt=1), [delivered(COMMIT, 1)]),
    ([DELIVERED], record_delivery([LATER], "crewlog/other", attempt=1), Conflict),
    ([DELIVERED, AGAIN], record_delivery([LATER], attempt=1), []),
    ([DELIVERED, AGAIN], record_delivery([COMMIT], attempt=1), Conflict),
    ([DELIVERED, AGAIN], record_delivery([COMMIT]), Conflict),
    ([], record_delivery([LATER], attempt=1), [AGAIN]),
    ([committed(1, COMMIT, TREE), DELIVERED], record_commit(1, COMMIT, TREE), []),
]


@pytest.mark.parametrize(("given", "when", "then"), TABLE)
def test_decide(given: list[Message], when: change.Command, then: list[Message] | type[Refused]) -> None:
    state = fold(change, given)
    if isinstance(then, list):
        assert change.decide(state, when) == then
    else:
        with pytest.raises(then):
            change.decide(state, when)


@pytest.mark.parametrize(("given", "when"), [(row[0], row[1]) for row in TABLE if isinstance(row[2], list)])
def test_doing_it_twice_is_doing_it_once(given: list[Message], when: change.Command) -> None:
    state = fold(change, given)
    after = fold(change, change.decide(state, when), state)
    assert change.decide(after, when) == []


def test_what_was_recorded_is_answered_again() -> None:
    state = fold(change, [committed(1, COMMIT, TREE), DELIVERED])
    assert change.committed(state, "r_t-1", TREE, BASE) == committed(1, COMMIT, TREE)
    assert change.committed(state, "r_t-1", TREE_2, BASE) is None
    assert change.committed(state, "r_t-2", TREE, BASE) is None
    assert change.delivered(state, asked_delivery([COMMIT], at=99)) == DELIVERED.change
    assert change.delivered(change.INITIAL, asked_delivery([COMMIT])) is None


def test_it_is_known_where_the_branch_was_left() -> None:
    without_branch = ChangeDelivered(project_id="p", change=ChangeView(commit=BASE, base_commit=BASE), attempt=2)
    assert fold(change, [without_branch]).left_at == ""
    assert fold(change, [DELIVERED]).left_at == COMMIT
    assert fold(change, [DELIVERED, AGAIN, without_branch]).left_at == LATER
