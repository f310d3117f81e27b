"""Budgets, gates and questions about costs, as clients send them: only their form. Whether what they name is there is
for those to say who know it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from zoneinfo import available_timezones

from crewlog.domain import amounts, names
from crewlog.domain.budget import WARN_PERCENTS_MAX
from crewlog.domain.project import PROJECT_ID_CHARACTERS_MAX
from crewlog.gateway.checks import check_all, project_id, refuse, request_id, run_id, where_given
from crewlog.v1.budget_pb2 import LowerBudget, OnExhausted, Period, RaiseBudget, SetBudget
from crewlog.v1.budget_service_pb2 import QueryCost
from crewlog.v1.run_pb2 import AnswerGate, StartRun

TENANT = "tenant"
PROJECT = "project_"
NAMED = "named_"
RUN = "run_"
BUDGET_NAME_CHARACTERS_MAX = 32
GATE_ID_CHARACTERS_MAX = 128
CHOICE_CHARACTERS_MAX = 200
ANSWER_BYTES_MAX = 64 * 1024
GATE_SECONDS_MAX = 90 * 24 * 3600
CHARGED_BUDGETS_MAX = 8
COST_KEYS = ("project", "run", "task", "role", "model", "credential", "day")
RAISE = "raise"


def check_set(request: SetBudget) -> None:
    check_all(
        partial(standing_budget_id, "budget_id", request.budget_id),
        partial(_parent_id, request),
        partial(amounts.check, "limit", request.limit, needs_one=True),
        partial(_period, request.period),
        partial(time_zone, request.time_zone),
        partial(_warn_percents, request.warn_percents),
    )


def check_change(request: RaiseBudget | LowerBudget) -> None:
    check_all(
        partial(budget_id, "budget_id", request.budget_id),
        partial(amounts.check, "by", request.by, needs_one=True),
        partial(request_id, request.request_id),
    )


def check_answer(request: AnswerGate) -> None:
    check_all(
        partial(run_id, "run_id", request.run_id),
        partial(_gate_id, request.gate_id),
        partial(_choice, request),
        partial(_text, request.text),
        partial(_answered_amounts, request),
    )


def check_cost(request: QueryCost) -> None:
    check_all(
        partial(_cost_keys, request.by),
        where_given(run_id, "run_id", request.run_id),
        where_given(project_id, "project_id", request.project_id),
        partial(time_zone, request.time_zone),
        partial(_times, request),
    )


def start_money(request: StartRun) -> None:
    """The part of a start that is about money."""
    check_all(
        partial(amounts.check, "budget", request.budget),
        partial(_charged, request.budgets),
        partial(_on_exhausted, request.on_exhausted),
        partial(_gate_seconds, request.gate_seconds),
    )


def budget_id(field: str, value: str) -> None:
    """Of a budget, that of a run included."""
    if value.startswith(RUN):
        names.check_name(field, value.removeprefix(RUN), names.RUN_ID_CHARACTERS_MAX)
    elif not value.startswith((PROJECT, NAMED)) and value != TENANT:
        refuse(field, value, f"has to be `{TENANT}`, `{PROJECT}ID`, `{NAMED}NAME` or `{RUN}ID`")
    else:
        standing_budget_id(field, value)


def standing_budget_id(field: str, value: str) -> None:
    """Of a budget that is set on its own, above the runs."""
    if value.startswith(PROJECT):
        names.check_name(field, value.removeprefix(PROJECT), PROJECT_ID_CHARACTERS_MAX)
    elif value.startswith(NAMED):
        names.check_name(field, value.removeprefix(NAMED), BUDGET_NAME_CHARACTERS_MAX)
    elif value.startswith(RUN):
        refuse(field, value, "is the budget of a run, which is given when the run starts: raise or lower it")
    elif value != TENANT:
        refuse(field, value, f"has to be `{TENANT}`, `{PROJECT}ID` or `{NAMED}NAME`")


def time_zone(value: str) -> None:
    if value and value not in _zones():
        refuse("time_zone", value, "is no time zone: give one such as Europe/Berlin")


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _parent_id(request: SetBudget) -> None:
    parent = request.parent_id
    if not parent:
        return
    if request.budget_id == TENANT:
        refuse("parent_id", parent, "is not possible: nothing stands above the tenant")
    standing_budget_id("parent_id", parent)
    if request.budget_id.startswith(PROJECT) and parent.startswith(PROJECT):
        refuse("parent_id", parent, "is not possible: a project does not stand below another one")
    if parent == request.budget_id:
        refuse("parent_id", parent, "makes a circle")


def _period(value: int) -> None:
    if value not in Period.values():
        refuse("period", value, "has to be none, a day, a week or a month")


def _warn_percents(values: Sequence[int]) -> None:
    if len(values) > WARN_PERCENTS_MAX or not all(1 <= value <= 100 for value in values):
        refuse("warn_percents", list(values), f"have to be at most {WARN_PERCENTS_MAX}, each 1 to 100")


def _gate_id(value: str) -> None:
    if len(value) > GATE_ID_CHARACTERS_MAX or not names.is_aggregate_id(value):
        refuse("gate_id", value, "has to be the id of a gate, as `crewlog gates` shows it")


def _choice(request: AnswerGate) -> None:
    """Empty, where the question has none and is answered with a text."""
    value = request.choice
    if len(value) > CHOICE_CHARACTERS_MAX or not value.isprintable() or not (value or request.text):
        refuse("choice", value, "has to be one of the gate's choices; without any, answer with a text")


def _text(value: str) -> None:
    size = len(value.encode())
    if value and not value.strip():
        refuse("text", "", "has to say something")
    if size > ANSWER_BYTES_MAX:
        refuse("text", f"{size} bytes", f"has to be at most {ANSWER_BYTES_MAX} bytes")


def _answered_amounts(request: AnswerGate) -> None:
    if request.choice == RAISE:
        amounts.check("by", request.by)
    elif any(getattr(request.by, unit) for unit in amounts.UNITS):
        refuse("by", "an amount", f"goes only with the choice {RAISE!r}")


def _cost_keys(values: Sequence[str]) -> None:
    for value in values:
        if value not in COST_KEYS:
            refuse("by", value, f"has to be one of {', '.join(COST_KEYS)}")
    if len(set(values)) < len(values):
        refuse("by", ", ".join(values), "names something twice")


def _times(request: QueryCost) -> None:
    start, end = request.from_unix_micros, request.to_unix_micros
    if start < 0 or end < 0:
        refuse("from_unix_micros", min(start, end), "has to be 0 or a time after 1970")
    if end and end < start:
        refuse("to_unix_micros", end, "is before from_unix_micros")


def _charged(budget_names: Sequence[str]) -> None:
    if len(budget_names) > CHARGED_BUDGETS_MAX or len(set(budget_names)) < len(budget_names):
        refuse("budgets", len(budget_names), f"have to be at most {CHARGED_BUDGETS_MAX} different ones")
    for name in budget_names:
        names.check_name("budgets", name, BUDGET_NAME_CHARACTERS_MAX)


def _on_exhausted(value: int) -> None:
    if value not in OnExhausted.values():
        refuse("on_exhausted", value, "has to be stop, ask or wait")


def _gate_seconds(value: int) -> None:
    if not 0 <= value <= GATE_SECONDS_MAX:
        refuse("gate_seconds", value, f"has to be 0 (a week) to {GATE_SECONDS_MAX}")
