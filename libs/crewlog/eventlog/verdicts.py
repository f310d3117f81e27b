"""What an error of the server says about an append: pure, one table."""

from __future__ import annotations

from enum import Enum, auto

WRONG_LAST_SEQUENCE = 10071
NO_MESSAGE_FOUND = 10037

_ANOTHER_WRITE_IN_FLIGHT = 10164
_BATCH_DUPLICATE = 10201
_BATCH_INCOMPLETE = 10176
_BATCHES_IN_FLIGHT_MAX = 10210
_CLUSTER_NOT_AVAILABLE = 10008
_JETSTREAM_NOT_ENABLED = 10076
_JETSTREAM_NOT_ENABLED_FOR_ACCOUNT = 10039
_INSUFFICIENT_RESOURCES = 10023
_CONSUMERS_MAX = 10026

_STARTING_OR_WITHOUT_LEADER = {
    _CLUSTER_NOT_AVAILABLE,
    _JETSTREAM_NOT_ENABLED,
    _JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
    _INSUFFICIENT_RESOURCES,
}
_RETRY = {_ANOTHER_WRITE_IN_FLIGHT, _BATCH_DUPLICATE, _BATCH_INCOMPLETE, _BATCHES_IN_FLIGHT_MAX}


class Verdict(Enum):
    WRONG_REVISION = auto()
    """Somebody was faster, or an earlier attempt of ours was stored."""
    IN_DOUBT = auto()
    """Look what is stored, and perhaps try again."""
    REFUSED = auto()
    """Not stored, and it would not be stored the next time."""


def of_single(code: int) -> Verdict:
    """The error code in the answer to an entry that was sent alone."""
    if code == WRONG_LAST_SEQUENCE:
        return Verdict.WRONG_REVISION
    return Verdict.IN_DOUBT if code in _STARTING_OR_WITHOUT_LEADER | _RETRY else Verdict.REFUSED


def of_batch(code: int) -> Verdict:
    """The error code in the answer to the last entry of a batch; REFUSED means that none of it was stored."""
    return Verdict.IN_DOUBT if code in _STARTING_OR_WITHOUT_LEADER else Verdict.REFUSED


def may_pass(code: int) -> bool:
    """Whether a reader may hope that the same request succeeds in a moment."""
    return code in _STARTING_OR_WITHOUT_LEADER or code == _CONSUMERS_MAX
