"""Runs whose tasks are runs: everybody who moves their money, at random, and a scheduler that dies between steps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import Refused
from crewlog.domain.run import child_money as run_child_money
from crewlog.domain.run import decider as run
from crewlog.domain.run import money as run_money
from crewlog.domain.run import results as run_results
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run, Task
from crewlog.eventlog import codec
from crewlog.scheduler import child_runs
from crewlog.v1 import budget_pb2
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.budget_pb2 import Limit, OnExhausted
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry
from crewlog.v1.node_pb2 import RetryPolicy
from crewlog.v1.run_pb2 import (
    AgentNode,
    AnswerGate,
    AskForAllotment,
    CheckDeadlines,
    ClaimTask,
    EndTask,
    ExpireGate,
    FinishRun,
    FitRunLimit,
    GateStatus,
    GrowAllotment,
    LowerRunBudget,
    MapNode,
    Node,
    ParkTask,
    RaiseRunBudget,
    RetryRun,
    Role,
    RunStatus,
    StartRun,
    TaskFailure,
    TaskResult,
    Workflow,
    WorkflowNode,
)
from google.protobuf.message import Message

STEPS_MAX = 6_000
CHUNK = Amounts(usd_micros=40, model_calls=3)
Step: TypeAlias = tuple[str, Message]
MOVES = (FitRunLimit, GrowAllotment, AskForAllotment)
"""They may come again at any time."""


def agent(node_id: str, *depends_on: str) -> Node:
    return Node(node_id=node_id, depends_on=depends_on, agent=AgentNode(role=Role(name="w", prompt="work")))


LEAF = Workflow(name="leaf", nodes=[agent("a"), agent("b", "a")])
MIDDLE = Workflow(name="middle", nodes=[agent("c"), Node(node_id="leaf", workflow=WorkflowNode(workflow=LEAF))])
LEAVES = Node(workflow=WorkflowNode(workflow=LEAF), retry=RetryPolicy(attempts_max=2))
TOP = Workflow(
    name="top",
    nodes=[
        Node(node_id="parts", map=MapNode(body=LEAVES, times=3, failures_max=1)),
        Node(node_id="middle", workflow=WorkflowNode(workflow=MIDDLE), budget=Limit(usd_micros=250)),
        agent("last", "parts"),
    ],
)


class Runs:
    """All runs by their ids, what has happened to them, in order, and the scheduler."""

    def __init__(self, seed: int, *, wild_steps: int = 150) -> None:
        self.random = random.Random(seed)
        self.runs: dict[str, Run] = {}
        self.log: list[Entry] = []
        self.sent: list[Step] = []
        self.paths: Counter[str] = Counter()
        self.now = 1_000_000
        self.steps = 0
        self.wild_steps = wild_steps
        self.top = "top"
        self.limit = self.random.choice((60, 300, 1_000))
        self.wish = self.random.choice(
            (OnExhausted.ON_EXHAUSTED_STOP, OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT)
        )

    def do(self, run_id: str, command: Message) -> bool:
        command.at_unix_micros = self.now  # type: ignore[attr-defined]
        before = self.runs.get(run_id, run.INITIAL)
        try:
            events = run.decide(before, command)  # type: ignore[arg-type]
        except Refused:
            return False
        if not events:
            return False
        if isinstance(command, MOVES):
            self.sent.append((run_id, command))
        self.runs[run_id] = run.fold_all(before, events)
        self.paths.update(f"{type(command).__name__}: {type(event).__name__}" for event in events)
        ordinal = sum(entry.aggregate.id == run_id for entry in self.log) + 1
        decision = Decision(events=[codec.pack(event) for event in events])
        aggregate = Aggregate(tenant="local", kind="run", id=run_id)
        self.log.append(Entry(aggregate=aggregate, ordinal=ordinal, decisions=[decision]))
        return True

    def _children(self, run: Run) -> Iterator[Step]:
        """What the scheduler does about child runs. It may die, or another one lead, before each of it."""
        for task_id, child_id in sorted(run.child_runs.items()):
            task, child = run.tasks[task_id], self.runs.get(child_id)
            if child is None:
                yield child_id, child_runs.start_of(run, task, child_id, self.now)
                continue
            wanted = child_runs.wanted(run, task, child, self.now)
            if wanted is not None:
                yield child_id, wanted
            elif run_state.is_over(child):
                yield run.started.run_id, run_results.end_of(child, self.now)
            else:
                step = run_child_money.next_step(self.chain(child), CHUNK, self.now)
                yield from [step] if step is not None else []

    def chain(self, run: Run) -> list[Run]:
        """The run, and then whose task each one is."""
        chain = [run]
        while chain[-1].started.parent.run_id:
            chain.append(self.runs[chain[-1].started.parent.run_id])
        return chain


class Family(Runs):
    """With executors, people and the clock."""

    def play(self) -> None:
        budget = Limit(usd_micros=self.limit, model_calls=self.random.choice((0, 20)))
        self.do(
            "top", StartRun(run_id="top", workflow=TOP, budget=budget, on_exhausted=self.wish, base_commit="0" * 40)
        )
        while not run_state.is_over(self.runs["top"]) or (self.is_wild and self._retried()):
            self.steps += 1
            assert self.steps < STEPS_MAX, "the runs do not end"
            self._step()

    @property
    def is_wild(self) -> bool:
        return self.steps < self.wild_steps

    def _step(self) -> None:
        self.now += 1
        moves = [move for run_id in sorted(self.runs) for move in self._moves(self.runs[run_id])]
        self.random.shuffle(moves)
        if self.is_wild and self.random.random() < 0.1:
            moves.insert(0, self._changed())
        if self.sent and self.random.random() < 0.1:
            self.do(*self.random.choice(self.sent))
        if not any(self.do(*move) for move in moves) and not self._is_asked():
            assert self.wish == OnExhausted.ON_EXHAUSTED_WAIT, "nothing goes on"
            assert self.do("top", RaiseRunBudget(run_id="top", by=self._enough()))

    def _is_asked(self) -> bool:
        gates = [gate for run in self.runs.values() for gate in run.gates.values()]
        return any(gate.status == GateStatus.GATE_STATUS_OPEN for gate in gates)

    def _moves(self, run: Run) -> Iterator[Step]:
        run_id = run.started.run_id
        yield from self._children(run)
        if run_state.is_over(run):
            return
        yield run_id, CheckDeadlines(run_id=run_id)
        if run_state.is_finishing(run):
            yield run_id, FinishRun(run_id=run_id)
        for node_id in run_state.claimable(run):
            yield run_id, ClaimTask(task_id=run_state.next_task(run, node_id).task_id, executor_id="e")
        for task in run_state.closable(run):
            yield run_id, ClaimTask(task_id=task.task_id, executor_id="s", to_close=True)
        for task in run_state.open_tasks(run):
            yield run_id, self._worked(run, task)
        for gate_id in sorted(run.gates):
            if run.gates[gate_id].status == GateStatus.GATE_STATUS_OPEN and self.random.random() < 0.3:
                yield run_id, self._answered(gate_id)

    def _worked(self, run: Run, task: Task) -> Message:
        if run_state.is_stopping(run) or run_state.is_to_stop(task) or task.executor_id == "s":
            return EndTask(task_id=task.task_id, cancelled=self._result(task))
        draw = self.random.random()
        if draw < 0.3 and not task.has_to_stop:
            return self._grown(run, task)
        if draw < 0.4:
            failed = TaskFailure(failure=Failure(reason="broken"), result=self._result(task))
            return EndTask(task_id=task.task_id, failed=failed)
        return EndTask(task_id=task.task_id, succeeded=self._result(task))

    def _grown(self, run: Run, task: Task) -> Message:
        """As an executor asks for it: from the run, or from its parents, or not at all."""
        wanted = self._more(self.random.randint(1, 60))
        missing = run_child_money.missing(run, Amounts.of(wanted))
        if not missing:
            number, generation = task.growths + 1, task.generation
            return GrowAllotment(task_id=task.task_id, generation=generation, number=number, by=wanted)
        step = run_child_money.supply(self.chain(run), missing, CHUNK, self.now) if run_money.is_part(run) else None
        if step is not None and self.do(*step):
            self.paths["supplied"] += 1
        if not run_money.waits(run) and (not run_money.is_part(run) or self.random.random() < 0.5):
            return EndTask(task_id=task.task_id, failed=TaskFailure(failure=run_money.no_money()))
        own = run_money.own_budget(run)
        return ParkTask(task_id=task.task_id, generation=task.generation, budget_id=own, wanted=wanted)

    def _result(self, task: Task) -> TaskResult:
        before = Amounts.of(task.result.spent).usd_micros if task.result is not None else 0
        spent = self.random.randint(before, max(before, task.allotment.usd_micros))
        calls = self.random.randint(0, task.allotment.model_calls)
        return TaskResult(spent=Amounts(usd_micros=spent, model_calls=calls).message(), cost_usd_micros=spent)

    def _answered(self, gate_id: str) -> Message:
        if self.random.random() < 0.2:
            return ExpireGate(gate_id=gate_id)
        choice = self.random.choice((run_money.RAISE, run_money.STOP))
        return AnswerGate(gate_id=gate_id, choice=choice, by=self._enough(), answered_by="human:ada")

    def _changed(self) -> Step:
        kind: Callable[..., Message] = self.random.choice((RaiseRunBudget, LowerRunBudget))
        run_id = self.random.choice(sorted(self.runs))
        return run_id, kind(run_id=run_id, by=self._more(self.random.randint(1, 100)))

    def _more(self, usd: int) -> budget_pb2.Amounts:
        return budget_pb2.Amounts(usd_micros=usd)

    def _enough(self) -> budget_pb2.Amounts:
        calls = 10 if self.runs["top"].limit.model_calls else 0
        return budget_pb2.Amounts(usd_micros=200, model_calls=calls)

    def _retried(self) -> bool:
        top = self.runs["top"]
        if top.status == RunStatus.RUN_STATUS_SUCCEEDED:
            return False
        by = self._enough() if self.random.random() < 0.5 else None
        return self.do("top", RetryRun(run_id="top", by=by, request_id=f"q{self.steps}"))
