"""The shape of an aggregate.

    decide : (State, Command) -> [Event]     what a command causes; [] = already done; raises Refused
    evolve : (State, Event)   -> State       what an event means; never refuses: it has happened

A module is a decider: it has `KIND`, `VERSION`, `INITIAL`, `decide` and `evolve`.
Commands and events are protobuf messages; the state is a frozen dataclass. One that has to know what its events lead to
in order to decide may say so, and spares whoever runs it the same work:

    decide_and_evolve : (State, Command) -> ([Event], State)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Decider(Protocol[S_co]):
    @property
    def KIND(self) -> str:
        """The kind in the subject, such as `run`."""

    @property
    def VERSION(self) -> int:
        """Raised with every change of the rules; written into every entry."""

    @property
    def INITIAL(self) -> S_co:
        """The state before the first event."""

    @property
    def decide(self) -> Any:
        """(state, command) -> list of events; raises Refused."""

    @property
    def evolve(self) -> Any:
        """(state, event) -> state."""


def fold(decider: Decider[S], events: Iterable[Message], state: S | None = None) -> S:
    """The state after `events`, from `state` or from the beginning."""
    result = decider.INITIAL if state is None else state
    for event in events:
        result = decider.evolve(result, event)
    return result


def decide_and_evolve(decider: Decider[S], state: S, command: Message) -> tuple[Sequence[Message], S]:
    """What the command causes, and the state that it leads to. Raises Refused."""
    own: Callable[[S, Message], tuple[Sequence[Message], S]] | None = getattr(decider, "decide_and_evolve", None)
    if own is not None:
        return own(state, command)
    events = decider.decide(state, command)
    return events, fold(decider, events, state)
