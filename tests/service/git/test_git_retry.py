"""A run that is taken up again: its later work goes onto the branch that it has made, and nobody's work is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.errors import Conflict, WrongState
from crewlog.eventlog.memory import MemoryLog
from crewlog.git import app, commits, delivery, snapshots
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.v1.workspace_pb2 import (
    Change,
    CommittedWorkspace,
    CommitWorkspace,
    DeliverChange,
    PrepareWorkspace,
    RemoveWorkspace,
    TakeSnapshot,
)
from crewlog.v1.workspace_pb2_grpc import WorkspaceServiceStub

from tests.service.git.places import PROJECT, RUN, WORKSPACE, Bench, UserRepository, run_git
from tests.service.git.serving import SERVICES, Service, commit_of, config, delivery_of, write

BRANCH = "crewlog/demo"


def work(bench: Bench, base: str, generation: int, **files: str) -> str:
    """The commit of an agent that has written these files."""
    worktree, prepared = bench.prepare(base, generation=generation)
    for path, content in files.items():
        (worktree.tree / path).write_text(content)
    taken = snapshots.take(worktree, "1-0", prepared.snapshot).snapshot
    command = CommitWorkspace(workspace_id=WORKSPACE, run_id=RUN, snapshot=taken, message="Work", revision=generation)
    return commits.commit_snapshot(bench.clone, command, base).commit


def deliver(bench: Bench, base: str, commit: str, *, attempt: int = 1, left_at: str = "") -> Change:
    command = DeliverChange(
        run_id=RUN, project_id=PROJECT, base_commit=base, commits=[commit], branch=BRANCH, attempt=attempt
    )
    return delivery.deliver(bench.clone, command, left_at)


class Tried:
    """A run that was delivered once, and the commit of its second attempt, which replaces the first one."""

    def __init__(self, bench: Bench, user: UserRepository) -> None:
        self.bench, self.user = bench, user
        self.head = bench.pin(user.top).commit
        self.first = deliver(bench, self.head, work(bench, self.head, 1, a="first"), attempt=0).commit
        self.second = work(bench, self.head, 2, a="second")

    def again(self) -> Change:
        return deliver(self.bench, self.head, self.second, left_at=self.first)

    @property
    def branch(self) -> str:
        return self.user.git("rev-parse", BRANCH)


@pytest.fixture
def tried(bench: Bench, user: UserRepository) -> Tried:
    return Tried(bench, user)


def test_a_later_attempt_moves_the_branch_and_nothing_else(tried: Tried) -> None:
    before = tried.user.fingerprint()
    change = tried.again()
    after = tried.user.fingerprint()
    assert (change.branch, change.commit, tried.branch) == (BRANCH, tried.second, tried.second)
    assert list(change.paths) == ["a"]
    moved = {f".git/refs/heads/{BRANCH}", f".git/logs/refs/heads/{BRANCH}"}
    assert {path for path in before if after.get(path) != before[path]} == moved
    assert all(path.startswith(".git/objects/") for path in after.keys() - before.keys())
    assert tried.user.git("rev-parse", f"{BRANCH}@{{1}}") == tried.first


def test_a_later_attempt_that_is_asked_for_twice_is_done_once(tried: Tried) -> None:
    change = tried.again()
    before = tried.user.fingerprint()
    assert tried.again() == change
    assert tried.user.fingerprint() == before


def test_what_every_attempt_has_delivered_is_kept(tried: Tried) -> None:
    tried.again()
    tried.bench.managed("gc", "--quiet", "--prune=now")
    for commit in (tried.first, tried.second):
        assert tried.bench.managed("cat-file", "-t", commit) == "commit"


def test_a_branch_that_somebody_has_worked_on_is_left_alone(tried: Tried) -> None:
    tried.user.git("checkout", "-q", BRANCH)
    mine = tried.user.commit(mine="mine")
    tried.user.git("checkout", "-q", "main")
    before = tried.user.fingerprint()
    with pytest.raises(Conflict, match=f"and not at {tried.first[:12]}") as caught:
        tried.again()
    assert f"crewlog retry {RUN}" in caught.value.what_to_do
    assert tried.branch == mine
    assert tried.user.fingerprint() == before


def test_after_the_branch_was_renamed_the_work_is_delivered(tried: Tried) -> None:
    tried.user.git("checkout", "-q", BRANCH)
    mine = tried.user.commit(mine="mine")
    tried.user.git("checkout", "-q", "main")
    tried.user.git("branch", "-m", BRANCH, "mine")
    assert tried.again().commit == tried.branch == tried.second
    assert tried.user.git("rev-parse", "mine") == mine


def test_a_branch_that_was_deleted_is_made_anew(tried: Tried) -> None:
    tried.user.git("branch", "-D", BRANCH)
    assert tried.again().commit == tried.branch


@pytest.mark.parametrize("kind", ["main", "linked"])
def test_a_branch_that_is_checked_out_is_not_moved(tried: Tried, tmp_path: Path, kind: str) -> None:
    if kind == "main":
        tried.user.git("checkout", "-q", BRANCH)
    else:
        tried.user.git("worktree", "add", "-q", str(tmp_path / "linked"), BRANCH)
    before = tried.user.fingerprint()
    where = tried.user.top if kind == "main" else tmp_path / "linked"
    with pytest.raises(Conflict, match=f"is checked out at {where}"):
        tried.again()
    assert tried.user.fingerprint() == before


def test_a_branch_that_moves_in_the_last_moment_is_not_overwritten(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = delivery._fetch

    def fetch_slowly(*arguments: Any) -> None:
        fetch(*arguments)
        tried.user.git("branch", "-f", BRANCH, "main")

    monkeypatch.setattr(delivery, "_fetch", fetch_slowly)
    with pytest.raises(Conflict, match="not made by a run"):
        tried.again()
    assert tried.branch == tried.head


def test_an_attempt_that_undoes_everything_takes_the_branch_along(tried: Tried) -> None:
    change = deliver(tried.bench, tried.head, tried.head, left_at=tried.first)
    assert (change.branch, change.commit, change.stat.files) == (BRANCH, tried.head, 0)
    assert tried.branch == tried.head


def test_the_first_delivery_of_a_run_that_was_retried_makes_the_branch(bench: Bench, user: UserRepository) -> None:
    head = bench.pin(user.top).commit
    commit = work(bench, head, 1, a="a")
    assert deliver(bench, head, commit, attempt=2).commit == user.git("rev-parse", BRANCH)


SECOND = "demo_implementer-2"


async def take_up(service: Service, commit: str, tree: str) -> CommittedWorkspace:
    """The next visit of the node: a workspace of its own that starts from the files of the one before."""
    claim = service.claim(task_id="implementer-2")
    command = PrepareWorkspace(
        workspace_id=SECOND,
        project_id=PROJECT,
        run_id=RUN,
        task_id="implementer-2",
        generation=1,
        base_commits=[commit],
        tree=tree,
    )
    prepared = await service.workspaces.Prepare(command, metadata=claim)
    assert Path(prepared.path, "ignored", "note").read_text() == "not in a commit"
    write(prepared, "second", "second")
    label = TakeSnapshot(workspace_id=SECOND, generation=1, label="1-0")
    taken = await service.workspaces.Snapshot(label, metadata=claim)
    wanted = commit_of(taken.snapshot)
    wanted.workspace_id = SECOND
    committed: CommittedWorkspace = await service.workspaces.Commit(wanted, metadata=claim)
    return committed


async def first_attempt(service: Service) -> tuple[str, str]:
    """Delivered, with its worktree removed; the commit and the last snapshot with ignored files."""
    prepared = await service.prepare()
    write(prepared, "first", "first")
    Path(prepared.path, "ignored").mkdir()
    write(prepared, "ignored/note", "not in a commit")
    taken = await service.snapshot("1-0")
    committed = await service.workspaces.Commit(commit_of(taken), metadata=service.claim())
    await service.workspaces.Deliver(delivery_of(service, committed.commit))
    await service.workspaces.Remove(RemoveWorkspace(workspace_id=WORKSPACE, at_unix_micros=12))
    assert taken.full_tree != taken.tree
    return committed.commit, taken.full_tree


async def test_what_the_next_visit_needs_is_there_after_the_first_end(service: Service, user: UserRepository) -> None:
    commit, tree = await first_attempt(service)
    managed = f"--git-dir={service.directory / 'clones' / PROJECT}"
    run_git(service.directory, managed, "gc", "--quiet", "--prune=now")
    committed = await take_up(service, commit, tree)
    change = await service.workspaces.Deliver(delivery_of(service, committed.commit, attempt=1))
    assert user.git("rev-parse", BRANCH) == change.commit == committed.commit
    assert user.git("show", f"{BRANCH}:second") == "second"
    assert user.git("show", f"{BRANCH}:first") == "first"
    assert [fact.attempt for fact in await service.facts("change", RUN) if hasattr(fact, "attempt")] == [0, 1]


async def test_what_was_delivered_gets_no_other_content(service: Service, user: UserRepository) -> None:
    commit, tree = await first_attempt(service)
    with pytest.raises(Conflict):
        await service.workspaces.Deliver(delivery_of(service, service.head))
    again = await service.prepare(generation=2)
    write(again, "late", "late")
    late = await service.snapshot("2-0", generation=2)
    with pytest.raises(WrongState, match="was delivered with the commit"):
        await service.workspaces.Commit(commit_of(late, 2), metadata=service.claim(2))
    committed = await take_up(service, commit, tree)
    await service.workspaces.Deliver(delivery_of(service, committed.commit, attempt=1))
    for attempt, other in ((1, commit), (0, commit)):
        with pytest.raises(Conflict):
            await service.workspaces.Deliver(delivery_of(service, other, attempt=attempt))
    assert user.git("rev-parse", BRANCH) == committed.commit


async def test_a_later_delivery_that_was_not_recorded_is_found_done(service: Service, user: UserRepository) -> None:
    """The directory of a service that died after it had moved the branch, and a log that does not say so."""
    commit, tree = await first_attempt(service)
    known = MemoryLog()
    async for batch in service.log.follow(0):
        for stored in batch:
            before = await known.read(stored.aggregate)
            await known.append(stored.aggregate, stored.payload, before[-1].revision if before else 0)
        break
    committed = await take_up(service, commit, tree)
    change = await service.workspaces.Deliver(delivery_of(service, committed.commit, attempt=1))
    token = auth.mint_service_token(SERVICES.signing_key, "scheduler")
    async with app.running(config(service.directory), known) as server, dial(server.address, token) as channel:
        stub: Any = WorkspaceServiceStub(channel)
        assert await stub.Deliver(delivery_of(service, committed.commit, attempt=1)) == change
    assert user.git("rev-parse", BRANCH) == change.commit
