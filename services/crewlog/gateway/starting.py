"""From what a client asks to what the scheduler is told: the plan in full, the model, the commit to start from.

Nothing is appended before all of it is known to be good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from crewlog.domain.errors import InvalidCommand, WrongState
from crewlog.domain.workflow import validation as workflow
from crewlog.eventlog.owner import Clock
from crewlog.gateway import checks
from crewlog.gateway.config import ModelAccess
from crewlog.v1.run_pb2 import StartRun, Workflow
from crewlog.v1.workspace_pb2 import PinBase, PinnedBase

LoadWorkflow = Callable[[str, Path], Workflow]
CheckModel = Callable[[str], object]
Pin = Callable[[PinBase], Awaitable[PinnedBase]]

NO_CREDENTIAL = "there is no key for a model"
HOW_TO_GET_A_CREDENTIAL = (
    "set ANTHROPIC_API_KEY where `crewlog up` is started, or play a script: `crewlog up --scripted-model FILE`"
)


class Starting:
    """`check_model` raises InvalidCommand for a model that nobody knows the price of."""

    def __init__(
        self, load_workflow: LoadWorkflow, check_model: CheckModel, pin: Pin, access: ModelAccess, clock: Clock
    ) -> None:
        self._load_workflow = load_workflow
        self._check_model = check_model
        self._pin = pin
        self._access = access
        self._clock = clock

    async def complete(self, request: StartRun, path: str, *, principal: str, traceparent: str) -> StartRun:
        """The command for the scheduler. Raises InvalidCommand or WrongState, or what git refuses."""
        command = StartRun()
        command.CopyFrom(request)
        command.workflow.CopyFrom(self._workflow(request, path))
        command.model = request.model or self._access.default_model
        self._check_models(command)
        command.base_commit = await self._base_commit(command, path)
        command.at_unix_micros = self._clock()
        command.request_traceparent = traceparent
        command.requested_by = principal
        return command

    def _workflow(self, request: StartRun, path: str) -> Workflow:
        if request.WhichOneof("plan") == "workflow":
            return request.workflow
        plan = self._load_workflow(request.workflow_name, Path(path))
        workflow.validate(plan)
        return plan

    def _check_models(self, command: StartRun) -> None:
        """Every model that the run may call, whoever calls it; a run that calls none needs no key."""
        roles = list(workflow.roles_of(command.workflow))
        if roles and not self._access.api_key:
            raise WrongState(NO_CREDENTIAL, what_to_do=HOW_TO_GET_A_CREDENTIAL)
        for where, role in roles:
            field = f"workflow.{where}"
            if not role.model and not command.model:
                checks.refuse("model", "", "is needed: the gateway has no default")
            self._check_known(f"{field}.model" if role.model else "model", role.model or command.model)
            if role.cheaper_model:
                self._check_known(f"{field}.cheaper_model", role.cheaper_model)

    def _check_known(self, field: str, model: str) -> None:
        checks.model(field, model)
        try:
            self._check_model(model)
        except InvalidCommand as refusal:
            raise InvalidCommand(
                f"{field}: {refusal.message}", what_to_do=refusal.what_to_do, violations={field: refusal.message}
            ) from None

    async def _base_commit(self, command: StartRun, path: str) -> str:
        """A plan without agents and commands touches no files, so it starts from nothing."""
        if not workflow.touches_files(command.workflow):
            return ""
        pinned = await self._pin(PinBase(project_id=command.project_id, path=path, base=command.base))
        return pinned.commit
