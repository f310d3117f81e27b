"""`crewlog gates`: the questions that only a person may answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crewlog.cli import budgeting, money, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, table, write_line, write_messages
from crewlog.domain.errors import InvalidCommand
from crewlog.eventlog import codec
from crewlog.v1.budget_pb2 import Amounts
from crewlog.v1.budget_service_pb2 import ListGates
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import AnswerGate, GateOpened, GateStatus, GateView

RAISE = "raise"


async def write_list(gateway: Gateway, output: Output, *, run_id: str, with_closed: bool) -> int:
    found = await gateway.gates.List(ListGates(run_id=run_id, with_closed=with_closed))
    if output is not Output.TABLE:
        write_messages(found.gates, output)
    elif not found.gates:
        write_line("no gate is open" if not with_closed else "there are no gates")
    else:
        write_line("\n".join(in_words(found.gates)))
        say_how_to_answer(gateway, found.gates)
    return 0


async def answer(gateway: Gateway, run_id: str, gate_id: str, choice: str, by: Amounts) -> int:
    await gateway.gates.Answer(AnswerGate(run_id=run_id, gate_id=gate_id, choice=choice, by=by))
    say(f"gate {gate_id} of run {run_id}: {choice}" + (f" by {budgeting.in_words(by)}" if by.ByteSize() else ""))
    return 0


def amounts_of(choice: str, dollars: str, *, input_tokens: int = 0, output_tokens: int = 0, calls: int = 0) -> Amounts:
    """What goes with a choice: `raise` needs an amount, the others have none."""
    if choice == RAISE:
        return money.amounts(dollars, input_tokens=input_tokens, output_tokens=output_tokens, calls=calls)
    if dollars or input_tokens or output_tokens or calls:
        raise InvalidCommand(f"an amount goes only with `{RAISE}`, not with {choice!r}")
    return Amounts()


def in_words(gates: Sequence[GateView]) -> list[str]:
    headings = ("run", "gate", "status", "question", "wanted", "until")
    return table(headings, [_row(gate) for gate in gates])


def say_how_to_answer(gateway: Gateway, gates: Sequence[GateView]) -> None:
    """For the first one that is open."""
    gate = next(iter(open_ones(gates)), None)
    if gate is None:
        return
    say("answer with, for example:")
    for choice in gate.choices:
        words = f"gates answer {gate.run_id} {gate.gate_id} {wording.plain(choice)}{_amount(choice)}"
        say(f"  {gateway.command(words)}")


def how_to_answer(gateway: Gateway, entry: RecordedEntry) -> list[str]:
    """The commands for the gates that an entry has opened."""
    opened = [fact for fact in codec.known_facts((entry.entry,)) if isinstance(fact, GateOpened)]
    run_id = entry.entry.aggregate.id
    return [
        gateway.command(f"gates answer {run_id} {fact.gate_id} {wording.plain(choice)}{_amount(choice)}")
        for fact in opened
        for choice in fact.choices
    ]


def open_ones(gates: Iterable[GateView]) -> list[GateView]:
    return [gate for gate in gates if gate.status == GateStatus.GATE_STATUS_OPEN]


def _amount(choice: str) -> str:
    return " 1.50" if choice == RAISE else ""


def _row(gate: GateView) -> tuple[str, ...]:
    status = GateStatus.Name(gate.status).removeprefix("GATE_STATUS_").lower()
    chosen = f" {wording.plain(gate.choice)} by {wording.plain(gate.answered_by)}" if gate.choice else ""
    return (
        gate.run_id,
        gate.gate_id,
        status + chosen,
        wording.one_line(gate.question, 80),
        budgeting.in_words(gate.wanted) if gate.wanted.ByteSize() else "",
        wording.date_and_time(gate.expires_at_unix_micros),
    )
