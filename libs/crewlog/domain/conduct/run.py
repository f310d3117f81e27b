"""What may happen to a run, as its history shows it: counted from its facts alone.

claims      one at a time, each with the next generation; none while the run is paused, after the task was cancelled or
            after too many were lost, but to close the agent
tasks       end once, and not before their agents
pauses      a run is paused once and resumed once
retries     a run is taken up again only when it is over and has not succeeded
gates       are opened once, and closed once
graphs      what begins, and what an end leads to: crewlog.domain.conduct.flow
messages    crewlog.domain.conduct.messages
children    get what the log of their parent has given away before
ends        nothing follows the end, and nobody works on any more
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crewlog.domain.amounts import ZERO, Amounts
from crewlog.domain.conduct.flow import FlowConduct
from crewlog.domain.conduct.messages import MessageConduct
from crewlog.domain.run.state import CLAIMS_MAX
from crewlog.v1.run_pb2 import (
    ChildSpawned,
    GateAnswered,
    GateExpired,
    GateOpened,
    MessageSent,
    MessageUndelivered,
    RunCancelled,
    RunCancelRequested,
    RunFailed,
    RunLimitRaised,
    RunPaused,
    RunResumed,
    RunRetried,
    RunSucceeded,
    RunTimedOut,
    TaskCancelled,
    TaskCancelRequested,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskParked,
    TaskSucceeded,
)
from google.protobuf.message import Message

if TYPE_CHECKING:
    from crewlog.domain.conduct.agent import AgentConduct

_End = RunSucceeded | RunFailed | RunCancelled
_TaskEnd = TaskSucceeded | TaskFailed | TaskCancelled


@dataclass(slots=True)
class TaskConduct:
    """`claims` are the executors by task and generation, `held` the generation under which a task is worked on."""

    claims: dict[tuple[str, int], str] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    lapses: Counter[str] = field(default_factory=Counter)
    cancelling: set[str] = field(default_factory=set)
    ended: dict[str, bool] = field(default_factory=dict)

    def claim(self, fact: TaskClaimed, *, is_paused: bool) -> Iterator[str]:
        task_id, before = fact.task_id, self.generations.get(fact.task_id, 0)
        if fact.generation != before + 1:
            yield f"generation {fact.generation} of {task_id} follows generation {before}"
        if task_id in self.held:
            yield f"{task_id} is claimed while somebody has it"
        if not fact.to_close:
            yield from self._check_wanted(task_id, is_paused=is_paused)
        self.claims[task_id, fact.generation] = fact.executor_id
        self.generations[task_id] = self.held[task_id] = fact.generation

    def _check_wanted(self, task_id: str, *, is_paused: bool) -> Iterator[str]:
        if is_paused:
            yield f"{task_id} is claimed while the run is paused"
        if task_id in self.cancelling:
            yield f"{task_id} is claimed after it was cancelled"
        if self.lapses[task_id] >= CLAIMS_MAX:
            yield f"{task_id} is claimed after {self.lapses[task_id]} claims were lost"

    def lapse(self, fact: TaskClaimLapsed) -> Iterator[str]:
        if self.held.pop(fact.task_id, 0) != fact.generation:
            yield f"the claim of {fact.task_id} under generation {fact.generation} lapses, and nobody has it"
        self.lapses[fact.task_id] += 1

    def cancel(self, fact: TaskCancelRequested) -> Iterator[str]:
        if fact.task_id in self.cancelling:
            yield f"{fact.task_id} is cancelled again"
        if fact.task_id in self.ended:
            yield f"{fact.task_id} is cancelled after its end"
        self.cancelling.add(fact.task_id)

    def end(self, fact: _TaskEnd, agent: AgentConduct | None) -> Iterator[str]:
        if fact.task_id in self.generations and agent is not None and not agent.is_over:
            yield f"{fact.DESCRIPTOR.name} of {fact.task_id}, and its agent has not ended"
        self.held.pop(fact.task_id, None)
        self.ended[fact.task_id] = isinstance(fact, TaskSucceeded)

    def take_up(self, task_id: str) -> None:
        """Where the same task goes on, it may be cancelled and end again; nothing begins another one by this name."""
        self.cancelling.discard(task_id)
        self.ended.pop(task_id, None)


@dataclass(slots=True)
class RunConduct:
    """`agents` are those of its tasks, where they are looked at as well."""

    tasks: TaskConduct = field(default_factory=TaskConduct)
    messages: MessageConduct = field(default_factory=MessageConduct)
    agents: dict[str, AgentConduct] = field(default_factory=dict)
    end: _End | None = None
    is_paused: bool = False
    asked: set[str] = field(default_factory=set)
    gates: dict[str, bool] = field(default_factory=dict)
    flow: FlowConduct = field(default_factory=FlowConduct)
    ended_now: list[str] = field(default_factory=list)

    @property
    def claims(self) -> Mapping[tuple[str, int], str]:
        """Who was given a task under a generation."""
        return self.tasks.claims

    @property
    def has_succeeded(self) -> bool | None:
        """None while it is not over."""
        return None if self.end is None else isinstance(self.end, RunSucceeded)

    @property
    def sent(self) -> Mapping[str, Sequence[MessageSent]]:
        """The messages to each task."""
        return self.messages.sent

    def enter(self, fact: Message, together_with: tuple[Message, ...]) -> Iterator[str]:
        if self.end is not None and not _takes_up_again(fact, together_with):
            yield f"{fact.DESCRIPTOR.name} follows the end"
        yield from self.flow.enter(fact)
        match fact:
            case TaskClaimed():
                yield from self.tasks.claim(fact, is_paused=self.is_paused)
            case TaskClaimLapsed():
                yield from self.tasks.lapse(fact)
            case TaskParked():
                self.tasks.held.pop(fact.task_id, None)
            case ChildSpawned():
                yield from _check_share(fact, self.agents.get(fact.task_id))
            case TaskCancelRequested():
                yield from self.tasks.cancel(fact)
            case TaskSucceeded() | TaskFailed() | TaskCancelled():
                self.ended_now.append(fact.task_id)
                yield from self.tasks.end(fact, self.agents.get(fact.task_id))
                yield from self.flow.end(fact)
                yield from self.messages.end_task(fact.task_id, fact.result.messages_read)
            case MessageSent():
                yield from self.messages.send(fact, has_ended=fact.task_id in self.tasks.ended)
            case MessageUndelivered():
                yield from self.messages.give_back(fact)
            case GateOpened() | GateAnswered() | GateExpired():
                yield from self._gate(fact)
            case _:
                yield from self._control(fact)

    def end_of_entry(self) -> Iterator[str]:
        for task_id in self.ended_now if self.end is None else sorted(self.messages.sent):
            yield from self.messages.check_settled(task_id)
        self.ended_now.clear()
        yield from self.flow.end_of_entry()

    def _control(self, fact: Message) -> Iterator[str]:
        match fact:
            case RunPaused() | RunResumed():
                pauses = isinstance(fact, RunPaused)
                if pauses == self.is_paused:
                    yield f"{fact.DESCRIPTOR.name}, and the run is {'' if self.is_paused else 'not '}paused"
                self.is_paused = pauses
            case RunCancelRequested() | RunTimedOut():
                name = fact.DESCRIPTOR.name
                if name in self.asked:
                    yield f"{name} comes again"
                self.asked.add(name)
                self.is_paused = self.is_paused and isinstance(fact, RunTimedOut)
            case RunRetried():
                yield from self._retry(fact)
            case RunSucceeded() | RunFailed() | RunCancelled():
                yield from self._over(fact)

    def _over(self, fact: _End) -> Iterator[str]:
        for task_id in sorted(self.tasks.held):
            yield f"{fact.DESCRIPTOR.name}, and {task_id} is worked on"
        if self.is_paused and isinstance(fact, RunSucceeded):
            yield "RunSucceeded, and the run is paused"
        self.end = fact

    def _retry(self, fact: RunRetried) -> Iterator[str]:
        if self.end is None or isinstance(self.end, RunSucceeded):
            yield "RunRetried, and the run has neither failed nor been cancelled"
        for task_id in fact.task_ids:
            if self.tasks.ended.get(task_id, not self.messages.sent.get(task_id)):
                yield f"{task_id} is tried again, and has not failed"
            self.tasks.take_up(task_id)
        self.end, self.is_paused = None, False
        self.asked.clear()

    def _gate(self, fact: GateOpened | GateAnswered | GateExpired) -> Iterator[str]:
        is_open = self.gates.get(fact.gate_id)
        if isinstance(fact, GateOpened):
            if is_open is not None:
                yield f"gate {fact.gate_id} is opened again"
        elif not is_open:
            yield f"{fact.DESCRIPTOR.name} of gate {fact.gate_id}, which is not open"
        self.gates[fact.gate_id] = isinstance(fact, GateOpened)


def _check_share(fact: ChildSpawned, parent: AgentConduct | None) -> Iterator[str]:
    if parent is not None and Amounts.of(fact.allotment) != parent.parent.shared.get((fact.turn, fact.index), ZERO):
        yield f"child {fact.node_id} gets another share than {fact.task_id} has given away"


def _takes_up_again(fact: Message, together_with: tuple[Message, ...]) -> bool:
    """A run that is over may be given more money, and only in order to go on."""
    return isinstance(fact, (RunRetried, RunLimitRaised)) and any(isinstance(one, RunRetried) for one in together_with)
