"""What has to be right after a simulation, from the log and from the ledgers of the fakes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from crewlog.domain import names
from crewlog.domain.agent import decider as agent_rules
from crewlog.domain.agent.state import Agent, is_noop, is_over, tool_uses
from crewlog.domain.conduct.invariants import violations
from crewlog.domain.decider import fold
from crewlog.domain.run import decider as run_rules
from crewlog.domain.run import state as run_state
from crewlog.domain.run.state import Run
from crewlog.eventlog import codec
from crewlog.models import conversation
from crewlog.models.legality import check_legal
from crewlog.v1.agent_pb2 import (
    AgentCancelled,
    AgentParked,
    AgentTakenOver,
    EffectClass,
    EffectKey,
    EffectReconciled,
    FinishToolCall,
    HostAgent,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallFailed,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolOutput,
)
from crewlog.v1.body_pb2 import Body
from crewlog.v1.node_pb2 import JoinMode
from crewlog.v1.run_pb2 import (
    AllotmentGrown,
    EdgeTaken,
    GateKind,
    GateOpened,
    Handling,
    ParkCause,
    RunLimitRaised,
    TaskCancelRequested,
    TaskClaimed,
    TaskClaimLapsed,
    TaskFailed,
    TaskStatus,
)
from google.protobuf.message import Message

from tests.simulation.processes.effects import COMMAND, FAR_COMMAND, MAIL, SHELL
from tests.simulation.processes.platform import Platform

Place = tuple[int, int]
MODEL_CLASS = "EFFECT_CLASS_MODEL"
_ONCE = (MAIL, FAR_COMMAND)
_TOOL_OUTCOMES = (ToolCallSucceeded, ToolCallFailed)


def mistakes(platform: Platform) -> list[str]:
    """One sentence for everything that is not right."""
    return [
        *violations(platform.disk.entries()),
        *platform.provider.mistakes,
        *_agents(platform),
        *_effects(platform),
        *_stops(platform),
    ]


def _agents(platform: Platform) -> Iterator[str]:
    ids = {stored.aggregate.id for stored in platform.disk.stored if stored.aggregate.kind == "agent"}
    for agent_id in sorted(ids):
        yield from _asked_once(platform, agent_id)
        yield from _always_legal(platform, agent_id)
        yield from _files(platform, agent_id)


def _asked_once(platform: Platform, agent_id: str) -> Iterator[str]:
    """A recorded answer is never asked for again."""
    answered: set[int] = set()
    for entry in platform.disk.history("agent", agent_id):
        for fact in codec.facts(entry):
            if isinstance(fact, ModelCallStarted) and fact.key.turn in answered:
                yield f"{agent_id} asks again for turn {fact.key.turn}"
            elif isinstance(fact, ModelCallSucceeded):
                answered.add(fact.key.turn)


def _always_legal(platform: Platform, agent_id: str) -> Iterator[str]:
    """Whoever takes the agent over at any entry sends a conversation that the provider accepts."""
    agent: Agent = agent_rules.INITIAL
    for entry in platform.disk.history("agent", agent_id):
        agent = fold(agent_rules, codec.facts(entry), agent)
        if agent.turns and not is_noop(agent) and not is_over(agent):
            for wrong in check_legal(_after_a_takeover(agent)):
                yield f"{agent_id} after entry {entry.ordinal}: {wrong}"


def _after_a_takeover(agent: Agent) -> list[dict[str, Any]]:
    generation = agent.generation + 1
    host = HostAgent(agent_id="a", generation=generation, executor_id="next")
    agent = fold(agent_rules, agent_rules.decide(agent, host), agent)
    for (turn, index), effect in sorted(agent.open.items()):
        key = EffectKey(turn=turn, index=index, attempt=effect.attempt)
        done = FinishToolCall(agent_id="a", generation=generation, key=key, output=ToolOutput(text=Body(inline=b"x")))
        if effect.call is not None and not effect.is_asked:
            agent = fold(agent_rules, agent_rules.decide(agent, done), agent)
    return conversation.messages("p", [_said(turn) for turn in agent.turns])


def _said(turn: Any) -> conversation.Turn:
    known = {index: conversation.ToolOutcome("x", outcome.is_error) for index, outcome in turn.outcomes.items()}
    return conversation.Turn(turn.content, [known.get(index) for index, _ in tool_uses(turn)])


def _files(platform: Platform, agent_id: str) -> Iterator[str]:
    """A command that is recorded as done is in the files, once."""
    agent: Agent = fold(agent_rules, _facts(platform, "agent", agent_id))
    if agent.result is None or not agent.result.HasField("snapshot") or not agent.result.snapshot.full_tree:
        return
    lines = platform.git.trees[agent.result.snapshot.full_tree].get(agent_id, [])
    if len(lines) != len(set(lines)):
        yield f"{agent_id} has done something twice to its files: {lines}"
    for place, call in _succeeded(platform, agent_id):
        if call in (SHELL, COMMAND) and place not in lines:
            yield f"{agent_id} has lost what {place} did: {lines}"


def _succeeded(platform: Platform, agent_id: str) -> Iterator[tuple[str, str]]:
    calls: dict[Place, str] = {}
    for fact in _facts(platform, "agent", agent_id):
        if isinstance(fact, ToolCallStarted):
            calls[fact.key.turn, fact.key.index] = fact.call.tool
        elif isinstance(fact, ToolCallSucceeded):
            yield f"{agent_id} {fact.key.turn} {fact.key.index}", calls[fact.key.turn, fact.key.index]


def _effects(platform: Platform) -> Iterator[str]:
    """An effect has an intent before it; it is not performed again once its outcome is known; an opaque one is
    performed once."""
    intents, outcomes, takeovers = _revisions(platform)
    again = _wanted_again(platform)
    for place, performed in sorted(platform.effects.performed.items()):
        for done in performed:
            if intents.get(place, done.revision + 1) > done.revision:
                yield f"{done.tool} of {place} was performed and there was no intent"
            owner = max((g for g, revision in takeovers[done.agent_id].items() if revision <= done.revision), default=0)
            if outcomes.get(place, done.revision + 1) <= done.revision and done.generation >= owner:
                yield f"{done.tool} of {place} was performed again after its outcome was recorded"
            platform.paths["effect of a zombie"] += done.generation < owner
        platform.paths[f"{performed[0].tool} performed again"] += len(performed) > 1
        if performed[0].tool in _ONCE and len(performed) > 1 + again[place]:
            yield f"{performed[0].tool} of {place} was performed {len(performed)} times"


def _wanted_again(platform: Platform) -> Counter[str]:
    """How often a person, who was asked about the doubt, has said that a call is to be made again."""
    asked: set[str] = set()
    wanted: Counter[str] = Counter()
    for entry in platform.disk.entries():
        for fact in codec.facts(entry):
            if isinstance(fact, EffectReconciled):
                place = _place(entry.aggregate.id, fact.key)
                wanted[place] += fact.resolution == EffectReconciled.RESOLUTION_RUN_AGAIN and place in asked
                if fact.resolution == EffectReconciled.RESOLUTION_ASKED:
                    asked.add(place)
                else:
                    asked.discard(place)
    return wanted


def _revisions(platform: Platform) -> tuple[dict[str, int], dict[str, int], defaultdict[str, dict[int, int]]]:
    """When each tool call was begun and ended, and when each generation began; by their place."""
    intents: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    takeovers: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for revision, entry in enumerate(platform.disk.entries(), 1):
        if entry.aggregate.kind != "agent":
            continue
        takeovers[entry.aggregate.id].setdefault(entry.generation, revision)
        for fact in codec.facts(entry):
            if isinstance(fact, ToolCallStarted):
                intents.setdefault(_place(entry.aggregate.id, fact.key), revision)
            elif isinstance(fact, _TOOL_OUTCOMES):
                outcomes.setdefault(_place(entry.aggregate.id, fact.key), revision)
    return intents, outcomes, takeovers


def _stops(platform: Platform) -> Iterator[str]:
    """Nothing is cancelled that nobody wanted to stop."""
    runs: dict[str, Run] = {}
    for entry in platform.disk.entries():
        id = entry.aggregate.id
        if entry.aggregate.kind == "run":
            runs[id] = fold(run_rules, codec.facts(entry), runs.get(id, run_rules.INITIAL))
        elif entry.aggregate.kind == "agent" and any(isinstance(fact, AgentCancelled) for fact in codec.facts(entry)):
            run, task_id = runs[names.run_of(id)], id.partition("_")[2]
            if not run_state.is_stopping(run) and not run_state.is_to_stop(run.tasks[task_id]):
                yield f"{id} was cancelled and nobody wanted it"


def unfinished(platform: Platform, run_ids: list[str]) -> Iterator[str]:
    """Liveness: every run is over, with everything given back."""
    for run_id in run_ids:
        run = platform.run(run_id)
        if not run_state.is_over(run):
            yield f"run {run_id} is not over: {_state(run)}"
        elif run.allotted:
            yield f"run {run_id} is over with {run.allotted} allotted"


def count(platform: Platform) -> None:
    """Which paths the log says were taken."""
    classes: dict[str, str] = {}
    for entry in platform.disk.entries():
        for fact in codec.facts(entry):
            platform.paths[fact.DESCRIPTOR.name] += 1
            if isinstance(fact, ToolCallStarted):
                classes[_place(entry.aggregate.id, fact.key)] = EffectClass.Name(fact.effect_class)
            known = classes.get(_place(entry.aggregate.id, getattr(fact, "key", EffectKey())), MODEL_CLASS)
            platform.paths.update(_details(fact, known))
    for run_id in sorted({stored.aggregate.id for stored in platform.disk.stored if stored.aggregate.kind == "run"}):
        platform.paths.update(_joins(platform.run(run_id)))


def _joins(run: Run) -> Iterator[str]:
    """How those that have succeeded were waited for."""
    for node in run.started.workflow.nodes:
        task = run_state.current(run, node.node_id)
        if node.HasField("join") and task is not None and task.status == TaskStatus.TASK_STATUS_SUCCEEDED:
            yield JoinMode.Name(node.join.mode)


def _details(fact: Message, effect_class: str) -> Iterator[str]:
    match fact:
        case EffectReconciled():
            yield f"in doubt: {effect_class}"
            yield EffectReconciled.Resolution.Name(fact.resolution)
        case TaskClaimLapsed():
            yield f"lapse: {fact.reason}"
        case AgentParked():
            yield ParkCause.Name(fact.cause)
        case AgentTakenOver() if fact.receipt.model_answers_reused:
            yield "receipt with answers that were reused"
        case TaskClaimed() if fact.to_close:
            yield "closed by the scheduler"
        case TaskFailed():
            yield f"failed: {fact.failure.reason}"
            yield Handling.Name(fact.handling)
        case ToolCallFailed():
            yield f"answered: {fact.failure.reason}"
        case TaskCancelRequested() if fact.is_needless:
            yield "not needed any more"
        case EdgeTaken() if not fact.is_forward:
            yield "way back"
        case GateOpened():
            yield GateKind.Name(fact.kind)
        case RunLimitRaised() if fact.number and fact.HasField("by"):
            yield "a child run gets more"
        case AllotmentGrown() if fact.task_id.startswith("w"):
            yield "a child run gives more to its own"


def _state(run: Run) -> str:
    tasks = ", ".join(f"{task.task_id} {task.status} g{task.generation}" for task in run.tasks.values())
    return f"status {run.status}, ready {run.ready}, open {dict(run.open)}, parked {run.parked}, tasks {tasks}"


def _place(agent_id: str, key: EffectKey) -> str:
    return f"{agent_id} {key.turn} {key.index}"


def _facts(platform: Platform, kind: str, id: str) -> Iterator[Message]:
    for entry in platform.disk.history(kind, id):
        yield from codec.facts(entry)
