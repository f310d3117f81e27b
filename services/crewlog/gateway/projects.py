"""ProjectService: the one aggregate that the gateway owns. Registering the same path again is the same project."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from crewlog.domain import git_names, project
from crewlog.domain.errors import Conflict, NotFound
from crewlog.domain.project import Project
from crewlog.eventlog.owner import Clock, Meta, Owner
from crewlog.gateway import checks, pages
from crewlog.gateway.projection import Projection
from crewlog.gateway.queries import Queries
from crewlog.runtime.auth import current_principal
from crewlog.v1.project_pb2 import (
    GetProject,
    ListProjects,
    ProjectList,
    ProjectReceipt,
    ProjectView,
    RegisterProject,
)
from crewlog.v1.project_pb2_grpc import ProjectServiceServicer
from crewlog.v1.workspace_pb2 import PinBase, PinnedBase

Pin = Callable[[PinBase], Awaitable[PinnedBase]]


class Projects:
    """Registers, and knows what is registered."""

    def __init__(self, owner: Owner[Project], projection: Projection, pin: Pin, clock: Clock) -> None:
        self._owner = owner
        self._projection = projection
        self._pin = pin
        self._clock = clock
        self._registering = asyncio.Lock()

    async def register(self, project_id: str, path: str, principal: str) -> ProjectReceipt:
        """Git has looked at the repository before anything is appended."""
        async with self._registering:
            known = await self._at(path)
            if known is not None:
                return _same(known, project_id)
            command = RegisterProject(
                project_id=project_id or project.id_of_path(path), path=path, at_unix_micros=self._clock()
            )
            project.decide((await self._owner.state(command.project_id))[0], command)
            await self._pin(PinBase(project_id=command.project_id, path=path))
            meta = Meta(secrets.token_hex(8), principal, correlation_id="")
            outcome = await self._owner.handle(command.project_id, command, meta)
            return ProjectReceipt(project_id=command.project_id, revision=outcome.revision)

    async def path_of(self, project_id: str) -> str:
        """The repository of a project. Raises NotFound."""
        known, _ = await self._owner.state(project_id)
        if known.registered is None:
            self._owner.forget(project_id)
            raise no_project(project_id)
        return known.registered.path

    async def _at(self, path: str) -> ProjectView | None:
        await self._projection.caught_up()
        return await self._projection.read(Queries.project_at, path)


class ProjectServer(ProjectServiceServicer):
    def __init__(self, projects: Projects, projection: Projection) -> None:
        self._projects = projects
        self._projection = projection

    async def Register(self, request: RegisterProject, context: Any) -> ProjectReceipt:
        checks.check_all(
            checks.where_given(checks.project_id, "project_id", request.project_id),
            partial(git_names.check_host_path, "path", request.path),
        )
        path = project.tidy_path(request.path)
        return await self._projects.register(request.project_id, path, current_principal())

    async def Get(self, request: GetProject, context: Any) -> ProjectView:
        checks.project_id("project_id", request.project_id)
        await self._projection.reached(request.at_least_revision)
        view = await self._projection.read(Queries.project, request.project_id)
        if view is None:
            raise no_project(request.project_id)
        return view

    async def List(self, request: ListProjects, context: Any) -> ProjectList:
        after = pages.position(request.page_token, "projects")
        size = pages.size(request.page_size)
        await self._projection.reached(request.at_least_revision)
        projects = await self._projection.read(Queries.projects, str(after or ""), size + 1)
        token = pages.token(projects[size - 1].project_id, "projects") if len(projects) > size else ""
        return ProjectList(projects=projects[:size], next_page_token=token)


def no_project(project_id: str) -> NotFound:
    return NotFound(f"there is no project {project_id!r}", what_to_do="register it: `crewlog run` does so by itself")


def _same(known: ProjectView, project_id: str) -> ProjectReceipt:
    if project_id not in ("", known.project_id):
        raise Conflict(
            f"{known.path} is registered as project {known.project_id!r}", what_to_do=f"use {known.project_id!r}"
        )
    return ProjectReceipt(project_id=known.project_id, revision=known.revision)
