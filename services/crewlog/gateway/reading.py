"""AgentService, EventService and FileService: everything that is only read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version
from typing import Any

from crewlog.domain import git_names, names
from crewlog.domain.errors import NotFound, WrongState
from crewlog.eventlog import codec
from crewlog.eventlog.port import BlobCorrupt, BlobMissing, BlobStore, EventLog
from crewlog.gateway import checks, watch
from crewlog.gateway.config import ModelAccess
from crewlog.gateway.control import no_run
from crewlog.gateway.projection import Projection
from crewlog.gateway.projects import Projects
from crewlog.gateway.queries import EntryFilter, Queries
from crewlog.v1.agent_pb2 import AgentList, AgentView, GetAgent, ListAgents
from crewlog.v1.agent_pb2_grpc import AgentServiceServicer
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.events_pb2 import GetStatus, PlatformStatus, WatchEvents, WatchEventsMessage
from crewlog.v1.events_pb2_grpc import EventServiceServicer
from crewlog.v1.run_service_pb2 import Heartbeat
from crewlog.v1.workspace_pb2 import Blob, Diff, FileContent, FileList, GetBlob, GetDiff, ListFiles, ReadFile
from crewlog.v1.workspace_pb2_grpc import FileServiceServicer


class AgentServer(AgentServiceServicer):
    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    async def Get(self, request: GetAgent, context: Any) -> AgentView:
        checks.agent_id("agent_id", request.agent_id)
        await self._projection.reached(request.at_least_revision)
        view = await self._projection.read(Queries.agent, request.agent_id)
        if view is None:
            raise NotFound(f"there is no agent {request.agent_id!r}", what_to_do="see `crewlog show` of its run")
        return view

    async def List(self, request: ListAgents, context: Any) -> AgentList:
        checks.run_id("run_id", request.run_id)
        await self._projection.reached(request.at_least_revision)
        agents = await self._projection.read(Queries.agents, request.run_id)
        if agents is None:
            raise no_run(request.run_id)
        return AgentList(agents=agents)


class EventServer(EventServiceServicer):
    def __init__(self, projection: Projection, log: EventLog, blobs: BlobStore, model: ModelAccess) -> None:
        self._projection = projection
        self._log = log
        self._blobs = blobs
        self._model = model

    async def Watch(self, request: WatchEvents, context: Any) -> AsyncIterator[WatchEventsMessage]:
        wanted, types = _filter(request), frozenset(request.types)
        await watch.check_position(self._projection, request.from_revision)
        until = await self._projection.caught_up() if request.until_now else None
        with self._projection.watching(wanted) as inbox:
            async for delivered in watch.entries(self._projection, inbox, request.from_revision, until):
                for revision, payload in delivered.entries:
                    if not types or types & _types_of(payload):
                        entry = watch.recorded(revision, payload, with_stored=request.with_stored)
                        yield WatchEventsMessage(entry=entry)
                if delivered.is_idle:
                    yield WatchEventsMessage(heartbeat=Heartbeat(revision=delivered.up_to))

    async def ReadBlob(self, request: GetBlob, context: Any) -> Blob:
        checks.sha256(request.sha256)
        try:
            return Blob(content=await self._blobs.get(request.sha256))
        except BlobMissing:
            raise NotFound(f"there is no blob {request.sha256.hex()}") from None
        except BlobCorrupt as error:
            raise WrongState(f"the blob is damaged: {error}", what_to_do="restore the blobs from a copy") from error

    async def Status(self, request: GetStatus, context: Any) -> PlatformStatus:
        return PlatformStatus(
            code_version=version("crewlog"),
            epoch=self._log.epoch,
            head_revision=await self._log.head(),
            projected_revision=self._projection.revision,
            unknown_events=await self._projection.read(Queries.unknown_events),
            scripted=self._model.scripted,
            has_model_credential=bool(self._model.api_key),
            model=self._model.default_model,
        )


class FileServer(FileServiceServicer):
    """Asks git; a project that does not exist is not asked for."""

    def __init__(self, projects: Projects, files: Any) -> None:
        self._projects = projects
        self._files = files

    async def List(self, request: ListFiles, context: Any) -> FileList:
        await self._check(request.project_id, tree=request.tree)
        answer: FileList = await self._files.List(request)
        return answer

    async def Read(self, request: ReadFile, context: Any) -> FileContent:
        git_names.check_file_path("path", request.path)
        await self._check(request.project_id, tree=request.tree)
        answer: FileContent = await self._files.Read(request)
        return answer

    async def Compare(self, request: GetDiff, context: Any) -> Diff:
        await self._check(request.project_id, from_tree=request.from_tree, to_tree=request.to_tree)
        answer: Diff = await self._files.Compare(request)
        return answer

    async def _check(self, project_id: str, **trees: str) -> None:
        checks.project_id("project_id", project_id)
        for field, tree in trees.items():
            names.check_object_id(field, tree)
        await self._projects.path_of(project_id)


def _filter(request: WatchEvents) -> EntryFilter:
    checks.check_all(
        checks.where_given(checks.run_id, "run_id", request.run_id),
        checks.where_given(checks.project_id, "project_id", request.project_id),
        partial(checks.kinds, request.kinds),
        partial(checks.types, request.types),
    )
    return EntryFilter(request.run_id, request.project_id, tuple(request.kinds))


def _types_of(payload: bytes) -> set[str]:
    return {codec.event_type(fact) for fact in codec.known_facts((Entry.FromString(payload),))}
