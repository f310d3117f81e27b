"""What the scheduler does with runs and executors, without the log: who is woken is looked at, one after the other."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from crewlog.domain import admission
from crewlog.domain.admission import Admission, Key
from crewlog.domain.decider import fold
from crewlog.domain.run import decider as run
from crewlog.domain.run.state import Run
from crewlog.eventlog.owner import Outcome
from crewlog.scheduler.dispatch import Dispatch
from crewlog.scheduler.fleet import Fleet
from crewlog.v1.admission_pb2 import AdmissionDimension, SetAdmissionLimit
from crewlog.v1.run_pb2 import (
    AgentNode,
    CancelRun,
    ClaimTask,
    EndTask,
    Node,
    NoopNode,
    Role,
    StartRun,
    TaskClaimed,
    TaskResult,
    Workflow,
)
from google.protobuf.message import Message

MINUTE = 60_000_000


def noop(node_id: str, *labels: str) -> Node:
    return Node(node_id=node_id, executor_labels=labels, noop=NoopNode())


def agent(node_id: str, role: str, *labels: str, model: str = "") -> Node:
    prompted = Role(name=role, prompt="do it", model=model)
    return Node(node_id=node_id, executor_labels=labels, agent=AgentNode(role=prompted))


def many(count: int, role: str = "") -> list[Node]:
    return [agent(f"n{number}", role) if role else noop(f"n{number}") for number in range(count)]


@dataclass
class Office:
    now: int = MINUTE
    fleet: Fleet = field(default_factory=Fleet)
    runs: dict[str, Run] = field(default_factory=dict)
    woken: deque[str] = field(default_factory=deque)
    begun: list[tuple[str, str]] = field(default_factory=list)
    admission: Admission = admission.INITIAL
    last_first: bool = False

    def __post_init__(self) -> None:
        self.dispatch = Dispatch(self.fleet, lambda *_: "token", lambda: self.now)

    def executor(self, name: str, slots: int, *labels: str) -> None:
        executor = self.fleet.connect(f"{name}_boot")
        executor.slots, executor.labels = slots, frozenset(labels)
        self.feed()

    def limit(self, dimension: AdmissionDimension.ValueType, name: str, tasks_max: int) -> None:
        command = SetAdmissionLimit(dimension=dimension, name=name, tasks_max=tasks_max)
        self.admission = fold(admission, admission.decide(self.admission, command), self.admission)
        self.dispatch.learn(self.admission)
        self.feed()

    def start(
        self, run_id: str, nodes: Sequence[Node], priority: int = 0, workflow: str = "w", project: str = "p"
    ) -> None:
        command = StartRun(
            run_id=run_id,
            project_id=project,
            workflow=Workflow(name="w", nodes=nodes),
            input="go",
            base_commit="0" * 40,
            priority=priority,
            at_unix_micros=self.now,
        )
        self.runs[run_id] = fold(run, run.decide(run.INITIAL, command))
        self.woken.append(run_id)
        self.settle()

    def end(self, run_id: str, task_id: str) -> None:
        self.do(run_id, EndTask(run_id=run_id, task_id=task_id, succeeded=TaskResult(), at_unix_micros=self.now))

    def do(self, run_id: str, command: run.Command) -> None:
        self.dispatch.free_slot(self.runs[run_id], command)
        self._do(run_id, command)
        self.woken.append(run_id)
        self.settle()

    def cancel(self, run_id: str) -> None:
        """Nothing more of the run begins; what is at work goes on until it ends."""
        self.do(run_id, CancelRun(run_id=run_id, reason="enough", at_unix_micros=self.now))

    def settle(self) -> None:
        while self.woken:
            self.look(self.woken.pop() if self.last_first else self.woken.popleft())

    def look(self, run_id: str) -> None:
        for claim in self.dispatch.claims(self.runs[run_id]):
            self._claim(claim)
        self.feed(settles=False)

    def feed(self, *, settles: bool = True) -> None:
        self.woken.extend(self.dispatch.hungry())
        if settles:
            self.settle()

    def at_work(self) -> list[tuple[str, str]]:
        return [(run_id, task_id) for run_id, state in self.runs.items() for task_id in state.open]

    def counted(self) -> Counter[Key]:
        """What is at work, by what it counts under, as the runs say it."""
        requirements = self.fleet.requirements
        found: Counter[Key] = Counter()
        for run_id, task_id in self.at_work():
            state = self.runs[run_id]
            found.update(requirements.of(state, state.tasks[task_id].node_id).keys)
        return found

    def _claim(self, claim: ClaimTask) -> None:
        events = self._do(claim.run_id, claim)
        assert any(isinstance(event, TaskClaimed) for event in events)
        self.begun.append((claim.run_id, claim.task_id))
        self.dispatch.grant(claim.run_id, [claim], [Outcome(len(self.begun), events, self.runs[claim.run_id])])

    def _do(self, run_id: str, command: run.Command) -> list[Message]:
        events = run.decide(self.runs[run_id], command)
        self.runs[run_id] = fold(run, events, self.runs[run_id])
        return list(events)
