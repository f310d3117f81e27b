"""Commands that ask once and print a list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from crewlog.cli import budgeting, costing, gates, printed, receipts, tasks, telling, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, table, write_line, write_message, write_messages, write_table
from crewlog.domain.errors import NotFound
from crewlog.v1.agent_pb2 import AgentStatus, AgentView, ListAgents
from crewlog.v1.budget_service_pb2 import QueryCost
from crewlog.v1.project_pb2 import ListProjects, ProjectView
from crewlog.v1.run_pb2 import GetRun, ListRuns, ParkCause, RunStatus, RunView, TaskStatus, TaskView

PAGE_SIZE = 100
MICROS = 1_000_000
_TASK_HEADINGS = (
    *("task", "kind", "role", "status", ">claims", ">turns", ">tools", ">tokens", ">cost", ">time", ">told"),
    "result",
)


@dataclass(frozen=True, slots=True)
class Listed:
    """Which runs are listed. `parent`: only those that this run has asked for."""

    statuses: Sequence[str] = ()
    project: str = ""
    limit: int = 20
    with_children: bool = False
    parent: str = ""


async def runs(gateway: Gateway, output: Output, listed: Listed) -> int:
    request = ListRuns(
        page_size=min(listed.limit, PAGE_SIZE),
        project_id=listed.project,
        statuses=[RunStatus.Value(f"RUN_STATUS_{status.upper()}") for status in listed.statuses],
        with_children=listed.with_children or bool(listed.parent),
        parent_run_id=listed.parent,
    )
    if listed.parent:
        await gateway.runs.Get(GetRun(run_id=listed.parent))  # refuses where there is no such run
    found: list[RunView] = []
    async for view in _all_runs(gateway, request):
        found.append(view)
        if len(found) == listed.limit:
            break
    if output is not Output.TABLE:
        write_messages(found, output)
    else:
        headings = ("run", "status", "workflow", "project", ">cost", ">tokens", ">time", "started")
        write_table(headings, [_run_row(view) for view in found])
    return 0


async def show(gateway: Gateway, output: Output, run_id: str, *, with_items: bool = False) -> int:
    view = await gateway.runs.Get(GetRun(run_id=run_id))
    if output is Output.TABLE:
        add_work_under_way(view, (await gateway.agents.List(ListAgents(run_id=run_id))).agents)
        write_run(view, with_items=with_items)
        beside = costing.summary(await gateway.costs.Query(QueryCost(run_id=run_id)))
        if beside:
            write_line(f"\n{beside}")
        if view.gates:
            write_line("\n" + "\n".join(gates.in_words(view.gates)))
            gates.say_how_to_answer(gateway, view.gates)
        if view.gates_left_out:
            all_gates = gateway.command(f"gates --run {run_id} --all")
            say(f"{wording.counted(view.gates_left_out, 'gate')} more: see `{all_gates}`")
    else:
        write_message(view, output)
    return 0


async def show_task(gateway: Gateway, output: Output, run_id: str, task_id: str) -> int:
    view = await gateway.runs.Get(GetRun(run_id=run_id))
    task = next((task for task in view.tasks if task.task_id == task_id), None)
    if task is None:
        raise NotFound(f"run {run_id!r} shows no task {task_id!r}", what_to_do=f"`crewlog show {run_id}` lists them")
    if output is not Output.TABLE:
        write_message(task, output)
        return 0
    _write_tasks(view, [task])
    if text := printed.whole(task):
        write_line(f"\n{text}")
    if size := printed.cut_from(task):
        write_line(f"\nthe output is not whole: it had {size}")
    return 0


async def agents(gateway: Gateway, output: Output, run_id: str) -> int:
    found = await gateway.agents.List(ListAgents(run_id=run_id))
    if output is Output.TABLE:
        write_agents(found.agents)
    else:
        write_messages(found.agents, output)
    return 0


async def projects(gateway: Gateway, output: Output) -> int:
    found, token = list[ProjectView](), ""
    while True:
        page = await gateway.projects.List(ListProjects(page_size=PAGE_SIZE, page_token=token))
        found += page.projects
        token = page.next_page_token
        if not token:
            break
    if output is Output.TABLE:
        write_table(("project", "path"), [(view.project_id, wording.plain(view.path)) for view in found])
    else:
        write_messages(found, output)
    return 0


def write_run(view: RunView, *, with_items: bool = False) -> None:
    """A run and its tasks, for people; maps with their items, or as one line each."""
    for name, value in _facts(view):
        write_fact(name, value)
    _write_tasks(view, view.tasks if with_items else tasks.without_items(view.tasks))
    if with_items and not view.tasks_left_out:
        for line in tasks.not_begun(view.tasks):
            write_line(line)
    for line in printed.by_failed(view.run_id, view.tasks):
        write_line(line)
    if view.tasks_left_out and with_items:
        write_line(f"{wording.counted(view.tasks_left_out, 'task')} more: items that are done")


def _write_tasks(view: RunView, shown: Sequence[TaskView]) -> None:
    """What was left out stands back."""
    items, questions = tasks.items_of(view.tasks), {gate.task_id: gate.question for gate in gates.open_ones(view.gates)}
    rows = [
        _task_row(task, view.ended_at_unix_micros, questions.get(task.task_id, ""), items.get(task.task_id, ()))
        for task in shown
    ]
    heading, *lines = table(_TASK_HEADINGS, rows)
    write_line(heading)
    for task, line in zip(shown, lines, strict=True):
        write_line(telling.stood_back(line) if task.status == TaskStatus.TASK_STATUS_SKIPPED else line)


def add_work_under_way(view: RunView, agents: Iterable[AgentView]) -> None:
    """A task that goes on gets what its agent has come to: the run learns of it when the agent lets go or ends."""
    known = {agent.agent_id: agent for agent in agents}
    for task in view.tasks:
        agent = known.get(task.agent_id)
        if agent is not None and not task.ended_at_unix_micros:
            task.result.turns, task.result.tool_calls = agent.turn, agent.tool_calls
            task.result.cost_usd_micros = agent.spent_usd_micros
            task.result.usage.CopyFrom(agent.usage)


def write_fact(name: str, value: str) -> None:
    write_line(f"{name:<10}{value}")


def write_agents(views: Sequence[AgentView]) -> None:
    headings = (
        "agent",
        "role",
        "model",
        "status",
        ">gen",
        ">resumes",
        ">doubts",
        ">turn",
        ">tools",
        ">tokens",
        ">spent",
        ">reserved",
        "executor",
    )
    write_table(headings, [_agent_row(view) for view in views])
    for view in views:
        if view.HasField("last_receipt"):
            went_on = f"{view.task_id} went on on {view.executor_id}: {receipts.in_words(view.last_receipt)}"
            write_line(wording.plain(went_on))


async def _all_runs(gateway: Gateway, request: ListRuns) -> AsyncIterator[RunView]:
    while True:
        page = await gateway.runs.List(request)
        for view in page.runs:
            yield view
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _facts(view: RunView) -> list[tuple[str, str]]:
    limit = f" of {budgeting.in_words(view.budget)}" if view.budget.ByteSize() else ""
    facts = [
        ("run", view.run_id),
        ("status", _standing(view)),
        ("paused", f"{wording.date_and_time(view.paused.at_unix_micros)} {wording.pause(view.paused)}".strip()),
        ("to do", wording.plain(view.paused.failure.what_to_do or view.failure.what_to_do)),
        ("task", wording.one_line(view.input)),
        ("part of", f"{view.parent.task_id} of run {view.parent.run_id}" if view.parent.run_id else ""),
        ("project", view.project_id),
        ("workflow", wording.plain(view.workflow)),
        ("model", wording.plain(view.model)),
        ("base", wording.short_id(view.base_commit)),
        ("started", wording.date_and_time(view.started_at_unix_micros)),
        ("time", elapsed(view.started_at_unix_micros, view.ended_at_unix_micros)),
        ("at most", _limits(view)),
        ("priority", str(view.priority or "")),
        ("cost", wording.money(spent_usd_micros(view)) + limit),
        ("charged", ", ".join(view.budget_ids)),
        ("tokens", wording.count(_tokens(view))),
        ("branch", wording.plain(view.change.branch)),
        ("failure", wording.plain(f"{view.failure.reason}: {view.failure.message}") if view.failure.reason else ""),
        ("trace", view.trace_id),
        ("revision", str(view.revision)),
    ]
    return [(name, value) for name, value in facts if value]


def _standing(view: RunView) -> str:
    """One that has failed goes on until all that is at work has stopped."""
    is_stopping = view.status == RunStatus.RUN_STATUS_RUNNING and view.failure.reason
    return "running, is being stopped" if is_stopping else wording.run_status(view.status)


def _limits(view: RunView) -> str:
    """The limits on time that were given."""
    whole, waiting = view.limits.duration_seconds_max, view.limits.waiting_seconds_max
    parts = [f"{wording.duration(whole * MICROS)} in all"] if whole else []
    parts += [f"{wording.duration(waiting * MICROS)} of waiting for an executor"] if waiting else []
    return ", ".join(parts)


def spent_usd_micros(view: RunView) -> int:
    """Settled money, with what tasks that have not ended had come to when they were let go of."""
    at_rest = (task.result.cost_usd_micros for task in view.tasks if not task.ended_at_unix_micros)
    return view.spent_usd_micros + sum(at_rest)


def _tokens(view: RunView) -> int:
    """All of them; while the run goes on, those of its tasks."""
    if view.ended_at_unix_micros or not view.tasks:
        return wording.tokens(view.usage)
    return sum(wording.tokens(task.result.usage) for task in view.tasks)


def elapsed(started: int, ended: int) -> str:
    """How long something took that is over; empty while it goes on."""
    return wording.duration(ended - started) if started and ended else ""


def _run_row(view: RunView) -> tuple[str, ...]:
    return (
        view.run_id,
        _standing(view) + (", asks" if gates.open_ones(view.gates) else ""),
        wording.plain(view.workflow),
        view.project_id,
        wording.money(spent_usd_micros(view)),
        wording.count(wording.tokens(view.usage)),
        elapsed(view.started_at_unix_micros, view.ended_at_unix_micros),
        wording.date_and_time(view.started_at_unix_micros),
    )


def _task_row(task: TaskView, run_ended_at: int, question: str, items: Sequence[TaskView]) -> tuple[str, ...]:
    result = task.result
    return (
        task.task_id,
        task.kind,
        wording.plain(task.role),
        _status(task, run_ended_at),
        str(task.generation or ""),
        str(result.turns or ""),
        str(result.tool_calls or ""),
        wording.count(wording.tokens(result.usage)) if result.turns else "",
        wording.money(result.cost_usd_micros) if result.turns else "",
        elapsed(task.started_at_unix_micros, task.ended_at_unix_micros),
        str(task.messages or ""),
        wording.one_line(tasks.what_came_of_it(task, question, items), 120),
    )


def _status(task: TaskView, run_ended_at: int) -> str:
    ended = task.ended_at_unix_micros
    return tasks.status(task, run_ended_at) + (", cancelling" if task.is_cancel_requested and not ended else "")


def _agent_row(view: AgentView) -> tuple[str, ...]:
    return (
        view.agent_id,
        wording.plain(view.role),
        wording.plain(view.model),
        _agent_status(view),
        str(view.generation),
        str(view.resumes or ""),
        str(view.in_doubt or ""),
        str(view.turn),
        str(view.tool_calls),
        wording.count(wording.tokens(view.usage)),
        wording.money(view.spent_usd_micros),
        wording.money(view.reserved_usd_micros),
        wording.plain(view.executor_id),
    )


def _agent_status(view: AgentView) -> str:
    if view.is_parked:
        return f"parked: {ParkCause.Name(view.park_cause).removeprefix('PARK_CAUSE_').lower()}"
    return AgentStatus.Name(view.status).removeprefix("AGENT_STATUS_").lower()
