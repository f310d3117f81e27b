"""`replay --verify` finds what was changed, left out, put in or moved, and what the projection shows wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from crewlog.cli import past, verifying
from crewlog.cli.verifying import Difference, blobs_of, check_history, check_run_view
from crewlog.eventlog import codec
from crewlog.v1.agent_pb2 import (
    AgentStarted,
    AgentTakenOver,
    ContentBlock,
    EffectKey,
    ModelAnswer,
    ModelCallStarted,
    ModelCallSucceeded,
    ResumeReceipt,
    ToolCallStarted,
    ToolCallSucceeded,
    ToolUse,
)
from crewlog.v1.body_pb2 import BlobRef, Body
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, RecordedEntry
from crewlog.v1.run_pb2 import (
    AgentNode,
    Node,
    NoopNode,
    Role,
    RunStarted,
    RunSucceeded,
    TaskClaimed,
    TaskSucceeded,
    Workflow,
)
from google.protobuf.message import Message


@dataclass
class Log:
    """Writes entries as an owner does."""

    entries: list[RecordedEntry] = field(default_factory=list)
    last: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def write(self, kind: str, id: str, *facts: Message) -> None:
        ordinal, before = self.last.get(id, (0, b""))
        entry = Entry(
            epoch="e1",
            aggregate=Aggregate(tenant="local", kind=kind, id=id),
            ordinal=ordinal + 1,
            previous_hash=before,
            decisions=[Decision(correlation_id="demo", events=[codec.pack(fact) for fact in facts])],
        )
        stored = entry.SerializeToString()
        self.last[id] = (ordinal + 1, codec.hash_of(stored))
        self.entries.append(RecordedEntry(revision=len(self.entries) + 1, entry=entry, stored=stored))


@pytest.fixture
def entries() -> list[RecordedEntry]:
    log = Log()
    nodes = [Node(node_id="a", noop=NoopNode(steps=1))]
    log.write("run", "demo", RunStarted(run_id="demo", workflow=Workflow(name="w", nodes=nodes)))
    log.write("run", "demo", TaskClaimed(task_id="a-1", node_id="a", visit=1, generation=1))
    log.write("run", "demo", TaskSucceeded(task_id="a-1"))
    log.write("run", "demo", RunSucceeded())
    return log.entries


def test_a_history_that_fits_is_counted(entries: list[RecordedEntry]) -> None:
    checked = check_history(entries)
    assert (checked.entries, checked.events, checked.hashes, checked.aggregates) == (4, 4, 3, 1)


def _change_bytes(entries: list[RecordedEntry]) -> None:
    entries[1].entry.decisions[0].events[0].task_claimed.executor_id = "another"
    entries[1].stored = entries[1].entry.SerializeToString()


def _change_delivery(entries: list[RecordedEntry]) -> None:
    entries[1].entry.decisions[0].events[0].task_claimed.executor_id = "another"


def _leave_out(entries: list[RecordedEntry]) -> None:
    del entries[1]


def _swap(entries: list[RecordedEntry]) -> None:
    entries[1], entries[2] = entries[2], entries[1]


def _write_over(entries: list[RecordedEntry]) -> None:
    """As if the entry had been left out and the numbers put right, without the hash."""
    del entries[1]
    entries[1].entry.ordinal = 2
    entries[1].stored = entries[1].entry.SerializeToString()


def _damage(entries: list[RecordedEntry]) -> None:
    entries[2].stored = entries[2].stored[:-1]


def _other_run(entries: list[RecordedEntry]) -> None:
    entries[3].entry.decisions[0].correlation_id = "another"
    entries[3].stored = entries[3].entry.SerializeToString()


def _other_epoch(entries: list[RecordedEntry]) -> None:
    entries[3].entry.epoch = "e2"
    entries[3].stored = entries[3].entry.SerializeToString()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_change_bytes, "revision 3 does not fit the entry of run demo before it"),
        (_change_delivery, "revision 2 is not what its stored bytes say"),
        (_leave_out, "revision 3 is number 3 of run demo, where number 2 has to be"),
        (_swap, "revision 3 is number 3"),
        (_write_over, "revision 3 does not fit the entry of run demo before it"),
        (_damage, "revision 3 is not what its stored bytes say"),
        (_other_epoch, "revision 4 is of another log"),
        (_other_run, "revision 4 was not decided for the run of run demo"),
        (list.clear, "the log holds nothing of this run"),
    ],
)
def test_harm_is_found(entries: list[RecordedEntry], harm: Callable[[list[RecordedEntry]], None], said: str) -> None:
    harm(entries)
    with pytest.raises(Difference, match=said):
        check_history(entries)


def test_a_view_that_the_log_does_not_lead_to_is_found(entries: list[RecordedEntry]) -> None:
    found = past.fold_all(entries)
    shown = past.view_of_run(found)
    check_run_view(found, shown)
    shown.spent_usd_micros = 1
    with pytest.raises(Difference, match="run demo: spent_usd_micros is '1' in the projection, and '0' after the log"):
        check_run_view(found, shown)


def test_where_a_view_was_read_is_no_difference(entries: list[RecordedEntry]) -> None:
    found = past.fold_all(entries)
    shown = past.view_of_run(found, trace_id="abc")
    shown.revision = 99
    check_run_view(found, shown)


def test_the_state_at_a_revision_is_that_of_the_entries_up_to_it(entries: list[RecordedEntry]) -> None:
    assert past.view_of_run(past.fold_all(entries, up_to=2)) == past.view_of_run(past.fold_all(entries[:2]))


KEY = EffectKey(turn=1, index=-1, attempt=1)
CALL = EffectKey(turn=1, index=0, attempt=1)
BLOB = BlobRef(sha256=b"x" * 32, size_bytes=9)


def turn(call_id: str = "toolu_1", other: str = '{"type": "thinking"}') -> list[Message]:
    """An answer with one tool call, whose input is in a blob, and what came of it."""
    tool_use = ToolUse(tool_use_id=call_id, tool="read", input_json=Body(blob=BLOB))
    content = [ContentBlock(other_json=other), ContentBlock(tool_use=tool_use)]
    return [
        ModelCallStarted(key=KEY),
        ModelCallSucceeded(key=KEY, answer=ModelAnswer(content=content)),
        ToolCallStarted(key=CALL, call=tool_use),
        ToolCallSucceeded(key=CALL),
    ]


def agent(*facts: Message) -> list[RecordedEntry]:
    log = Log()
    node = AgentNode(role=Role(name="r"))
    log.write("agent", "demo_a-1", AgentStarted(generation=1, node=node, prompt=Body(inline=b"go")))
    for fact in facts:
        log.write("agent", "demo_a-1", fact)
    return log.entries


def test_blobs_are_found_however_deep_they_are() -> None:
    entries = agent(*turn())
    assert blobs_of(entries) == {BLOB.sha256: 9}
    assert verifying.check_history(entries).entries == 5


def test_a_prefix_that_no_provider_would_accept_is_found() -> None:
    with pytest.raises(Difference, match=r"agent demo_a-1, entry 3: messages.1.*no place in a message of"):
        check_history(agent(*turn(other='{"type": "tool_result", "tool_use_id": "x"}')))


def test_a_receipt_that_the_rules_do_not_lead_to_is_found() -> None:
    receipt = ResumeReceipt(model_answers_reused=1, tool_outcomes_reused=1)
    taken_over = AgentTakenOver(generation=2, receipt=receipt)
    assert check_history(agent(*turn(), taken_over)).entries == 6
    taken_over.receipt.reused_usd_micros = 5
    with pytest.raises(Difference, match="the receipt says reused_usd_micros 5, and it was 0"):
        check_history(agent(*turn(), taken_over))
