"""The git service over real gRPC: who may ask, what is recorded, and that every command can be sent again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.errors import (
    Conflict,
    InvalidCommand,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    StaleClaim,
    WrongState,
)
from crewlog.eventlog.memory import MemoryLog
from crewlog.git import app
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.v1.workspace_pb2 import (
    GetDiff,
    ListFiles,
    PinBase,
    ReadFile,
    RemoveWorkspace,
    RestoreSnapshot,
    Snapshot,
    TakeSnapshot,
)
from crewlog.v1.workspace_pb2_grpc import FileServiceStub, WorkspaceServiceStub

from tests.service.git.places import PROJECT, RUN, TASK, WORKSPACE, UserRepository, run_git
from tests.service.git.serving import (
    SERVICES,
    Service,
    commit_of,
    config,
    delivery_of,
    is_there,
    link,
    now_seconds,
    write,
)


async def test_from_pin_to_branch(service: Service, user: UserRepository) -> None:
    prepared = await service.prepare()
    write(prepared, "new.py", "new\n")
    taken = await service.snapshot("1-0")
    committed = await service.workspaces.Commit(commit_of(taken), metadata=service.claim())
    change = await service.workspaces.Deliver(delivery_of(service, committed.commit))
    await service.workspaces.Remove(RemoveWorkspace(workspace_id=WORKSPACE, at_unix_micros=12))
    assert user.git("show", "crewlog/demo:new.py") == "new"
    assert not is_there(prepared)
    assert await service.types("workspace", WORKSPACE) == ["workspace_prepared", "workspace_removed"]
    assert await service.types("change", RUN) == ["change_committed", "change_delivered"]
    made, delivered = await service.facts("change", RUN)
    assert (made.commit, made.workspace_id, made.generation) == (committed.commit, WORKSPACE, 1)  # type: ignore[attr-defined]
    assert delivered.change == change  # type: ignore[attr-defined]


async def test_every_command_may_be_sent_again(service: Service) -> None:
    prepared = await service.prepare()
    assert await service.prepare() == prepared
    write(prepared, "new.py", "new\n")
    taken = await service.snapshot("1-0")
    assert await service.snapshot("1-0") == taken
    first = await service.workspaces.Commit(commit_of(taken), metadata=service.claim())
    assert await service.workspaces.Commit(commit_of(taken, at=2 * 10**15), metadata=service.claim()) == first
    change = await service.workspaces.Deliver(delivery_of(service, first.commit))
    assert await service.workspaces.Deliver(delivery_of(service, first.commit)) == change
    with pytest.raises(Conflict):
        await service.workspaces.Deliver(delivery_of(service, first.commit, branch="crewlog/other"))
    for _ in range(2):
        await service.workspaces.Remove(RemoveWorkspace(workspace_id=WORKSPACE, at_unix_micros=12))
    assert await service.types("workspace", WORKSPACE) == ["workspace_prepared", "workspace_removed"]
    assert await service.types("change", RUN) == ["change_committed", "change_delivered"]


async def test_at_the_same_time_is_one_after_the_other(service: Service) -> None:
    prepared = await asyncio.gather(*(service.prepare() for _ in range(5)))
    assert all(answer == prepared[0] for answer in prepared)
    write(prepared[0], "new.py", "new\n")
    taken = await asyncio.gather(*(service.snapshot("1-0") for _ in range(5)))
    assert all(snapshot == taken[0] for snapshot in taken)
    assert await service.types("workspace", WORKSPACE) == ["workspace_prepared"]


async def test_fault_10_what_was_done_but_not_recorded_is_done_once(
    service: Service, user: UserRepository, tmp_path: Path
) -> None:
    """The directory of a service that died after each effect, and a log that has none of its facts."""
    prepared = await service.prepare()
    write(prepared, "new.py", "new\n")
    taken = await service.snapshot("1-0")
    committed = await service.workspaces.Commit(commit_of(taken), metadata=service.claim())
    await service.workspaces.Deliver(delivery_of(service, committed.commit))
    log = MemoryLog()
    token = auth.mint_service_token(SERVICES.signing_key, "executor")
    async with app.running(config(tmp_path / "git"), log) as server, dial(server.address, token) as channel:
        stub: Any = WorkspaceServiceStub(channel)
        again = Service(service.directory, log, server.address, stub, None, service.head)
        assert await again.prepare() == prepared
        assert await again.snapshot("1-0") == taken
        assert await stub.Commit(commit_of(taken), metadata=again.claim()) == committed
        change = await stub.Deliver(delivery_of(again, committed.commit))
    assert user.git("rev-parse", "crewlog/demo") == change.commit == committed.commit
    assert await again.types("workspace", WORKSPACE) == ["workspace_prepared"]
    assert await again.types("change", RUN) == ["change_committed", "change_delivered"]


async def test_fault_17_an_older_generation_is_refused_everywhere(service: Service) -> None:
    old = await service.prepare(generation=1)
    new = await service.prepare(generation=2)
    assert old.path != new.path
    write(old, "zombie", "zombie")
    some = Snapshot(tree=old.snapshot.tree, full_tree=old.snapshot.tree)
    calls = (
        service.prepare(generation=1),
        service.snapshot("1-0", generation=1),
        service.workspaces.Commit(commit_of(some), metadata=service.claim()),
        service.workspaces.Restore(
            RestoreSnapshot(workspace_id=WORKSPACE, generation=1, snapshot=some), metadata=service.claim()
        ),
    )
    for call in calls:
        with pytest.raises(StaleClaim, match="generation 2"):
            await call
    assert (await service.snapshot("1-0", generation=2)) == new.snapshot


async def test_restore(service: Service) -> None:
    prepared = await service.prepare()
    write(prepared, "new.py", "new\n")
    command = RestoreSnapshot(workspace_id=WORKSPACE, generation=1, snapshot=prepared.snapshot)
    assert (await service.workspaces.Restore(command, metadata=service.claim())).snapshot == prepared.snapshot
    assert not is_there(prepared, "new.py")


async def test_only_the_claim_on_the_task_may_work_in_its_workspace(service: Service) -> None:
    await service.prepare()
    command = TakeSnapshot(workspace_id=WORKSPACE, generation=1, label="1-0")
    for claim in (service.claim(2), service.claim(task_id="other-1"), service.claim(run_id="other")):
        with pytest.raises(NotPermitted):
            await service.workspaces.Snapshot(command, metadata=claim)
    with pytest.raises(NotPermitted):
        await service.workspaces.Snapshot(command)
    forged = auth.mint_claim_token(auth.new_keypair().signing_key, RUN, TASK, 1, now_seconds() + 60)
    with pytest.raises(NotAuthenticated):
        await service.workspaces.Snapshot(command, metadata=auth.claim_metadata(forged))


async def test_nobody_gets_in_without_a_service_token(service: Service) -> None:
    async with dial(service.address, "nonsense") as channel:
        workspaces: Any = WorkspaceServiceStub(channel)
        files: Any = FileServiceStub(channel)
        with pytest.raises(NotAuthenticated):
            await workspaces.Pin(PinBase(project_id=PROJECT, path="/"))
        with pytest.raises(NotAuthenticated):
            await files.List(ListFiles(project_id=PROJECT, tree=service.head))


async def test_work_without_a_prepared_worktree_is_refused(service: Service) -> None:
    with pytest.raises(NotFound):
        await service.snapshot("1-0")
    await service.prepare()
    await service.workspaces.Remove(RemoveWorkspace(workspace_id=WORKSPACE))
    with pytest.raises(WrongState, match="removed"):
        await service.snapshot("1-0")
    with pytest.raises(WrongState, match="removed"):
        await service.prepare()
    assert is_there(await service.prepare(generation=2))


async def test_a_worktree_that_was_lost_is_made_again_by_the_same_command(service: Service) -> None:
    prepared = await service.prepare()
    workspaces = service.directory / "workspaces"
    workspaces.rename(service.directory / "lost")
    with pytest.raises(WrongState, match="not here"):
        await service.snapshot("1-0")
    assert await service.prepare() == prepared
    assert await service.snapshot("1-0") == prepared.snapshot
    assert await service.types("workspace", WORKSPACE) == ["workspace_prepared"]


async def test_what_is_in_no_snapshot_is_kept_when_the_worktree_goes(service: Service) -> None:
    prepared = await service.prepare()
    write(prepared, "last words", "kept")
    await service.workspaces.Remove(RemoveWorkspace(workspace_id=WORKSPACE))
    managed = f"--git-dir={service.directory / 'clones' / PROJECT}"
    kept = f"refs/crewlog/snapshots/{WORKSPACE}/1/removed/tree:last words"
    assert run_git(service.directory, managed, "cat-file", "blob", kept) == "kept"


async def test_files_of_the_past(service: Service, user: UserRepository) -> None:
    prepared = await service.prepare()
    write(prepared, "README.md", "Slugs\nand more\n")
    link(prepared, "link", "README.md")
    taken = await service.snapshot("1-0")
    listed = await service.files.List(ListFiles(project_id=PROJECT, tree=taken.tree))
    assert {(entry.path, entry.mode) for entry in listed.files} == {
        (".gitignore", "100644"),
        ("README.md", "100644"),
        ("link", "120000"),
        ("src/slug.py", "100644"),
    }
    assert {entry.path: entry.size_bytes for entry in listed.files}["README.md"] == 15
    for tree in (taken.tree, service.head):
        read = await service.files.Read(ReadFile(project_id=PROJECT, tree=tree, path="src/slug.py"))
        assert read.content == b"def slugify(text): ...\n"
    shown = await service.files.Read(ReadFile(project_id=PROJECT, tree=taken.tree, path="link"))
    assert (shown.content, shown.mode) == (b"README.md", "120000")
    diff = await service.files.Compare(GetDiff(project_id=PROJECT, from_tree=service.head, to_tree=taken.tree))
    assert b"+and more" in diff.patch
    assert (diff.stat.files, diff.stat.insertions, diff.stat.deletions, diff.truncated) == (2, 2, 0, False)
    everything = await service.files.Compare(GetDiff(project_id=PROJECT, to_tree=service.head))
    assert everything.stat.files == 3


async def test_a_diff_over_its_limit_is_cut(service: Service) -> None:
    prepared = await service.prepare()
    write(prepared, "long", "0123456789\n" * 500_000)
    taken = await service.snapshot("1-0")
    diff = await service.files.Compare(GetDiff(project_id=PROJECT, from_tree=service.head, to_tree=taken.tree))
    assert (len(diff.patch), diff.truncated, diff.stat.insertions) == (4 * 1024 * 1024, True, 500_000)


async def test_files_that_are_not_there(service: Service) -> None:
    read = service.files.Read
    with pytest.raises(NotFound):
        await read(ReadFile(project_id=PROJECT, tree=service.head, path="nothing"))
    with pytest.raises(InvalidCommand, match="no file"):
        await read(ReadFile(project_id=PROJECT, tree=service.head, path="src"))
    with pytest.raises(NotFound):
        await read(ReadFile(project_id=PROJECT, tree="0" * 40, path="README.md"))
    with pytest.raises(NotFound):
        await read(ReadFile(project_id="unknown", tree=service.head, path="README.md"))
    with pytest.raises(NotFound):
        await service.files.List(ListFiles(project_id=PROJECT, tree="0" * 40))


BAD_NAMES = ["", "..", "../x", "a/b", "-x", "--upload-pack=x", "a b", "a\n", "A", "a.b", "run.>", "*", "x" * 10_000]


@pytest.mark.parametrize("bad", BAD_NAMES)
async def test_fault_55_to_57_bad_names_are_refused_before_anything_is_done(service: Service, bad: str) -> None:
    before = sorted(str(path) for path in service.directory.rglob("*"))
    ok = Snapshot(tree=service.head, full_tree=service.head)
    calls = (
        lambda: service.workspaces.Pin(PinBase(project_id=bad, path="/tmp")),
        lambda: service.workspaces.Pin(PinBase(project_id=PROJECT, path=bad)),
        lambda: service.prepare(project_id=bad or "-"),
        lambda: service.prepare(workspace_id=bad or "-"),
        lambda: service.prepare(base_commits=[bad]),
        lambda: service.prepare(tree=bad or "-"),
        lambda: service.snapshot(bad),
        lambda: service.workspaces.Snapshot(
            TakeSnapshot(workspace_id=bad, generation=1, label="1-0"), metadata=service.claim()
        ),
        lambda: service.workspaces.Commit(commit_of(Snapshot(tree=bad, full_tree=bad)), metadata=service.claim()),
        lambda: service.workspaces.Restore(
            RestoreSnapshot(workspace_id=bad, generation=1, snapshot=ok), metadata=service.claim()
        ),
        lambda: service.workspaces.Remove(RemoveWorkspace(workspace_id=bad)),
        lambda: service.workspaces.Deliver(delivery_of(service, bad)),
        lambda: service.files.List(ListFiles(project_id=PROJECT, tree=bad)),
        lambda: service.files.Compare(GetDiff(project_id=bad, from_tree=service.head)),
    )
    for call in calls:
        with pytest.raises(InvalidCommand) as refusal:
            await call()
        assert refusal.value.violations
    assert sorted(str(path) for path in service.directory.rglob("*")) == before
    assert await service.log.head() == 0


@pytest.mark.parametrize("bad", ["-x", "--all", "a..b", "main:README.md", "a b", "^main", "@{-1}", "HEAD^{/x}"])
async def test_fault_56_bad_revisions_and_branches_are_refused(
    service: Service, user: UserRepository, bad: str
) -> None:
    with pytest.raises(InvalidCommand):
        await service.workspaces.Pin(PinBase(project_id=PROJECT, path=str(user.top), base=bad))
    with pytest.raises(InvalidCommand):
        await service.workspaces.Deliver(delivery_of(service, service.head, branch=bad))


@pytest.mark.parametrize("bad", ["/etc/passwd", "../x", "src/../../x", ".git/config", "a//b", ""])
async def test_fault_55_paths_out_of_the_tree_are_refused(service: Service, bad: str) -> None:
    with pytest.raises(InvalidCommand):
        await service.files.Read(ReadFile(project_id=PROJECT, tree=service.head, path=bad))
