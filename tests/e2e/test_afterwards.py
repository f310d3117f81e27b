"""What is checked after every test from end to end sees what it is for."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from crewlog.cli.verifying import Difference
from crewlog.eventlog import codec
from crewlog.eventlog.jetstream import connect_log, create_stream
from crewlog.eventlog.nats_server import NatsServer
from crewlog.eventlog.port import AggregateId
from crewlog.v1.body_pb2 import BlobRef, Body
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry
from crewlog.v1.project_pb2 import ProjectRegistered
from crewlog.v1.run_pb2 import RunPaused, RunStarted, RunSucceeded, Workflow
from crewlog.v1.workspace_pb2 import Change
from google.protobuf.message import Message

from tests.e2e import afterwards

CONTENT = b"a blob"
DIGEST = hashlib.sha256(CONTENT).digest()
BLOB = Path("blobs") / DIGEST.hex()[:2] / DIGEST.hex()
PROJECTION = Path("gateway") / "projection.sqlite"


async def write(directory: Path, *facts: tuple[str, str, Message]) -> None:
    """A log with one entry for each fact, and the projection of it."""
    server = NatsServer.start(directory / "nats", sync_always=False)
    password = server.passwords["operator"]
    await create_stream(server.url, "operator", password, "e1")
    log = await connect_log(server.url, "operator", password, name="test")
    for kind, id, fact in facts:
        before = await log.read(AggregateId("local", kind, id))
        entry = Entry(
            epoch="e1",
            aggregate=Aggregate(tenant="local", kind=kind, id=id),
            ordinal=len(before) + 1,
            previous_hash=codec.hash_of(before[-1].payload) if before else b"",
            decisions=[Decision(correlation_id="" if kind == "project" else "demo", events=[codec.pack(fact)])],
        )
        revision = before[-1].revision if before else 0
        await log.append(AggregateId("local", kind, id), entry.SerializeToString(), revision)
    (directory / "gateway").mkdir()
    await afterwards.followed(log, directory / PROJECTION)
    await log.close()
    server.stop()


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """One in which everything is right: a run that has ended, a blob and a branch."""
    directory, repository = tmp_path / "data", tmp_path / "repository"
    subprocess.run(("git", "init", "-q", "-b", "crewlog/demo", str(repository)), check=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    subprocess.run(("git", "-C", repository, *identity, "commit", "-q", "--allow-empty", "-m", "one"), check=True)
    change = Change(branch="crewlog/demo", commit=afterwards.tip_of(repository, "crewlog/demo"))
    blob = Body(blob=BlobRef(sha256=DIGEST, size_bytes=len(CONTENT)))
    await write(
        directory,
        ("project", "p", ProjectRegistered(project_id="p", path=str(repository))),
        ("run", "demo", RunStarted(run_id="demo", project_id="p", workflow=Workflow(name="w"), input=blob)),
        ("run", "demo", RunSucceeded(change=change)),
    )
    (directory / BLOB).parent.mkdir(parents=True)
    (directory / BLOB).write_bytes(CONTENT)
    (directory / "epoch").write_text("e1\n")
    return directory


async def test_what_is_right_passes(directory: Path, tmp_path: Path) -> None:
    assert afterwards.data_directories(tmp_path) == [directory]
    await afterwards.check(directory, tmp_path / "scratch")


def _change_blob(directory: Path) -> None:
    (directory / BLOB).write_bytes(b"another")


def _change_projection(directory: Path) -> None:
    with closing(sqlite3.connect(directory / PROJECTION)) as database, database:
        database.execute("update run set status = 1")


def _move_branch(directory: Path) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    repository = directory.parent / "repository"
    subprocess.run(("git", "-C", repository, *identity, "commit", "-q", "--allow-empty", "-m", "two"), check=True)


def _tell_a_secret(directory: Path) -> None:
    (directory / "said").write_bytes(afterwards.CANARY)


def _tell_the_token(directory: Path) -> None:
    (directory / "token").write_text("the token\n")
    (directory / "said").write_text("it is the token, really")


def _ask_without_intent(directory: Path) -> None:
    (directory.parent / afterwards.LEDGER).write_text("1")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_change_blob, "was changed"),
        (_change_projection, "run is not what the log says"),
        (_move_branch, "crewlog/demo is at"),
        (_tell_a_secret, "a secret is in"),
        (_tell_the_token, "a secret is in"),
        (_ask_without_intent, "the model was asked 1 times, and there are 0 intents"),
    ],
)
async def test_harm_is_found(directory: Path, tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(directory)
    with pytest.raises(AssertionError, match=said):
        await afterwards.check(directory, tmp_path / "scratch")
    (tmp_path / "data" / "epoch").unlink()


async def test_a_history_that_must_not_be_is_found(tmp_path: Path) -> None:
    start = RunStarted(run_id="demo", project_id="p", workflow=Workflow(name="w"))
    await write(tmp_path / "data", *(("run", "demo", fact) for fact in (start, RunPaused(), RunPaused())))
    (tmp_path / "data" / "epoch").write_text("e1\n")
    with pytest.raises(Difference, match="RunPaused, and the run is paused"):
        await afterwards.check(tmp_path / "data", tmp_path / "scratch")
    (tmp_path / "data" / "epoch").unlink()
