"""What clients send, looked at field by field before anything is done with it. One refusal names all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from crewlog.domain import git_names, names
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.project import PROJECT_ID_CHARACTERS_MAX
from crewlog.domain.run.decider import PRIORITY_MAX
from crewlog.domain.workflow import validation as workflow
from crewlog.eventlog import codec
from crewlog.eventlog.port import INLINE_BYTES_MAX
from crewlog.v1.run_pb2 import StartRun

INPUT_BYTES_MAX = INLINE_BYTES_MAX
WORKFLOW_BYTES_MAX = 1024 * 1024
WORKFLOW_NAME_CHARACTERS_MAX = 64
MODEL_CHARACTERS_MAX = 128
REASON_CHARACTERS_MAX = 2_000
AGENT_ID_CHARACTERS_MAX = 128
REQUEST_ID_CHARACTERS_MAX = 64
KINDS = ("run", "agent", "workspace", "change", "project", "budget", "admission")

Check = Callable[[], None]


def check_all(*checks: Check) -> None:
    """Runs every check and raises one InvalidCommand with the violations of all."""
    violations: dict[str, str] = {}
    messages: list[str] = []
    for check in checks:
        try:
            check()
        except InvalidCommand as refusal:
            violations.update(refusal.violations)
            messages.append(refusal.message)
    if messages:
        raise InvalidCommand("; ".join(messages), what_to_do="correct what is named", violations=violations)


def check_start(request: StartRun) -> None:
    check_all(
        partial(run_id, "run_id", request.run_id),
        partial(project_id, "project_id", request.project_id),
        partial(_check_plan, request),
        partial(_check_input, request.input),
        partial(model, "model", request.model),
        where_given(git_names.check_revision, "base", request.base),
        partial(_check_place, request),
    )


def _check_place(request: StartRun) -> None:
    if request.HasField("parent"):
        refuse("parent", request.parent.run_id, "cannot be set: a child run is started by its parent's workflow")
    if not -PRIORITY_MAX <= request.priority <= PRIORITY_MAX:
        refuse("priority", request.priority, f"has to be -{PRIORITY_MAX} (batch) to {PRIORITY_MAX} (somebody waits)")


def where_given(check: Callable[[str, str], None], field: str, value: str) -> Check:
    """The check of a field that may be empty."""
    return partial(check, field, value) if value else _nothing


def run_id(field: str, value: str) -> None:
    names.check_name(field, value, names.RUN_ID_CHARACTERS_MAX)


def project_id(field: str, value: str) -> None:
    names.check_name(field, value, PROJECT_ID_CHARACTERS_MAX)


def agent_id(field: str, value: str) -> None:
    if len(value) > AGENT_ID_CHARACTERS_MAX or not names.is_aggregate_id(value):
        refuse(field, value, "has to be the id of an agent, such as `fix-slug-7_implementer-2`")


def model(field: str, value: str) -> None:
    """Only its form: whether the model is known is for the price list to say."""
    if len(value) > MODEL_CHARACTERS_MAX or not value.isprintable() or " " in value:
        refuse(field, value, f"has to be the name of a model, at most {MODEL_CHARACTERS_MAX} characters")


def reason(value: str) -> None:
    if len(value) > REASON_CHARACTERS_MAX:
        refuse("reason", value, f"has to be at most {REASON_CHARACTERS_MAX} characters")


def request_id(value: str, *, is_needed: bool = False) -> None:
    """What makes a repeated request one and the same."""
    if len(value) > REQUEST_ID_CHARACTERS_MAX or not value.isprintable():
        refuse("request_id", value, f"has to be at most {REQUEST_ID_CHARACTERS_MAX} printable characters")
    if is_needed and not value.strip():
        refuse("request_id", value, "is needed: choose one, and send it again with the same request")


def kinds(values: Iterable[str]) -> None:
    for value in values:
        if value not in KINDS:
            refuse("kinds", value, f"has to be one of {', '.join(KINDS)}")


def types(values: Iterable[str]) -> None:
    for value in values:
        if value not in codec.EVENT_TYPES:
            refuse("types", value, "has to be a type of event, such as `task_succeeded`")


def sha256(value: bytes) -> None:
    if len(value) != 32:
        refuse("sha256", value.hex(), "has to be 32 bytes")


def refuse(field: str, value: object, why: str) -> None:
    raise InvalidCommand(f"{field} {str(value)[:80]!r} {why}", violations={field: why})


def _nothing() -> None:
    pass


def _check_plan(request: StartRun) -> None:
    plan = request.WhichOneof("plan")
    if plan == "workflow":
        size = request.workflow.ByteSize()
        if size > WORKFLOW_BYTES_MAX:
            refuse("workflow", f"{size} bytes", f"has to be at most {WORKFLOW_BYTES_MAX} bytes")
        workflow.validate(request.workflow)
    elif plan == "workflow_name":
        names.check_name("workflow_name", request.workflow_name, WORKFLOW_NAME_CHARACTERS_MAX)
    else:
        refuse("workflow_name", "", "or a workflow is needed")


def _check_input(text: str) -> None:
    size = len(text.encode())
    if not text.strip():
        refuse("input", "", "has to say what to do")
    if size > INPUT_BYTES_MAX:
        refuse(
            "input", f"{size} bytes", f"has to be at most {INPUT_BYTES_MAX} bytes: put more into a file of the project"
        )
