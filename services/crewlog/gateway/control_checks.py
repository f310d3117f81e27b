"""What clients send to runs that are there: only its form. What it means for the run is the scheduler's to decide."""

from __future__ import annotations

from functools import partial

from crewlog.domain import amounts, names
from crewlog.domain.run.control import MESSAGE_ID_CHARACTERS_MAX, SIGNAL_CHARACTERS_MAX
from crewlog.domain.run.deadlines import RUN_SECONDS_MAX, WAITING_SECONDS_MAX
from crewlog.domain.run.results import STRUCTURED_BYTES_MAX
from crewlog.gateway.checks import check_all, reason, refuse, request_id, run_id, where_given
from crewlog.v1.admission_pb2 import AdmissionDimension, SetAdmissionLimit
from crewlog.v1.recovery_pb2 import RecoverRun
from crewlog.v1.run_pb2 import (
    CancelRun,
    CancelTask,
    MessageMode,
    PauseRun,
    ResumeRun,
    RetryRun,
    RunLimits,
    SendMessage,
    SignalRun,
)
from crewlog.v1.waiting_pb2 import ExplainWaiting

MESSAGE_BYTES_MAX = 64 * 1024
EXPLAINED_MAX = 1_000
LIMIT_NAME_CHARACTERS_MAX = 128
LIMIT_MAX = 1_000_000
GRACE_SECONDS_MAX = 600


def check_pause(request: PauseRun) -> None:
    check_all(partial(run_id, "run_id", request.run_id), partial(reason, request.reason))


def check_resume(request: ResumeRun) -> None:
    check_all(partial(run_id, "run_id", request.run_id))


def check_cancel(request: CancelRun) -> None:
    check_all(
        partial(run_id, "run_id", request.run_id),
        partial(reason, request.reason),
        partial(_grace_seconds, request.grace_seconds),
    )


def check_cancel_task(request: CancelTask) -> None:
    check_all(
        partial(run_id, "run_id", request.run_id),
        partial(_task_id, "task_id", request.task_id),
        partial(reason, request.reason),
        partial(_grace_seconds, request.grace_seconds),
    )


def check_retry(request: RetryRun) -> None:
    """The id is needed: without it, a repeated request could retry a run that has failed again in between."""
    check_all(
        partial(run_id, "run_id", request.run_id),
        partial(request_id, request.request_id, is_needed=True),
        partial(amounts.check, "by", request.by),
    )


def check_send(request: SendMessage) -> None:
    check_all(
        partial(run_id, "run_id", request.run_id),
        where_given(_task_id, "task_id", request.task_id),
        partial(names.check_name, "message_id", request.message_id, MESSAGE_ID_CHARACTERS_MAX),
        partial(_mode, request.mode),
        partial(_text, request.text),
    )


def check_signal(request: SignalRun) -> None:
    """The id is needed: without it, a repeated request could be a second signal."""
    check_all(
        partial(run_id, "run_id", request.run_id),
        partial(names.check_name, "name", request.name, SIGNAL_CHARACTERS_MAX),
        partial(request_id, request.request_id, is_needed=True),
        partial(_payload, request.payload_json),
    )


def check_explain(request: ExplainWaiting) -> None:
    check_all(where_given(run_id, "run_id", request.run_id))
    if not 0 <= request.tasks_max <= EXPLAINED_MAX:
        refuse("tasks_max", request.tasks_max, f"has to be 0 (the default) to {EXPLAINED_MAX}")


def check_limit(request: SetAdmissionLimit) -> None:
    if request.dimension not in AdmissionDimension.values() or not request.dimension:
        refuse("dimension", request.dimension, "has to be tenant, project, workflow, role, model or pool")
    if not request.name.strip() or len(request.name) > LIMIT_NAME_CHARACTERS_MAX or not request.name.isprintable():
        refuse("name", request.name, f"has to be 1 to {LIMIT_NAME_CHARACTERS_MAX} printable characters")
    if not -1 <= request.tasks_max <= LIMIT_MAX:
        refuse("tasks_max", request.tasks_max, f"has to be -1 (no limit) to {LIMIT_MAX}")


def _payload(text: str) -> None:
    if len(text.encode(errors="replace")) > STRUCTURED_BYTES_MAX:
        refuse("payload_json", "", f"has to be at most {STRUCTURED_BYTES_MAX} bytes")


def check_recover(request: RecoverRun) -> None:
    """Only what is not done may be asked of every run."""
    if request.dry_run:
        check_all(where_given(run_id, "run_id", request.run_id))
    else:
        check_all(partial(run_id, "run_id", request.run_id))


def run_limits(limits: RunLimits) -> None:
    """Raises InvalidCommand for a limit that is negative, or larger than any run may have."""
    for name, most in (("duration_seconds_max", RUN_SECONDS_MAX), ("waiting_seconds_max", WAITING_SECONDS_MAX)):
        value = getattr(limits, name)
        if not 0 <= value <= most:
            refuse(f"limits.{name}", value, f"has to be 0 (the default) to {most}")


def _task_id(field: str, value: str) -> None:
    names.check_task_id(field, value)


def _grace_seconds(value: int) -> None:
    if not 0 <= value <= GRACE_SECONDS_MAX:
        refuse("grace_seconds", value, f"has to be 0 (the default) to {GRACE_SECONDS_MAX}")


def _mode(value: int) -> None:
    if value not in MessageMode.values():
        refuse("mode", value, "has to be steer, queue or interrupt")


def _text(text: str) -> None:
    size = len(text.encode())
    if not text.strip():
        refuse("text", "", "has to say something")
    if size > MESSAGE_BYTES_MAX:
        refuse("text", f"{size} bytes", f"has to be at most {MESSAGE_BYTES_MAX} bytes: put more into a file")
