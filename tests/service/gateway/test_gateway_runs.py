"""Runs and projects through the gateway: what is refused, what is forwarded, what is read."""

from __future__ import annotations

from typing import Any

import pytest
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, WrongState
from crewlog.gateway import pages
from crewlog.gateway.config import ModelAccess
from crewlog.gateway.queries import RunFilter
from crewlog.telemetry import traces
from crewlog.v1.agent_pb2 import AgentStatus, GetAgent, ListAgents
from crewlog.v1.budget_pb2 import Limit
from crewlog.v1.project_pb2 import GetProject, ListProjects, RegisterProject
from crewlog.v1.run_pb2 import (
    AgentNode,
    CancelRun,
    GetRun,
    ListRuns,
    Node,
    NoopNode,
    Role,
    RunStatus,
    StartRun,
    Workflow,
)

AGENT_PLAN = Workflow(
    name="agent",
    version="1",
    nodes=[Node(node_id="a", agent=AgentNode(role=Role(name="implementer", version="1", prompt="p", tools=["read"])))],
)


async def test_a_run_is_started_read_and_over(world: Any) -> None:
    project_id = await world.register()
    revision = await world.start_run("run-1", project_id, budget=Limit(usd_micros=500_000))
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=revision))
    assert (view.status, view.workflow, view.input) == (RunStatus.RUN_STATUS_RUNNING, "noop", "do it")
    assert (view.project_id, view.requested_by, view.revision) == (project_id, "local", revision)
    assert view.trace_id == f"{traces.trace_id_of_run('run-1'):032x}"
    assert view.budget.usd_micros == 500_000
    await world.claim("run-1")
    over = await world.finish("run-1")
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=over))
    assert view.status == RunStatus.RUN_STATUS_SUCCEEDED
    assert [(task.task_id, task.result.summary) for task in view.tasks] == [("a-1", "done")]
    assert view.revision == over


async def test_starting_again_is_starting_once(world: Any) -> None:
    project_id = await world.register()
    first = await world.start_run("run-1", project_id)
    assert await world.start_run("run-1", project_id) == first
    with pytest.raises(Conflict):
        await world.start_run("run-1", project_id, input="something else")
    assert await world.log.head() == first


async def test_what_a_client_sends_in_the_gateways_fields_is_overwritten(world: Any) -> None:
    project_id = await world.register()
    with traces.within("00-0000000000000000000000000000000a-000000000000000b-01"):
        await world.start_run(
            "run-1", project_id, base_commit="f" * 40, at_unix_micros=1, requested_by="root", request_traceparent="x"
        )
    (command,) = world.scheduler.started
    assert command.base_commit == "" and command.at_unix_micros > 1 and command.requested_by == "local"
    assert command.request_traceparent == "00-0000000000000000000000000000000a-000000000000000b-01"
    assert command.WhichOneof("plan") == "workflow"
    assert command.model == world.model.default_model


async def test_a_run_with_agents_starts_from_a_pinned_commit(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id, workflow=AGENT_PLAN, base="main")
    assert world.scheduler.started[0].base_commit == "b" * 40
    assert (world.git.pinned[-1].project_id, world.git.pinned[-1].base) == (project_id, "main")


BAD_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"run_id": "a.b"}, "run_id"),
    ({"run_id": "a*"}, "run_id"),
    ({"run_id": "a b"}, "run_id"),
    ({"run_id": "x" * 10_000}, "run_id"),
    ({"run_id": "-a"}, "run_id"),
    ({"project_id": "../x"}, "project_id"),
    ({"input": " \n"}, "input"),
    ({"input": "x" * 5_000_000}, "input"),
    ({"budget": Limit(usd_micros=-1)}, "budget.usd_micros"),
    ({"model": "no such model"}, "model"),
    ({"model": "x" * 1000}, "model"),
    ({"base": "--upload-pack=x"}, "base"),
    ({"workflow_name": "no/such"}, "workflow_name"),
    ({"model": "gpt-unheard-of", "workflow": AGENT_PLAN}, "model"),
]


@pytest.mark.parametrize(("changes", "field"), BAD_STARTS)
async def test_a_bad_start_is_refused_by_field_and_appends_nothing(
    world: Any, changes: dict[str, Any], field: str
) -> None:
    project_id = await world.register()
    head = await world.log.head()
    fields = {"run_id": "run-1", "project_id": project_id, "input": "do it", "workflow_name": "noop"} | changes
    if "workflow" in fields:
        del fields["workflow_name"]
    with pytest.raises(InvalidCommand) as caught:
        await world.run_service.Start(StartRun(**fields))
    assert field in caught.value.violations
    assert await world.log.head() == head and not world.scheduler.started


async def test_one_refusal_names_every_bad_field(world: Any) -> None:
    with pytest.raises(InvalidCommand) as caught:
        await world.run_service.Start(StartRun(run_id="A", budget=Limit(usd_micros=-1)))
    assert set(caught.value.violations) == {"run_id", "project_id", "workflow_name", "input", "budget.usd_micros"}


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [Node(node_id="a", noop=NoopNode(), depends_on=["missing"])],
        [Node(node_id="a", noop=NoopNode(), depends_on=["b"]), Node(node_id="b", noop=NoopNode(), depends_on=["a"])],
    ],
    ids=["no node", "a missing node", "a cycle"],
)
async def test_a_workflow_that_makes_no_sense_is_refused(world: Any, nodes: list[Node]) -> None:
    project_id = await world.register()
    with pytest.raises(InvalidCommand):
        await world.start_run("run-1", project_id, workflow=Workflow(name="x", version="1", nodes=nodes))
    assert not world.scheduler.started


async def test_a_run_of_an_unknown_project_is_not_found(world: Any) -> None:
    with pytest.raises(NotFound, match="project"):
        await world.start_run("run-1", "no-such-project")
    assert await world.log.head() == 0


async def test_an_unknown_workflow_is_not_found_and_a_file_of_the_host_is_never_read(world: Any) -> None:
    project_id = await world.register()
    with pytest.raises(NotFound) as caught:
        await world.start_run("run-1", project_id, workflow_name="unknown")
    assert "feature" in caught.value.what_to_do
    for path in ("/etc/x.yaml", "x.yaml", "../x"):
        with pytest.raises(InvalidCommand):
            await world.start_run("run-1", project_id, workflow_name=path)
    await world.start_run("run-1", project_id, workflow_name="feature")
    assert {node.agent.role.name for node in world.scheduler.started[0].workflow.nodes} >= {"spec-writer", "reviewer"}


async def test_a_base_that_does_not_exist_is_said_by_git(world: Any) -> None:
    project_id = await world.register()
    with pytest.raises(NotFound, match="no commit"):
        await world.start_run("run-1", project_id, workflow=AGENT_PLAN, base="nowhere")


async def test_without_a_key_only_runs_without_a_model_start(world: Any) -> None:
    world.model = ModelAccess(default_model="claude-sonnet-4-5")
    await world.restart()
    project_id = await world.register()
    with pytest.raises(WrongState) as caught:
        await world.start_run("run-1", project_id, workflow=AGENT_PLAN)
    assert "ANTHROPIC_API_KEY" in caught.value.what_to_do
    await world.start_run("run-2", project_id)


async def test_cancel_is_forwarded(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    receipt = await world.run_service.Cancel(CancelRun(run_id="run-1", reason="enough"))
    view = await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=receipt.revision))
    assert view.status == RunStatus.RUN_STATUS_CANCELLING
    with pytest.raises(NotFound):
        await world.run_service.Cancel(CancelRun(run_id="run-2"))
    with pytest.raises(InvalidCommand):
        await world.run_service.Cancel(CancelRun(run_id="run-1", reason="x" * 100_000))


async def test_runs_are_listed_newest_first_in_pages(world: Any) -> None:
    one, two = await world.register("/repos/one"), await world.register("/repos/two")
    for number in range(5):
        revision = await world.start_run(f"run-{number}", one if number % 2 else two)
    await world.claim("run-3")
    revision = await world.finish("run-3")
    wanted = ListRuns(page_size=2, at_least_revision=revision)
    seen = []
    while True:
        page = await world.run_service.List(wanted)
        seen += [run.run_id for run in page.runs]
        assert all(not run.tasks for run in page.runs)
        if not page.next_page_token:
            break
        wanted.page_token = page.next_page_token
    assert seen == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    of_one = await world.run_service.List(ListRuns(project_id=one))
    assert [run.run_id for run in of_one.runs] == ["run-3", "run-1"]
    over = await world.run_service.List(ListRuns(statuses=[RunStatus.RUN_STATUS_SUCCEEDED]))
    assert [run.run_id for run in over.runs] == ["run-3"]


@pytest.mark.parametrize("bytes_max", [1, 400, 1_000])
async def test_a_page_that_would_be_too_large_has_fewer_runs(
    world: Any, monkeypatch: pytest.MonkeyPatch, bytes_max: int
) -> None:
    """Runs with many questions, or long inputs: the list could not be had at all."""
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", bytes_max)
    project = await world.register("/repos/one")
    for number in range(5):
        revision = await world.start_run(f"run-{number}", project)
    wanted, seen = ListRuns(at_least_revision=revision), list[str]()
    while wanted.page_token or not seen:
        page = await world.run_service.List(wanted)
        assert len(page.runs) == 1 or sum(run.ByteSize() for run in page.runs) <= bytes_max
        seen += [run.run_id for run in page.runs]
        wanted.page_token = page.next_page_token
    assert seen == ["run-4", "run-3", "run-2", "run-1", "run-0"]


async def test_a_page_token_belongs_to_its_list(world: Any) -> None:
    project_id = await world.register()
    for number in range(3):
        revision = await world.start_run(f"run-{number}", project_id)
    page = await world.run_service.List(ListRuns(page_size=1, at_least_revision=revision))
    for token, project in ((page.next_page_token, project_id), ("nonsense", ""), ("x" * 10_000, ""), ("W10", "")):
        with pytest.raises(InvalidCommand) as caught:
            await world.run_service.List(ListRuns(page_token=token, project_id=project))
        assert "page_token" in caught.value.violations
    for place in ("no number", 2**63):
        with pytest.raises(InvalidCommand):
            await world.run_service.List(ListRuns(page_token=pages.token(place, "runs", RunFilter())))
    with pytest.raises(InvalidCommand):
        await world.run_service.List(ListRuns(page_size=-1))
    with pytest.raises(InvalidCommand):
        await world.run_service.List(ListRuns(statuses=[99]))  # type: ignore[list-item]


async def test_the_same_path_is_the_same_project(world: Any) -> None:
    first = await world.project_service.Register(RegisterProject(path="/repos/My Slug.git"))
    assert first.project_id.startswith("my-slug-")
    for path in ("/repos/My Slug.git", "/repos/x/../My Slug.git/", "//repos/My Slug.git"):
        assert await world.project_service.Register(RegisterProject(path=path)) == first
    assert await world.log.head() == first.revision
    with pytest.raises(Conflict, match="my-slug-"):
        await world.project_service.Register(RegisterProject(project_id="other", path="/repos/My Slug.git"))
    with pytest.raises(Conflict):
        await world.project_service.Register(RegisterProject(project_id=first.project_id, path="/repos/elsewhere"))
    view = await world.project_service.Get(GetProject(project_id=first.project_id))
    assert (view.path, view.revision) == ("/repos/My Slug.git", first.revision)


@pytest.mark.parametrize(
    ("project_id", "path"),
    [
        ("", ""),
        ("", "relative"),
        ("", "/repos/a\nb"),
        ("A.B", "/repos/a"),
        ("", "/repos/" + "x" * 5000),
        ("", "/tmp/x"),
    ],
)
async def test_a_bad_project_is_refused_and_appends_nothing(world: Any, project_id: str, path: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        await world.project_service.Register(RegisterProject(project_id=project_id, path=path))
    assert caught.value.violations
    assert await world.log.head() == 0


async def test_projects_are_listed_in_pages(world: Any) -> None:
    ids = sorted([await world.register(f"/repos/{name}") for name in "abc"])
    written = await world.log.head()
    page = await world.project_service.List(ListProjects(page_size=2, at_least_revision=written))
    rest = await world.project_service.List(ListProjects(page_size=2, page_token=page.next_page_token))
    assert [project.project_id for project in (*page.projects, *rest.projects)] == ids
    assert rest.next_page_token == ""


async def test_agents_are_read_in_the_order_of_their_start(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    await world.claim("run-1")
    await world.host("run-1", "b-1")
    revision = await world.host("run-1", "a-1")
    listed = await world.agent_service.List(ListAgents(run_id="run-1", at_least_revision=revision))
    assert [agent.agent_id for agent in listed.agents] == ["run-1_b-1", "run-1_a-1"]
    revision = await world.finish_agent("run-1")
    view = await world.agent_service.Get(GetAgent(agent_id="run-1_a-1", at_least_revision=revision))
    assert (view.status, view.revision) == (AgentStatus.AGENT_STATUS_CANCELLED, revision)
    for ask in (world.agent_service.List(ListAgents(run_id="x")), world.agent_service.Get(GetAgent(agent_id="x"))):
        with pytest.raises(NotFound):
            await ask
