"""The rules of workspaces, as tables: given these facts, when this is asked, then that."""

from __future__ import annotations

from typing import Any

import pytest
from crewlog.domain import workspace
from crewlog.domain.decider import fold
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, Refused, StaleClaim, WrongState
from crewlog.v1.workspace_pb2 import (
    PreparedWorkspace,
    PrepareWorkspace,
    RecordPreparation,
    RemoveWorkspace,
    Snapshot,
    WorkspacePrepared,
    WorkspaceRemoved,
)
from google.protobuf.message import Message

BASE, OTHER, TREE = "a" * 40, "b" * 40, "c" * 40


def asked(generation: int, **other: Any) -> PrepareWorkspace:
    fields: dict[str, Any] = {"workspace_id": "r_t-1", "project_id": "p", "run_id": "r", "task_id": "t-1", **other}
    return PrepareWorkspace(generation=generation, at_unix_micros=7, **fields)


def record(generation: int, base: str = BASE, **other: Any) -> RecordPreparation:
    prepared = PreparedWorkspace(base_commit=base, snapshot=Snapshot(tree=TREE, full_tree=TREE))
    return RecordPreparation(prepare=asked(generation, **other), prepared=prepared)


def prepared(generation: int, base: str = BASE) -> WorkspacePrepared:
    snapshot = Snapshot(tree=TREE, full_tree=TREE)
    return WorkspacePrepared(
        project_id="p",
        run_id="r",
        task_id="t-1",
        generation=generation,
        base_commit=base,
        snapshot=snapshot,
        at_unix_micros=7,
    )


REMOVE = RemoveWorkspace(workspace_id="r_t-1", at_unix_micros=9)
REMOVED = WorkspaceRemoved(at_unix_micros=9)

TABLE: list[tuple[list[Message], workspace.Command, list[Message] | type[Refused]]] = [
    ([], record(1), [prepared(1)]),
    ([], record(5), [prepared(5)]),
    ([], record(0), InvalidCommand),
    ([prepared(1)], record(1), []),
    ([prepared(1)], record(1, OTHER), Conflict),
    ([prepared(1)], record(1, project_id="q"), Conflict),
    ([prepared(1)], record(2, run_id="s"), Conflict),
    ([prepared(1)], record(2, OTHER), [prepared(2, OTHER)]),
    ([prepared(2)], record(1), StaleClaim),
    ([prepared(1), REMOVED], record(1), WrongState),
    ([prepared(1), REMOVED], record(2), [prepared(2)]),
    ([], REMOVE, []),
    ([prepared(1)], REMOVE, [REMOVED]),
    ([prepared(1), REMOVED], REMOVE, []),
    ([prepared(1), REMOVED, prepared(2)], REMOVE, [REMOVED]),
]


@pytest.mark.parametrize(("given", "when", "then"), TABLE)
def test_decide(given: list[Message], when: workspace.Command, then: list[Message] | type[Refused]) -> None:
    state = fold(workspace, given)
    if isinstance(then, list):
        assert workspace.decide(state, when) == then
    else:
        with pytest.raises(then):
            workspace.decide(state, when)


@pytest.mark.parametrize(("given", "when"), [(row[0], row[1]) for row in TABLE if isinstance(row[2], list)])
def test_doing_it_twice_is_doing_it_once(given: list[Message], when: workspace.Command) -> None:
    state = fold(workspace, given)
    after = fold(workspace, workspace.decide(state, when), state)
    assert workspace.decide(after, when) == []


@pytest.mark.parametrize(
    ("given", "generation", "then"),
    [
        ([], 1, NotFound),
        ([prepared(2)], 1, StaleClaim),
        ([prepared(2)], 3, WrongState),
        ([prepared(2), REMOVED], 2, WrongState),
        ([prepared(2), REMOVED], 1, StaleClaim),
        ([prepared(1), prepared(2)], 2, prepared(2)),
    ],
)
def test_only_the_generation_that_prepared_last_may_work(
    given: list[Message], generation: int, then: WorkspacePrepared | type[Refused]
) -> None:
    state = fold(workspace, given)
    if isinstance(then, type):
        with pytest.raises(then):
            workspace.current(state, generation)
    else:
        assert workspace.current(state, generation) == then
