"""What people and the clock ask of a run: pause, resume, cancel one task, retry, messages to agents, deadlines.

Nothing here stops an agent. A request is a fact of the run; who hosts an agent is told, as often as it takes, and what
came of it is read from the agent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeAlias, assert_never

from crewlog.domain import names
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import Conflict, InvalidCommand, NotFound, WrongState
from crewlog.domain.run import begins as run_begins
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import deadlines as run_deadlines
from crewlog.domain.run import ends as run_ends
from crewlog.domain.run import money as run_money
from crewlog.domain.run import signals as run_signals
from crewlog.domain.run import stopping as run_stopping
from crewlog.domain.run.events import evolve, fold_all
from crewlog.domain.run.results import STRUCTURED_BYTES_MAX
from crewlog.domain.run.resuming import resumed
from crewlog.domain.run.state import (
    ENDED,
    Run,
    is_over,
    is_settled,
    is_stopping,
    map_task_id,
    visit_of,
)
from crewlog.domain.workflow import schemas
from crewlog.v1.body_pb2 import Body
from crewlog.v1.run_pb2 import (
    CancelTask,
    CheckDeadlines,
    MessageMode,
    MessageSent,
    MessageUndelivered,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunPaused,
    RunRetried,
    RunStatus,
    SendMessage,
    SignalReceived,
    SignalRun,
    TaskCancelled,
    TaskCancelRequested,
    TaskFailed,
    TaskSkipped,
    TaskStatus,
    TaskSucceeded,
)
from google.protobuf.message import Message

Command: TypeAlias = PauseRun | ResumeRun | CancelTask | RetryRun | SendMessage | SignalRun | CheckDeadlines

MESSAGES_PER_TASK_MAX = 200
MESSAGE_ID_CHARACTERS_MAX = 64
SIGNAL_CHARACTERS_MAX = 64
SIGNALS_MAX = 100

_RETRYABLE = (RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED)


def decide(run: Run, command: Command) -> list[Message]:
    """Raises InvalidCommand, NotFound, Conflict or WrongState."""
    match command:
        case PauseRun():
            return _pause(run, command)
        case ResumeRun():
            return _resume(run, command)
        case CancelTask():
            return _cancel_task(run, command)
        case RetryRun():
            return _retry(run, command)
        case SendMessage():
            return _send(run, command)
        case SignalRun():
            return _signal(run, command)
        case CheckDeadlines():
            return run_deadlines.check(run, command.at_unix_micros)
        case _:
            assert_never(command)


def _pause(run: Run, command: PauseRun) -> list[Message]:
    _check_active(run, "pause")
    if run.paused is not None:
        return []
    return [RunPaused(reason=command.reason, by=command.by, at_unix_micros=command.at_unix_micros)]


def _resume(run: Run, command: ResumeRun) -> list[Message]:
    _check_active(run, "resume")
    return resumed(run, command.by, command.at_unix_micros)


def _check_active(run: Run, verb: str) -> None:
    if is_over(run):
        again = "" if run.status == RunStatus.RUN_STATUS_SUCCEEDED else "; `crewlog retry` takes it up"
        raise WrongState(f"run {run.started.run_id!r} is over", what_to_do=f"see `crewlog show`{again}")
    if is_stopping(run):
        raise WrongState(f"run {run.started.run_id!r} is being stopped: it is too late to {verb} it")


def _cancel_task(run: Run, command: CancelTask) -> list[Message]:
    task = run.tasks.get(command.task_id)
    if task is None:
        return _cancel_unbegun(run, command)
    if task.status in ENDED or task.cancel_requested is not None or is_over(run):
        return []
    return run_stopping.stop(run, task, _cancel_request(command))


def _cancel_request(command: CancelTask) -> TaskCancelRequested:
    return TaskCancelRequested(
        task_id=command.task_id,
        reason=command.reason,
        grace_seconds=command.grace_seconds,
        by=command.by,
        at_unix_micros=command.at_unix_micros,
    )


def _cancel_unbegun(run: Run, command: CancelTask) -> list[Message]:
    """A task that nobody has taken yet."""
    node_id = names.node_of(command.task_id)
    if node_id not in run.visits or visit_of(command.task_id) > run.visits[node_id]:
        raise NotFound(f"run {command.run_id!r} has no task {command.task_id!r}", what_to_do="see `crewlog show`")
    if command.task_id != names.task_id(node_id, run.visits[node_id]) or is_over(run):
        return []
    if node_id not in run.ready:
        raise WrongState(
            f"task {command.task_id!r} waits for others and cannot be cancelled by itself",
            what_to_do="cancel the run, or the task that it waits for",
        )
    at = command.at_unix_micros
    asked = _cancel_request(command)
    after = evolve(run, asked)
    task = after.tasks[command.task_id]
    ended = run_ends.events_of(after, task, run_ends.stopped(task, None, at))
    return [asked, *ended]


def _not_to_retry(run: Run, run_id: str) -> WrongState:
    if is_stopping(run) and not is_over(run):
        return WrongState(
            f"run {run_id!r} is still being stopped", what_to_do=f"retry it when `crewlog watch {run_id}` has ended"
        )
    return WrongState(
        f"run {run_id!r} has neither failed nor been cancelled",
        what_to_do="a paused run goes on with `crewlog resume`; see `crewlog show`",
    )


def _retry(run: Run, command: RetryRun) -> list[Message]:
    if command.request_id and command.request_id in run.requests:
        return []
    parent = run.started.parent.run_id
    if parent and command.requested_by:
        raise WrongState(
            f"run {command.run_id!r} is a part of run {parent!r}, and lives on its money",
            what_to_do=f"take that up (`crewlog retry {parent}`): it takes up what of it has failed",
        )
    if run.status not in _RETRYABLE:
        raise _not_to_retry(run, command.run_id)
    at = command.at_unix_micros
    events = [
        *_raised(run, command),
        RunRetried(
            request_id=command.request_id, task_ids=_unfinished(run), by=command.requested_by, at_unix_micros=at
        ),
    ]
    return [*events, *run_child_money.gone_since(fold_all(run, events), at)]


def _unfinished(run: Run) -> list[str]:
    """Visits that the graph has not gone on from; and those that never began, where messages to them were given up.
    What belongs to a map that is done with, or to the agent of another task, is not looked at."""
    latest = {names.task_id(node_id, visit) for node_id, visit in run.visits.items()}
    begun = latest & {*run.tasks, *run.messages}
    return sorted(task_id for task_id in begun if _is_unfinished(run, task_id))


def _is_unfinished(run: Run, task_id: str) -> bool:
    task, node_id = run.tasks.get(task_id), names.node_of(task_id)
    if run.graph.is_item(node_id):
        has_succeeded = task is not None and task.status == TaskStatus.TASK_STATUS_SUCCEEDED
        owner = map_task_id(run, node_id)
        return not has_succeeded and owner in run.expansions and not is_settled(run.tasks.get(owner))
    return not is_settled(task) and node_id not in run.spawned


def _raised(run: Run, command: RetryRun) -> list[Message]:
    if not Amounts.of(command.by):
        return []
    run_money.check_own(run)
    return [run_money.limit_raised(run, command.by, "", command.at_unix_micros)]


def _send(run: Run, command: SendMessage) -> list[Message]:
    names.check_name("message_id", command.message_id, MESSAGE_ID_CHARACTERS_MAX)
    known = _sent(run, command.message_id)
    if known is not None:
        if (known.text.inline, known.mode) == (command.text.encode(), _mode(command)):
            return []
        raise Conflict(f"message {command.message_id!r} was sent with other content", what_to_do="choose another id")
    task_id = command.task_id or _only_open_task(run)
    _check_can_hear(run, task_id)
    return [
        MessageSent(
            message_id=command.message_id,
            task_id=task_id,
            number=len(run.messages.get(task_id, ())) + 1,
            mode=_mode(command),
            text=Body(inline=command.text.encode()),
            sent_by=command.sent_by,
            at_unix_micros=command.at_unix_micros,
        )
    ]


def _mode(command: SendMessage) -> MessageMode.ValueType:
    return command.mode or MessageMode.MESSAGE_MODE_STEER


def _sent(run: Run, message_id: str) -> MessageSent | None:
    messages = (message for sent in run.messages.values() for message in sent)
    return next((message for message in messages if message.message_id == message_id), None)


def _only_open_task(run: Run) -> str:
    agents = [task_id for task_id in (*run.open, *run.parked) if _is_agent(run, run.tasks[task_id].node_id)]
    if len(agents) == 1:
        return agents[0]
    run_id = run.started.run_id
    if not agents:
        raise WrongState(
            f"no agent works on run {run_id!r} now",
            what_to_do=f"say which task shall hear it when it begins, with --task; `crewlog show {run_id}` has them",
        )
    why = f"has to be one of {', '.join(agents)}"
    what_to_do = "say which one, with --task"
    raise InvalidCommand(
        f"several agents work on run {run_id!r}: task_id {why}", what_to_do=what_to_do, violations={"task_id": why}
    )


def _check_can_hear(run: Run, task_id: str) -> None:
    node_id = names.node_of(task_id)
    if node_id not in run.visits or not _is_agent(run, node_id):
        raise NotFound(f"run {run.started.run_id!r} has no agent for task {task_id!r}", what_to_do="see `crewlog show`")
    current = names.task_id(node_id, run.visits[node_id])
    task = run.tasks.get(task_id)
    if is_over(run) or is_stopping(run) or (task is not None and task.status in ENDED):
        raise WrongState(f"task {task_id!r} has ended or is being stopped", what_to_do="see `crewlog show`")
    if task_id != current:
        raise WrongState(f"task {task_id!r} is over or not there yet: its node is at {current!r}")
    if len(run.messages.get(task_id, ())) >= MESSAGES_PER_TASK_MAX:
        raise WrongState(f"task {task_id!r} has got {MESSAGES_PER_TASK_MAX} messages: it takes no more")


def _is_agent(run: Run, node_id: str) -> bool:
    return run.graph.knows(node_id) and run.graph.node(node_id).HasField("agent")


def given_back(run: Run, events: Iterable[Message], at: int) -> list[Message]:
    """The messages of the tasks that have just ended, or will not begin, which their agents have not read."""
    ended = (TaskSucceeded, TaskFailed, TaskCancelled, TaskSkipped)
    task_ids = dict.fromkeys(event.task_id for event in events if isinstance(event, ended))
    return [event for task_id in task_ids for event in _undelivered(run, task_id, at)]


def _undelivered(run: Run, task_id: str, at: int) -> list[Message]:
    task = run.tasks.get(task_id)
    read = task.result.messages_read if task is not None and task.result is not None else ()
    return [
        MessageUndelivered(message_id=message.message_id, task_id=task_id, at_unix_micros=at)
        for message in run.messages.get(task_id, ())
        if message.number not in read and message.message_id not in run.returned
    ]


def all_undelivered(run: Run, at: int) -> list[Message]:
    """Those of tasks that have not ended when the run does."""
    events: list[Message] = []
    for task_id in run.messages:
        task = run.tasks.get(task_id)
        if task is None or task.status not in ENDED:
            events += _undelivered(run, task_id, at)
    return events


def _signal(run: Run, command: SignalRun) -> list[Message]:
    names.check_name("name", command.name, SIGNAL_CHARACTERS_MAX)
    if command.request_id and command.request_id in run.requests:
        return []
    if is_over(run):
        raise WrongState(f"run {run.started.run_id!r} is over: nothing waits for a signal any more")
    run_signals.check_awaited(run, command.name)
    if command.name not in run.signals and len(run.signals) >= SIGNALS_MAX:
        raise WrongState(f"run {run.started.run_id!r} has kept {SIGNALS_MAX} signals that nothing has waited for")
    payload, at = _payload(command.payload_json), command.at_unix_micros
    received = SignalReceived(
        name=command.name, payload_json=payload, request_id=command.request_id, by=command.by, at_unix_micros=at
    )
    events: list[Message] = [received]
    after = evolve(run, received)
    for task_id in run.parked if run.failure is None else ():
        if run.tasks[task_id].signal == command.name and task_id in after.parked:
            ended = run_begins.arrived(after, task_id, payload, at)
            events += ended
            after = fold_all(after, ended)
    return events


def _payload(text: str) -> str:
    """As JSON, and no larger than any other structured value."""
    try:
        given = schemas.parsed(text or "null", STRUCTURED_BYTES_MAX)
        value = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if len(value.encode()) <= STRUCTURED_BYTES_MAX:
            return value
        why = f"is larger than {STRUCTURED_BYTES_MAX} bytes"
    except ValueError as problem:
        why = str(problem)
    raise InvalidCommand(f"payload_json {why}", violations={"payload_json": why})
