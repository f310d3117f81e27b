"""Every moment in the past of an agent: could it have gone on from there, and do its receipts say what there was?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from crewlog.domain.agent import recovery as agent_recovery
from crewlog.domain.agent.events import Event, evolve
from crewlog.domain.agent.state import INITIAL, Agent, ToolOutcome, Turn, is_noop, tool_uses
from crewlog.eventlog import codec
from crewlog.models import conversation
from crewlog.v1.agent_pb2 import AgentTakenOver, ContentBlock, ToolUse
from crewlog.v1.body_pb2 import Body
from crewlog.v1.entry_pb2 import Entry

IN_A_BLOB = "(in a blob)"
# What an entry adds stands at the end, and is seen there; that all of it fits together is seen once, at the very end.
TURNS_LOOKED_AT = 3


def mistakes(entries: Iterable[Entry]) -> Iterator[str]:
    """One sentence for each; entries of many agents, each in its order, from the first."""
    agents: dict[str, Agent] = {}
    for entry in entries:
        id = entry.aggregate.id
        for fact in codec.facts(entry):
            before = agents.get(id, INITIAL)
            if isinstance(fact, AgentTakenOver) and fact.HasField("receipt"):
                yield from _with_place(id, entry, _receipt(before, fact))
            agents[id] = evolve(before, cast(Event, fact))
        yield from _with_place(id, entry, _conversation(agents[id], agents[id].turns[-TURNS_LOOKED_AT:]))
    for id, agent in agents.items():
        yield from (f"agent {id}: {what}" for what in _conversation(agent, agent.turns))


def _with_place(id: str, entry: Entry, found: Iterable[str]) -> Iterator[str]:
    yield from (f"agent {id}, entry {entry.ordinal}: {what}" for what in found)


def _receipt(before: Agent, fact: AgentTakenOver) -> Iterator[str]:
    expected = agent_recovery.receipt(before)
    for field in expected.DESCRIPTOR.fields:
        said, found = getattr(fact.receipt, field.name), getattr(expected, field.name)
        if said != found:
            yield f"the receipt says {field.name} {said!r}, and it was {found!r}"


def _conversation(agent: Agent, turns: tuple[Turn, ...]) -> list[str]:
    """What the provider would refuse of the conversation, if the agent went on now."""
    if is_noop(agent):
        return []
    first = len(agent.turns) - len(turns) + 1
    told = (agent.told.get(number + 1, ()) for number in range(first, first + len(turns)))
    said = [_turn(turn, later) for turn, later in zip(turns, told, strict=True)]
    return conversation.check_legal(conversation.messages(_text(agent.started.prompt), said))


def _turn(turn: Turn, told: Iterable[Body]) -> conversation.Turn:
    outcomes = [_outcome(turn.outcomes.get(index)) for index, _ in tool_uses(turn)]
    return conversation.Turn([_block(block) for block in turn.content], outcomes, "\n\n".join(map(_text, told)))


def _outcome(outcome: ToolOutcome | None) -> conversation.ToolOutcome | None:
    return None if outcome is None else conversation.ToolOutcome(_text(outcome.text), outcome.is_error)


def _block(block: ContentBlock) -> ContentBlock:
    call = block.tool_use
    if not call.input_json.HasField("blob"):
        return block
    inline = Body(inline=f'{{"blob": "{call.input_json.blob.sha256.hex()}"}}'.encode())
    return ContentBlock(tool_use=ToolUse(tool_use_id=call.tool_use_id, tool=call.tool, input_json=inline))


def _text(body: Body) -> str:
    return IN_A_BLOB if body.HasField("blob") else body.inline.decode(errors="replace")
