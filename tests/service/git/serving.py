"""A git service over real gRPC with the log in memory, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crewlog.domain import names
from crewlog.eventlog import codec
from crewlog.eventlog.memory import MemoryLog
from crewlog.eventlog.port import AggregateId
from crewlog.git import app
from crewlog.git.config import Config
from crewlog.runtime import auth
from crewlog.runtime.channel import dial
from crewlog.runtime.clock import now_micros
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.workspace_pb2 import (
    CommitWorkspace,
    DeliverChange,
    PinBase,
    PreparedWorkspace,
    PrepareWorkspace,
    Snapshot,
    TakeSnapshot,
)
from crewlog.v1.workspace_pb2_grpc import FileServiceStub, WorkspaceServiceStub
from google.protobuf.message import Message

from tests.service.git.places import PATH, PROJECT, RUN, TASK, WORKSPACE, UserRepository

SERVICES, CLAIMS = auth.new_keypair(), auth.new_keypair()


@dataclass
class Service:
    """The running service, and a client of it."""

    directory: Path
    log: MemoryLog
    address: str
    workspaces: Any
    files: Any
    head: str

    def claim(self, generation: int = 1, run_id: str = RUN, task_id: str = TASK) -> Any:
        expires_at = now_seconds() + 60
        return auth.claim_metadata(auth.mint_claim_token(CLAIMS.signing_key, run_id, task_id, generation, expires_at))

    async def prepare(self, generation: int = 1, **other: Any) -> PreparedWorkspace:
        command = PrepareWorkspace(
            workspace_id=WORKSPACE,
            project_id=PROJECT,
            run_id=RUN,
            task_id=TASK,
            generation=generation,
            base_commits=[self.head],
            at_unix_micros=7,
        )
        command.MergeFrom(PrepareWorkspace(**other))
        answer: PreparedWorkspace = await self.workspaces.Prepare(command, metadata=self.claim(generation))
        return answer

    async def snapshot(self, label: str, generation: int = 1) -> Snapshot:
        command = TakeSnapshot(workspace_id=WORKSPACE, generation=generation, label=label)
        taken = await self.workspaces.Snapshot(command, metadata=self.claim(generation))
        return Snapshot.FromString(taken.snapshot.SerializeToString())

    async def facts(self, kind: str, id: str) -> list[Message]:
        stored = await self.log.read(AggregateId(names.TENANT, kind, id))
        return [fact for one in stored for fact in codec.facts(Entry.FromString(one.payload))]

    async def types(self, kind: str, id: str) -> list[str]:
        return [codec.event_type(fact) for fact in await self.facts(kind, id)]


def now_seconds() -> int:
    return now_micros() // 1_000_000


def write(prepared: PreparedWorkspace, name: str, content: str) -> None:
    Path(prepared.path, name).write_text(content)


def link(prepared: PreparedWorkspace, name: str, target: str) -> None:
    Path(prepared.path, name).symlink_to(target)


def is_there(prepared: PreparedWorkspace, name: str = "") -> bool:
    return Path(prepared.path, name).exists()


def config(directory: Path) -> Config:
    return Config(
        directory=directory,
        search_path=PATH,
        nats_url="",
        nats_user="",
        nats_password="",
        address="127.0.0.1:0",
        service_verify_key=SERVICES.verify_key,
        claim_verify_key=CLAIMS.verify_key,
    )


def commit_of(snapshot: Snapshot, generation: int = 1, at: int = 10**15) -> CommitWorkspace:
    return CommitWorkspace(
        workspace_id=WORKSPACE,
        generation=generation,
        run_id=RUN,
        snapshot=snapshot,
        message="Work",
        revision=9,
        role="implementer",
        at_unix_micros=at,
    )


def delivery_of(service: Service, *commits: str, branch: str = "crewlog/demo", attempt: int = 0) -> DeliverChange:
    return DeliverChange(
        run_id=RUN,
        project_id=PROJECT,
        base_commit=service.head,
        commits=commits,
        branch=branch,
        at_unix_micros=11,
        attempt=attempt,
    )


@asynccontextmanager
async def serving(user: UserRepository, directory: Path) -> AsyncIterator[Service]:
    """With the commit that HEAD of the user names pinned."""
    log = MemoryLog()
    token = auth.mint_service_token(SERVICES.signing_key, "executor")
    async with app.running(config(directory), log) as server, dial(server.address, token) as channel:
        workspaces: Any = WorkspaceServiceStub(channel)
        pinned = await workspaces.Pin(PinBase(project_id=PROJECT, path=str(user.top)))
        files: Any = FileServiceStub(channel)
        yield Service(directory, log, server.address, workspaces, files, pinned.commit)
