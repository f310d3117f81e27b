"""Everybody who may do something to a run, at random: the scheduler, executors, child runs, the git service, people and
the clock. After a while they calm down, and the run has to end by itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeAlias

from crewlog.domain import amounts, names
from crewlog.domain.errors import Refused
from crewlog.domain.run import decider as run
from crewlog.domain.run import money_events as run_money_events
from crewlog.domain.run import state as run_state
from crewlog.domain.run.deadlines import RUN_SECONDS_MAX, next_due_at
from crewlog.domain.run.state import Run, Task
from crewlog.domain.run.view import view
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.body_pb2 import Body
from crewlog.v1.budget_pb2 import Amounts, Limit, OnExhausted
from crewlog.v1.run_pb2 import (
    AnswerGate,
    AskForAllotment,
    CancelRun,
    CancelTask,
    CheckDeadlines,
    ClaimTask,
    EndTask,
    FinishRun,
    GateKind,
    GateStatus,
    GrowAllotment,
    LapseClaim,
    LowerRunBudget,
    ParkCause,
    ParkTask,
    PauseRun,
    Question,
    RaiseRunBudget,
    ResumeRun,
    RetryRun,
    RunStatus,
    SendMessage,
    SignalRun,
    SpawnChild,
    StartRun,
    TaskFailure,
    TaskResult,
    TaskStatus,
    UnparkTask,
    Workflow,
)
from google.protobuf.message import Message

from tests.domain.random_graphs import AGAIN, SIGNAL

RUN = "demo"
BASE = "0" * 40
SECOND = 1_000_000
AT_WORK_MAX = 4
STEPS_MAX = 4_000
Move: TypeAlias = run.Command
NOT_THE_SAME_TWICE = (ClaimTask, CheckDeadlines, GrowAllotment, UnparkTask)
"""Their repetition is refused, or is another one."""


class Table:
    """What has happened. `entries` are the commands that were not refused, each with what it has caused."""

    def __init__(self, workflow: Workflow, seed: int, *, wild_steps: int = 80) -> None:
        self.random = random.Random(seed)
        self.run: Run = run.INITIAL
        self.now = 1_000 * SECOND
        self.entries: list[tuple[Move, list[Message]]] = []
        self.steps = 0
        self.wild_steps = self.random.randint(0, wild_steps)
        self.requests = 0
        self.workflow = workflow

    @property
    def is_wild(self) -> bool:
        return self.steps < self.wild_steps

    def situation(self) -> str:
        return f"{view(self.run)}\nready {self.run.ready} pending {self.run.pending} open {dict(self.run.open)}"

    def do(self, command: Move) -> bool:
        """Whether anything came of it. What was done once is not done twice."""
        try:
            events = run.decide(self.run, command)
        except Refused:
            return False
        if events:
            self.entries.append((command, events))
            self.run = run.fold_all(self.run, events)
            self._check_now()
        if not isinstance(command, NOT_THE_SAME_TWICE):
            self._check_done(command)
        return bool(events)

    def _check_done(self, command: Move) -> None:
        """It may come too late for a refusal, and never once more."""
        with suppress(Refused):
            assert run.decide(self.run, command) == [], f"{command} was done twice"

    def _check_now(self) -> None:
        view(self.run)
        next_due_at(self.run)
        assert len(self.run.tasks) <= 20_000
        assert sorted(self.run.parked) == sorted(
            task.task_id for task in self.run.tasks.values() if task.status == TaskStatus.TASK_STATUS_PARKED
        )
        assert set(self.run.open) == {task.task_id for task in self.run.tasks.values() if task.status == _CLAIMED}, (
            "what is worked on is not what is claimed"
        )
        if not run_state.is_over(self.run):
            self._check_nothing_is_left()
            self._check_turns()

    def _check_nothing_is_left(self) -> None:
        """Of a visit that is over somebody stops what is at work, and nothing waits."""
        begun = [task for task in self.run.tasks.values() if task.status not in run_state.ENDED]
        looked_after = {task.task_id for task in run_state.closable(self.run)} | {*self.run.open, *self.run.child_runs}
        left = [task.task_id for task in begun if self._is_past(task) and task.task_id not in looked_after]
        assert not left, f"{left} are of older visits"

    def _check_turns(self) -> None:
        """What is visited again, has not begun, and nothing is missing for stands in line."""
        in_line = {*self.run.ready, *self.run.pending, *self.run.spawned}
        again = [node_id for node_id in self.run.graph.nodes if self.run.visits[node_id] > 1]
        waiting = [node_id for node_id in again if run_state.current(self.run, node_id) is None]
        lost = [node_id for node_id in waiting if not self.run.unmet[node_id] and node_id not in in_line]
        assert not lost, f"{lost} have lost their turn"

    def _is_past(self, task: Task) -> bool:
        owner = self.run.tasks.get(task.map_task)
        is_over = owner is not None and owner.status in run_state.ENDED
        return is_over or task.visit < self.run.visits[task.node_id]

    def _with_time(self, command: Move) -> Move:
        command.run_id, command.at_unix_micros = RUN, self.now
        return command

    def _more(self, of_each: int) -> Amounts:
        return Amounts(**dict.fromkeys(amounts.limited_units(self.run.limit), of_each))

    def _request(self) -> str:
        self.requests += 1
        return f"r{self.requests}"


class Workers(Table):
    """The scheduler, executors, child runs and the git service."""

    def _claims(self) -> Iterator[Move]:
        if run_state.is_finishing(self.run):
            yield FinishRun()
        for task in run_state.closable(self.run):
            yield ClaimTask(task_id=task.task_id, executor_id="scheduler", to_close=True)
        if len(self.run.open) < AT_WORK_MAX:
            for node_id in run_state.claimable(self.run):
                yield ClaimTask(task_id=run_state.next_task(self.run, node_id).task_id, executor_id="e1")

    def _work(self) -> Iterator[Move]:
        for task in sorted(run_state.open_tasks(self.run), key=lambda task: task.task_id):
            if task.executor_id == "scheduler" or run_state.is_stopping(self.run) or run_state.is_to_stop(task):
                yield self._stopped(task)
            elif self.run.paused is not None:
                yield self._park(task, ParkCause.PARK_CAUSE_PAUSED)
            else:
                yield self._worked(task)

    def _stopped(self, task: Task) -> EndTask:
        """An agent may have ended by itself before it heard of it."""
        if self.random.random() < 0.3:
            return self._ended(task)
        return EndTask(task_id=task.task_id, cancelled=self._result(task))

    def _worked(self, task: Task) -> Move:
        if not self.is_wild:
            return self._ended(task)
        return self.random.choice(_AT_WORK)(self, task)

    def _ended(self, task: Task) -> EndTask:
        if self.random.random() < (0.3 if self.is_wild else 0.1):
            reason = self.random.choice(["broken", "merge_conflict", "model_refused"])
            failure = Failure(reason=reason, message="it did not work")
            failed = TaskFailure(failure=failure, result=self._result(task))
            return EndTask(task_id=task.task_id, failed=failed)
        return EndTask(task_id=task.task_id, succeeded=self._result(task))

    def _result(self, task: Task) -> TaskResult:
        output = self.random.choice(["fine", "", AGAIN, "{{ run.id }}"])
        held = task.allotment if task.child_run_id else run_money_events.held(self.run, task)
        spent = Amounts(usd_micros=self.random.randint(0, held.usd_micros or 10))
        read = [message.number for message in self.run.messages.get(task.task_id, ()) if self.random.random() < 0.5]
        commit = self.random.choice(["", f"{self.steps:040d}"])
        return TaskResult(
            output=Body(inline=output.encode()),
            spent=spent,
            messages_read=read,
            commit=commit,
            structured_json=self._structured(task),
        )

    def _structured(self, task: Task) -> str:
        node = run_state.node_of(self.run, task)
        if node.agent.HasField("planning"):
            return self._plan()
        values = ["", '{"is_good": true, "items": [1, 2]}', '{"is_good": false, "items": []}', "null", "[1]"]
        return self.random.choice(values)

    def _plan(self) -> str:
        names = [f"t{number}" for number in range(self.random.randint(1, 5))]
        tasks = [
            {
                "id": name,
                "role": self.random.choice(["worker", "scout"]),
                "prompt": "{{ not.a.template }}",
                "depends_on": self.random.sample(names[:number], k=self.random.randint(0, min(2, number))),
            }
            for number, name in enumerate(names)
        ]
        return json.dumps({"tasks": tasks}) if self.random.random() < 0.9 else "{}"

    def _lapse(self, task: Task) -> Move:
        return LapseClaim(task_id=task.task_id, generation=task.generation, reason="the executor is gone")

    def _park(self, task: Task, cause: ParkCause.ValueType) -> Move:
        budget_id = f"run_{RUN}" if cause == ParkCause.PARK_CAUSE_BUDGET else ""
        return ParkTask(task_id=task.task_id, generation=task.generation, cause=cause, budget_id=budget_id)

    def _park_somehow(self, task: Task) -> Move:
        causes = [ParkCause.PARK_CAUSE_BUDGET, ParkCause.PARK_CAUSE_HANDED_OVER, ParkCause.PARK_CAUSE_CHILDREN]
        return self._park(task, self.random.choice(causes))

    def _ask(self, task: Task) -> Move:
        question = Question(turn=1, kind=GateKind.GATE_KIND_QUESTION, question="which?", expires_seconds=20)
        cause = ParkCause.PARK_CAUSE_QUESTION
        return ParkTask(task_id=task.task_id, generation=task.generation, cause=cause, question=question)

    def _spawn(self, task: Task) -> Move:
        share = amounts.share(task.allotment, 3).message()
        self.requests += 1
        return SpawnChild(
            task_id=task.task_id,
            generation=task.generation,
            turn=self.requests,
            role=self.random.choice(["worker", "scout"]),
            prompt="{{ help }}",
            share=share,
        )

    def _grow(self, task: Task) -> Move:
        by = Amounts(usd_micros=self.random.randint(1, 500))
        return GrowAllotment(task_id=task.task_id, generation=task.generation, number=task.growths + 1, by=by)

    def _others(self) -> Iterator[Move]:
        """Child runs and the git service."""
        for task_id in (*sorted(self.run.child_runs), *self.run.merging):
            task = self.run.tasks[task_id]
            is_stopped = run_state.is_to_stop(task) or run_state.is_stopping(self.run)
            if not is_stopped and task_id in self.run.child_runs and self.is_wild and self.random.random() < 0.8:
                yield self._more_for_child_run(task)
                continue
            if task_id in self.run.merging and is_stopped and not self.is_wild:
                continue
            end = self._stopped(task) if is_stopped else self._ended(task)
            end.is_merge = task_id in self.run.merging
            yield end

    def _more_for_child_run(self, task: Task) -> Move:
        wanted = Amounts(usd_micros=self.random.randint(1, 500))
        if self.random.random() < 0.5:
            return AskForAllotment(task_id=task.task_id, wanted=wanted)
        return GrowAllotment(task_id=task.task_id, number=task.growths + 1, by=wanted)


class Play(Workers):
    """With people and the clock."""

    def play(self) -> None:
        self.do(self._start())
        while not self._is_done():
            self.steps += 1
            assert self.steps < STEPS_MAX, f"the run does not end: {self.situation()}"
            self._step()

    def _is_done(self) -> bool:
        if not run_state.is_over(self.run):
            return False
        is_retried = self.is_wild and self.run.status != RunStatus.RUN_STATUS_SUCCEEDED
        return not (is_retried and self.random.random() < 0.8)

    def _start(self) -> StartRun:
        pick = self.random.choice
        return StartRun(
            run_id=RUN,
            project_id="demo",
            workflow=self.workflow,
            input="do it",
            budget=pick([Limit(), Limit(usd_micros=1_000), Limit(usd_micros=100_000, model_calls=50)]),
            on_exhausted=pick(
                [OnExhausted.ON_EXHAUSTED_STOP, OnExhausted.ON_EXHAUSTED_ASK, OnExhausted.ON_EXHAUSTED_WAIT]
            ),
            base_commit=BASE,
            at_unix_micros=self.now,
        )

    def _step(self) -> None:
        self.now += self.random.randint(0, SECOND)
        moves = list(self._moves())
        self.random.shuffle(moves)
        if self.is_wild and self.random.random() < 0.25:
            moves.insert(0, self._interference())
        if not any(self.do(move) for move in moves):
            self._let_time_pass()

    def _let_time_pass(self) -> None:
        if run_state.is_over(self.run):
            self.do(self._retry())
            return
        due = next_due_at(self.run)
        assert due is not None
        is_last = due >= self.now + (RUN_SECONDS_MAX // 2) * SECOND
        assert self.is_wild or not is_last, f"nothing goes on: {self.situation()}"
        if is_last:
            return
        self.now = max(self.now, due)
        assert self.do(self._with_time(CheckDeadlines())) or self.is_wild, f"nothing was due: {self.situation()}"

    def _moves(self) -> Iterator[Move]:
        """What the platform would do next, each of it."""
        for command in (*self._claims(), *self._work(), *self._others(), *self._people()):
            yield self._with_time(command)

    def _people(self) -> Iterator[Move]:
        if self.run.paused is not None and not self.is_wild:
            yield ResumeRun(by="human:ada")
        for gate_id in sorted(self.run.gates):
            if self.run.gates[gate_id].status == GateStatus.GATE_STATUS_OPEN and self.random.random() < 0.5:
                yield self._answer(gate_id)
        waits = [self.run.tasks[task_id].signal for task_id in self.run.parked if self.run.tasks[task_id].signal]
        for name in waits if self.random.random() < 0.5 or not self.is_wild else ():
            yield self._signal(name)
        for task_id in self.run.parked if not self.is_wild else ():
            if self.run.tasks[task_id].parked_on and not run_state.is_over(self.run):
                yield RaiseRunBudget(by=self._more(100_000), request_id=self._request())
                yield UnparkTask(task_id=task_id)

    def _answer(self, gate_id: str) -> Move:
        choices = list(self.run.gates[gate_id].opened.choices)
        choice = self.random.choice(choices) if choices else ""
        is_raised = choice == "raise"
        return AnswerGate(
            gate_id=gate_id,
            choice=choice,
            text="" if choices else "because",
            by=Amounts(usd_micros=1_000) if is_raised else None,
            answered_by="human:ada",
        )

    def _signal(self, name: str) -> Move:
        return SignalRun(name=name, payload_json='{"is_good": true}', request_id=self._request())

    def _retry(self) -> Move:
        by = Amounts(usd_micros=1_000) if self.run.limit.usd_micros else None
        return self._with_time(RetryRun(request_id=self._request(), by=by, requested_by="human:ada"))

    def _interference(self) -> Move:
        """What somebody may want at any time."""
        node_id = self.random.choice(sorted(self.run.visits))
        visit = self.random.randint(1, self.run.visits[node_id])
        task_id = names.task_id(node_id, visit)
        amount = Amounts(usd_micros=self.random.randint(1, 500))
        moves: list[Callable[[], Move]] = [
            lambda: PauseRun(by="human:ada"),
            lambda: ResumeRun(by="human:ada"),
            lambda: CancelTask(task_id=task_id, reason="no", by="human:ada"),
            lambda: CancelRun(reason="no", by="human:ada"),
            lambda: RaiseRunBudget(by=amount, request_id=self._request()),
            lambda: LowerRunBudget(by=amount, request_id=self._request()),
            lambda: SendMessage(task_id=task_id, message_id=self._request(), text="hurry", sent_by="human:ada"),
            lambda: self._signal(SIGNAL),
            lambda: CheckDeadlines(),
            self._retry,
        ]
        weights = [2, 2, 3, 0.3, 1, 1, 3, 2, 3, 1]
        return self._with_time(self.random.choices(moves, weights)[0]())


_CLAIMED = TaskStatus.TASK_STATUS_CLAIMED
_AT_WORK: list[Callable[[Workers, Task], Move]] = [
    *[Workers._ended] * 5,
    Workers._lapse,
    Workers._park_somehow,
    Workers._ask,
    *[Workers._spawn] * 2,
    Workers._grow,
]
