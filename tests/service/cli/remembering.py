"""A gateway that does nothing, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from crewlog.domain.errors import Refused
from crewlog.v1.admission_pb2 import AdmissionLimit, AdmissionLimitList, ListAdmissionLimits
from crewlog.v1.agent_pb2 import AgentList, AgentView, ListAgents
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.budget_pb2 import BudgetView
from crewlog.v1.budget_service_pb2 import BudgetList, CostTable, GateList, GetBudget, ListBudgets
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.events_pb2 import PlatformStatus
from crewlog.v1.project_pb2 import ListProjects, ProjectList, ProjectView
from crewlog.v1.recovery_pb2 import RecoverRun, Recovery
from crewlog.v1.run_pb2 import GateView, ListRuns, RunList, RunView
from crewlog.v1.run_service_pb2 import WatchRun, WatchRunMessage
from crewlog.v1.waiting_pb2 import ExplainWaiting, Waiting
from google.protobuf.message import Message


@dataclass
class Remembering:
    """Answers every command with revision 7, or refuses it; with `blindness` it cannot say how a run stands."""

    refusal: Refused | None = None
    blindness: Refused | None = None
    asked: list[Message] = field(default_factory=list)
    entries: Sequence[RecordedEntry] = ()
    view: RunView = field(default_factory=lambda: RunView(run_id="demo"))
    recovery: Recovery = field(default_factory=Recovery)
    gates: Sequence[GateView] = ()
    agents: Sequence[AgentView] = ()
    limits: Sequence[AdmissionLimit] = ()
    budgets: Sequence[BudgetView] = ()
    runs: Sequence[RunView] = ()
    projects: Sequence[ProjectView] = ()
    waiting: Waiting = field(default_factory=Waiting)

    async def command(self, request: Message, context: object) -> Receipt:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal
        return Receipt(revision=7)

    Pause = Resume = Cancel = CancelTask = Retry = Send = Answer = Signal = Set = Raise = Lower = command

    async def Explain(self, request: ExplainWaiting, context: object) -> Waiting:
        self.asked.append(request)
        return self.waiting

    async def Recover(self, request: RecoverRun, context: object) -> Recovery:
        self.asked.append(request)
        return self.recovery

    async def Get(self, request: object, context: object) -> RunView | BudgetView:
        if isinstance(request, GetBudget):
            self.asked.append(request)
            return BudgetView(budget_id=request.budget_id)
        if self.blindness is not None:
            raise self.blindness
        return self.view

    async def Watch(self, request: WatchRun, context: object) -> AsyncIterator[WatchRunMessage]:
        for entry in self.entries:
            yield WatchRunMessage(entry=entry)

    async def List(self, request: Message, context: object) -> Message:
        match request:
            case ListAgents():
                return AgentList(agents=self.agents)
            case ListRuns():
                self.asked.append(request)
                return RunList(runs=self.runs or [self.view])
            case ListProjects():
                return ProjectList(projects=self.projects)
            case ListBudgets():
                return BudgetList(budgets=self.budgets)
            case ListAdmissionLimits():
                return AdmissionLimitList(limits=self.limits)
            case _:
                return GateList(gates=self.gates)

    async def Status(self, request: object, context: object) -> PlatformStatus:
        return PlatformStatus()

    async def Query(self, request: object, context: object) -> CostTable:
        return CostTable()

    def __getattr__(self, name: str) -> object:
        return None


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Crewlog = Callable[..., Awaitable[Done]]
