"""`crewlog gates`: the questions that only a person may answer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from crewlog.cli import budgeting, controlling, editing, money, telling, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, table, write_line, write_messages
from crewlog.domain.errors import InvalidCommand
from crewlog.eventlog import codec
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.budget_service_pb2 import ListGates
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import AnswerGate, GateKind, GateOpened, GateStatus, GateView

PAGE_SIZE = 200
RAISE = "raise"
_MEANINGS = {
    "run_again": "it runs once more, though it may have happened already",
    "tell_unknown": "the model is told that nobody knows, and looks for itself",
}


@dataclass(frozen=True, slots=True)
class Answered:
    """As a person gives it; `by` goes with `raise`."""

    run_id: str
    gate_id: str
    answer: str
    by: Amounts


async def write_list(gateway: Gateway, output: Output, *, run_id: str, with_closed: bool) -> int:
    found = [gate async for gate in _all(gateway, run_id, with_closed=with_closed)]
    if output is not Output.TABLE:
        write_messages(found, output)
    elif not found:
        write_line("no gate is open" if not with_closed else "there are no gates")
    else:
        write_line("\n".join(in_words(found)))
        say_how_to_answer(gateway, found)
    return 0


async def _all(gateway: Gateway, run_id: str, *, with_closed: bool) -> AsyncGenerator[GateView, None]:
    """Page by page."""
    token = ""
    while True:
        wanted = ListGates(run_id=run_id, with_closed=with_closed, page_size=PAGE_SIZE, page_token=token)
        found = await gateway.gates.List(wanted)
        for gate in found.gates:
            yield gate
        token = found.next_page_token
        if not token:
            return


async def answer(gateway: Gateway, output: Output, answered: Answered) -> int:
    """An answer is one of the gate's choices; where it has none, it is a text, which may come from standard input."""
    gate = await _find(gateway, answered, with_closed=False) or await _find(gateway, answered, with_closed=True)
    command = to_command(_worded(answered, gate), gate)
    receipt = await gateway.gates.Answer(command)
    controlling.write_receipt(output, receipt, run_id=command.run_id, gate_id=command.gate_id)
    amount = f" by {budgeting.in_words(command.by)}" if command.by.ByteSize() else ""
    said = wording.one_line(command.choice or command.text)
    say(f"gate {command.gate_id} of run {command.run_id}: {said}{amount}")
    return 0


async def _find(gateway: Gateway, answered: Answered, *, with_closed: bool) -> GateView | None:
    """The gate of the run itself: the child runs, whose gates are listed too, may have one of the same name."""
    wanted = (answered.run_id, answered.gate_id)
    async with aclosing(_all(gateway, answered.run_id, with_closed=with_closed)) as found:
        async for gate in found:
            if (gate.run_id, gate.gate_id) == wanted:
                return gate
    return None


def _worded(answered: Answered, gate: GateView | None) -> Answered:
    """With the words of the answer, which may still have to be read or written."""
    if answered.answer == "-" and not (gate is not None and gate.choices):
        return replace(answered, answer=sys.stdin.read())
    if answered.answer:
        return answered
    if gate is not None and gate.kind == GateKind.GATE_KIND_EDIT and telling.is_interactive():
        return replace(answered, answer=editing.edited(gate.text_to_edit))
    raise InvalidCommand("the answer is missing", what_to_do=_what_to_say(gate))


def _what_to_say(gate: GateView | None) -> str:
    if gate is None:
        return "see `crewlog gates`"
    if gate.choices:
        return f"it is one of: {wording.plain(', '.join(gate.choices))}"
    return "give it as an argument, or `-` to have it read from standard input"


def to_command(answered: Answered, gate: GateView | None) -> AnswerGate:
    """Raises InvalidCommand for an amount that is missing, or out of place. What else is wrong the platform says."""
    command = AnswerGate(run_id=answered.run_id, gate_id=answered.gate_id)
    if gate is not None and not gate.choices:
        command.text = answered.answer
    else:
        command.choice = answered.answer
    is_about_money = gate is None or gate.kind in (GateKind.GATE_KIND_BUDGET, GateKind.GATE_KIND_UNSPECIFIED)
    if command.choice == RAISE and is_about_money:
        money.check_some(answered.by)
    elif answered.by.ByteSize():
        raise InvalidCommand(
            f"an amount goes only with the answer `{RAISE}` to a gate that asks for money",
            what_to_do="leave it out; `crewlog gates` shows what is asked for",
        )
    if answered.by.ByteSize():
        command.by.CopyFrom(answered.by)
    return command


def in_words(gates: Sequence[GateView]) -> list[str]:
    headings = ("run", "gate", "status", "question", "wanted", "until")
    return table(headings, [_row(gate) for gate in gates])


def say_how_to_answer(gateway: Gateway, gates: Sequence[GateView]) -> None:
    """For the first one that is open."""
    gate = next(iter(open_ones(gates)), None)
    if gate is None:
        return
    say("answer with, for example:")
    for words in _answers(gate.run_id, gate):
        say(f"  {gateway.command(words)}")


def how_to_answer(gateway: Gateway, entry: RecordedEntry) -> list[str]:
    """The commands for the gates that an entry has opened."""
    opened = [fact for fact in codec.known_facts((entry.entry,)) if isinstance(fact, GateOpened)]
    run_id = entry.entry.aggregate.id
    return [gateway.command(words) for fact in opened for words in _answers(run_id, fact)]


def open_ones(gates: Iterable[GateView]) -> list[GateView]:
    return [gate for gate in gates if gate.status == GateStatus.GATE_STATUS_OPEN]


def _answers(run_id: str, gate: GateView | GateOpened) -> Iterator[str]:
    """What to type for each choice, or for a text, with what it means where that is not plain."""
    if gate.kind == GateKind.GATE_KIND_EDIT:
        yield f"gates answer {run_id} {gate.gate_id}  # opens the text in $EDITOR"
        return
    is_about_money = gate.kind == GateKind.GATE_KIND_BUDGET
    for choice in gate.choices or ("the answer",):
        amount = " 1.50" if choice == RAISE and is_about_money else ""
        words = shlex.quote(wording.plain(choice))
        meaning = _MEANINGS.get(choice, "") if gate.kind == GateKind.GATE_KIND_UNKNOWN_OUTCOME else ""
        yield f"gates answer {run_id} {gate.gate_id} {words}{amount}" + (f"  # {meaning}" if meaning else "")


def _row(gate: GateView) -> tuple[str, ...]:
    status = GateStatus.Name(gate.status).removeprefix("GATE_STATUS_").lower()
    said = wording.one_line(gate.choice or gate.text, 40)
    chosen = f" {said} by {wording.plain(gate.answered_by)}" if said else ""
    return (
        gate.run_id,
        gate.gate_id,
        status + chosen,
        wording.one_line(gate.question, 80),
        _wanted(gate),
        wording.date_and_time(gate.expires_at_unix_micros)
        + (f", then {wording.one_line(gate.default_choice, 40)}" if gate.default_choice else ""),
    )


def _wanted(gate: GateView) -> str:
    if gate.kind == GateKind.GATE_KIND_BUDGET:
        return budgeting.in_words(gate.wanted) if gate.wanted.ByteSize() else "money"
    if gate.kind == GateKind.GATE_KIND_EDIT:
        return "the text, changed"
    return wording.plain(" | ".join(gate.choices)) or "any text"
