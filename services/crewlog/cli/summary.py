"""How a run ended, on one screen: what came of it, what it took, and the commands to look closer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crewlog.cli import printed, tasks, wording
from crewlog.cli.exits import ExitCode
from crewlog.cli.gateway import Gateway
from crewlog.cli.listing import elapsed, spent_usd_micros
from crewlog.cli.output import table
from crewlog.v1.run_pb2 import RunStatus, RunView, TaskView

_MARKS = {RunStatus.RUN_STATUS_SUCCEEDED: "✓", RunStatus.RUN_STATUS_FAILED: "✗", RunStatus.RUN_STATUS_CANCELLED: "✗"}
_EXITS = {RunStatus.RUN_STATUS_SUCCEEDED: ExitCode.OK, RunStatus.RUN_STATUS_PAUSED: ExitCode.RUN_PAUSED}


def in_words(view: RunView, *, scripted: bool) -> list[str]:
    """Without the commands: those depend on where the platform is."""
    facts = [f"  {name:<9}{value}" for name, value in _facts(view, scripted)]
    outputs = [f"  {line}".rstrip() for line in printed.by_failed(view.run_id, view.tasks)]
    return [_headline(view), *facts, "", *_tasks(view), *outputs]


def next_commands(view: RunView, gateway: Gateway, repo: str = "") -> list[str]:
    """What to type to look closer."""
    branch = wording.plain(view.change.branch)
    git = f"git -C {repo} " if repo else "git "
    inspect = [f"{git}log -p {wording.short_id(view.base_commit)}..{branch}"] if branch else []
    return [*inspect, *(gateway.command(f"{verb} {view.run_id}") for verb in _verbs(view))]


_OF_THE_WORKFLOW = frozenset({"expression_failed"})
"""Reasons that a retry finds again: the run keeps its workflow, and the task starts from the same."""


def exit_code(view: RunView) -> ExitCode:
    return _EXITS.get(view.status, ExitCode.RUN_FAILED)


def _verbs(view: RunView) -> tuple[str, ...]:
    if view.status == RunStatus.RUN_STATUS_PAUSED:
        return ("resume", "watch", "cancel", "replay", "show")
    is_over = view.status in (RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED)
    again = ("retry",) if is_over and view.failure.reason not in _OF_THE_WORKFLOW else ()
    return ("diff", "replay", "trace", "show", *again)


def _headline(view: RunView) -> str:
    took = elapsed(view.started_at_unix_micros, view.ended_at_unix_micros)
    status = wording.run_status(view.status)
    return f"{_MARKS.get(view.status, '…')} run {view.run_id} {status}" + (f" in {took}" if took else "")


def _facts(view: RunView, scripted: bool) -> Iterator[tuple[str, str]]:
    failure = view.paused.failure if view.HasField("paused") else view.failure
    if failure.reason:
        yield "because", wording.plain(f"{failure.reason}: {failure.message}")
    if failure.what_to_do:
        yield "to do", wording.plain(failure.what_to_do)
    if view.change.branch:
        yield "branch", wording.plain(f"{view.change.branch}  ({wording.diff_stat(view.change.stat)})")
    elif view.ended_at_unix_micros:
        yield "branch", "none: nothing changed"
    yield "tokens", _tokens(view)
    yield "cost", _cost(view) + (", as the scripted model's tokens would cost; nothing was paid" if scripted else "")


def _tokens(view: RunView) -> str:
    usage = view.usage
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    parts = [f"{wording.count(usage.input_tokens)} in", f"{wording.count(usage.output_tokens)} out"]
    parts += [f"{wording.count(cached)} cached"] if cached else []
    return f"{wording.count(wording.tokens(usage))} ({', '.join(parts)})"


def _cost(view: RunView) -> str:
    limit = f" of at most {wording.money(view.budget.usd_micros)}" if view.budget.usd_micros else ""
    return wording.money(spent_usd_micros(view)) + limit


def _tasks(view: RunView) -> list[str]:
    headings = ("task", "status", ">turns", ">tools", ">tokens", ">cost", ">time")
    items = tasks.items_of(view.tasks)
    outer = tasks.without_items(view.tasks)
    rows = [_row(task, view.ended_at_unix_micros, items.get(task.task_id, ())) for task in outer]
    return ["  " + line for line in table(headings, rows)]


def _row(task: TaskView, run_ended_at: int, items: Sequence[TaskView]) -> tuple[str, ...]:
    result = task.result
    return (
        wording.plain(task.task_id),
        tasks.status(task, run_ended_at) + (f", {tasks.progress(task, items)}" if task.items else ""),
        str(result.turns or ""),
        str(result.tool_calls or ""),
        wording.count(wording.tokens(result.usage)) if result.turns else "",
        wording.money(result.cost_usd_micros) if result.turns else "",
        elapsed(task.started_at_unix_micros, task.ended_at_unix_micros),
    )
