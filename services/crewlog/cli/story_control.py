"""What is told about control: pauses, stops, retries, messages, tasks that wait, and gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crewlog.cli import budgeting, effects, wording
from crewlog.cli.lines import RUN, Line, Tone
from crewlog.v1 import agent_pb2 as agent
from crewlog.v1 import budget_pb2 as budget
from crewlog.v1 import run_pb2 as run
from crewlog.v1.body_pb2 import Body
from google.protobuf.message import Message

Teller = Callable[[str, Any], Iterator[Line]]
"""Gets whom the entry is about: a task for an agent's, `run` for a run's."""
TEXT_CHARACTERS = 160
_MODES = {
    run.MESSAGE_MODE_STEER: "before its next model call",
    run.MESSAGE_MODE_QUEUE: "when it has done what it was asked to do so far",
    run.MESSAGE_MODE_INTERRUPT: "at once",
}


def _run_paused(_: str, fact: run.RunPaused) -> Iterator[Line]:
    why = wording.pause(fact)
    yield Line(RUN, "paused" + (f" {why}" if fact.by else f": {why}" if why else ""), Tone.BAD)
    if fact.failure.what_to_do:
        yield Line(RUN, f"to do: {wording.one_line(fact.failure.what_to_do, TEXT_CHARACTERS)}", Tone.BAD)


def _run_resumed(_: str, fact: run.RunResumed) -> Iterator[Line]:
    yield Line(RUN, wording.plain(f"goes on, says {fact.by}" if fact.by else "goes on by itself"), Tone.GOOD)


def _run_retried(_: str, fact: run.RunRetried) -> Iterator[Line]:
    tasks = ", ".join(fact.task_ids)
    again = f": in place of {tasks}, their nodes are visited again" if tasks else ""
    yield Line(RUN, wording.plain(f"taken up again{_by(fact.by)}{again}"), Tone.GOOD)


def _run_timed_out(_: str, fact: run.RunTimedOut) -> Iterator[Line]:
    yield Line(RUN, wording.plain(f"out of time: {fact.failure.reason}: {fact.failure.message}"), Tone.BAD)


def _run_cancel_requested(_: str, fact: run.RunCancelRequested) -> Iterator[Line]:
    yield Line(RUN, _is_being_cancelled(fact), Tone.BAD)


def _task_cancel_requested(_: str, fact: run.TaskCancelRequested) -> Iterator[Line]:
    yield Line(fact.task_id, _is_being_cancelled(fact), Tone.BAD)


def _message_sent(_: str, fact: run.MessageSent) -> Iterator[Line]:
    when = f"{wording.message_mode(fact.mode)}, read {_MODES[fact.mode or run.MESSAGE_MODE_STEER]}"
    yield Line(fact.task_id, wording.plain(f"message {fact.number}{_by(fact.sent_by)} ({when}): {_said(fact.text)}"))


def _message_received(who: str, fact: agent.MessageReceived) -> Iterator[Line]:
    yield Line(who, f"has message {fact.number}", Tone.DETAIL)


def _message_undelivered(_: str, fact: run.MessageUndelivered) -> Iterator[Line]:
    yield Line(fact.task_id, wording.plain(f"has not read message {fact.message_id}: it has ended before"), Tone.BAD)


def _task_parked(_: str, fact: run.TaskParked) -> Iterator[Line]:
    tone = Tone.DETAIL if fact.cause in _TOLD_BY_OTHERS else Tone.BAD
    yield Line(fact.task_id, _why_parked(fact), tone)


def _agent_parked(who: str, fact: agent.AgentParked) -> Iterator[Line]:
    yield Line(who, f"lets go of its executor: {_why_parked(fact)}", Tone.DETAIL)


def _task_unparked(_: str, fact: run.TaskUnparked) -> Iterator[Line]:
    text = "waits no more: it ends with what is done" if fact.has_to_stop else "waits no more: it goes on"
    yield Line(fact.task_id, text, Tone.BAD if fact.has_to_stop else Tone.GOOD)


def _gate_opened(_: str, fact: run.GateOpened) -> Iterator[Line]:
    who = fact.task_id or RUN
    yield Line(who, f"asks: {wording.one_line(fact.question, TEXT_CHARACTERS)}", Tone.BAD)
    choices = wording.plain(" | ".join(fact.choices)) or "any text"
    yield Line(who, f"answer gate {wording.plain(fact.gate_id)} with {choices}{_until(fact)}")


def _gate_answered(_: str, fact: run.GateAnswered) -> Iterator[Line]:
    amount = f" by {budgeting.in_words(fact.by)}" if fact.by.ByteSize() else ""
    who = f", says {fact.answered_by}" if fact.answered_by else ""
    said = fact.choice or wording.one_line(fact.text, TEXT_CHARACTERS)
    yield Line(RUN, wording.plain(f"gate {fact.gate_id} answered: {said}{amount}{who}"), Tone.GOOD)


def _gate_expired(_: str, fact: run.GateExpired) -> Iterator[Line]:
    if fact.needless_because:
        yield Line(RUN, wording.plain(f"gate {fact.gate_id} is closed: {fact.needless_because}"), Tone.DETAIL)
    else:
        yield Line(RUN, wording.plain(f"nobody has answered gate {fact.gate_id} in time"), Tone.BAD)


def _until(fact: run.GateOpened) -> str:
    if not fact.expires_at_unix_micros:
        return ""
    default = f", after that {wording.one_line(fact.default_choice)} holds" if fact.default_choice else ""
    return f", until {wording.date_and_time(fact.expires_at_unix_micros)}{default}"


def _is_being_cancelled(fact: run.RunCancelRequested | run.TaskCancelRequested) -> str:
    grace = f", within {fact.grace_seconds} s" if fact.grace_seconds else ""
    because = f": {wording.one_line(fact.reason, TEXT_CHARACTERS)}" if fact.reason else ""
    return wording.plain(f"is being cancelled{_by(fact.by)}{grace}{because}")


def _why_parked(fact: run.TaskParked | agent.AgentParked) -> str:
    if fact.cause in (run.PARK_CAUSE_UNSPECIFIED, run.PARK_CAUSE_BUDGET):
        return f"waits: {_not_enough(fact.budget_id, fact.wanted)}"
    because = f" ({fact.failure.reason}: {fact.failure.message})" if fact.failure.reason else ""
    return wording.plain(wording.park_cause(fact.cause) + because)


def _not_enough(budget_id: str, wanted: budget.Amounts) -> str:
    more = f" it needs {budgeting.in_words(wanted)} more" if wanted.ByteSize() else " nothing is left"
    return wording.plain(f"of {budget_id}{more}" if budget_id else more.strip())


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _said(text: Body) -> str:
    return wording.one_line(effects.text_of(text), TEXT_CHARACTERS)


_TOLD_BY_OTHERS = (run.PARK_CAUSE_PAUSED, run.PARK_CAUSE_HANDED_OVER, run.PARK_CAUSE_QUESTION, run.PARK_CAUSE_MODEL)
"""The pause or the gate, which stands beside it, says more."""
TELLERS: Mapping[type[Message], Teller] = {
    run.RunPaused: _run_paused,
    run.RunResumed: _run_resumed,
    run.RunRetried: _run_retried,
    run.RunTimedOut: _run_timed_out,
    run.RunCancelRequested: _run_cancel_requested,
    run.TaskCancelRequested: _task_cancel_requested,
    run.MessageSent: _message_sent,
    agent.MessageReceived: _message_received,
    run.MessageUndelivered: _message_undelivered,
    run.TaskParked: _task_parked,
    run.TaskUnparked: _task_unparked,
    run.GateOpened: _gate_opened,
    run.GateAnswered: _gate_answered,
    run.GateExpired: _gate_expired,
    agent.AgentParked: _agent_parked,
}
