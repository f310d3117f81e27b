"""What the server says, taken one message at a time: codes of refusals, and deliveries that are repeated or wrong."""

from __future__ import annotations

import pytest
from crewlog.eventlog import verdicts
from crewlog.eventlog.connection import NoAnswer
from crewlog.eventlog.pulls import _Pulls as Pulls
from crewlog.eventlog.verdicts import Verdict
from nats.aio.client import Client
from nats.aio.msg import Msg

BATCHES = (10199, 10201, 10174, 10176, 10193, 10202)
STARTING = (10008, 10023, 10039, 10076)


def test_fault_23_both_codes_of_a_wrong_sequence_lead_to_a_look() -> None:
    """The second one only says that another write is under way: what is stored decides."""
    assert verdicts.of_single(10071) is Verdict.WRONG_REVISION
    assert verdicts.of_single(10164) is Verdict.IN_DOUBT


@pytest.mark.parametrize("code", STARTING)
def test_a_server_that_is_not_ready_leaves_it_in_doubt(code: int) -> None:
    assert verdicts.of_single(code) is verdicts.of_batch(code) is Verdict.IN_DOUBT


@pytest.mark.parametrize("code", [10071, 10164, *BATCHES])
def test_a_batch_that_is_refused_stored_nothing(code: int) -> None:
    assert verdicts.of_batch(code) is Verdict.REFUSED


def delivery(revision: int, number: int, run: str = "r") -> Msg:
    """As a consumer sends it: where it stands in the log, and the how-manieth it is."""
    reply = f"$JS.ACK.EVENTS_test.c.1.{revision}.{number}.0.0"
    return Msg(Client(), subject=f"crewlog.events.local.run.{run}", reply=reply, data=b"%d" % revision)


def taken(*messages: Msg, position: int = 0) -> list[int]:
    pulls = Pulls(position)
    pulls.open_pull()
    for message in messages:
        pulls.take(message)
    return [stored.revision for stored in pulls.entries]


def test_fault_36_what_is_delivered_again_is_taken_once() -> None:
    """A consumer that is made anew begins behind what was seen; what it repeats in spite of that is passed over."""
    again = [delivery(revision, number) for number, revision in enumerate((*range(1, 6), *range(1, 6), 6), 1)]
    assert taken(*again) == [1, 2, 3, 4, 5, 6]
    assert taken(*again, position=4) == [5, 6]


def test_fault_35_revisions_never_go_back_whatever_the_order_of_subjects() -> None:
    mixed = [delivery(revision, number, f"r{number % 3}") for number, revision in enumerate((2, 5, 3, 9), 1)]
    assert taken(*mixed) == [2, 5, 9]


async def test_a_delivery_that_is_missing_ends_the_consumer() -> None:
    pulls = Pulls(0)
    pulls.open_pull()
    pulls.take(delivery(1, 1))
    pulls.take(delivery(3, 3))
    assert [stored.revision for stored in pulls.entries] == [1]
    pulls.entries.clear()
    with pytest.raises(NoAnswer, match="left something out"):
        await pulls.wait()
