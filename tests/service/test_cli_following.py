"""Following a run over real gRPC: whatever happens to the connection, every entry comes once and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from crewlog.cli import following, gateway
from crewlog.cli.gateway import Gateway
from crewlog.domain.errors import NotFound, Unavailable
from crewlog.eventlog import codec
from crewlog.runtime.auth import Access, Verifier
from crewlog.runtime.channel import dial
from crewlog.runtime.serve import Registration, RunningServer, start_server
from crewlog.v1.entry_pb2 import Aggregate, Decision, Entry, RecordedEntry
from crewlog.v1.run_pb2 import (
    Node,
    NoopNode,
    RunFailed,
    RunRetried,
    RunStarted,
    RunSucceeded,
    TaskClaimed,
    TaskFailed,
    TaskSucceeded,
    Workflow,
)
from crewlog.v1.run_service_pb2 import Heartbeat, LiveDelta, WatchRun, WatchRunMessage
from crewlog.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from google.protobuf.message import Message

Answer = Sequence[WatchRunMessage | Exception]


def _entry(revision: int, *facts: Message) -> WatchRunMessage:
    aggregate = Aggregate(tenant="local", kind="run", id="demo")
    entry = Entry(aggregate=aggregate, decisions=[Decision(events=[codec.pack(fact) for fact in facts])])
    return WatchRunMessage(entry=RecordedEntry(revision=revision, entry=entry))


STARTED = _entry(3, RunStarted(run_id="demo", workflow=Workflow(nodes=[Node(node_id="a", noop=NoopNode(steps=1))])))
CLAIMED = _entry(5, TaskClaimed(task_id="a-1", node_id="a", visit=1, generation=1))
DONE = _entry(9, TaskSucceeded(task_id="a-1"))
OVER = _entry(12, RunSucceeded())
FAILED = _entry(6, TaskFailed(task_id="a-1"), RunFailed())
RETRIED = _entry(7, RunRetried(task_ids=["a-1"]))
AGAIN = _entry(8, TaskClaimed(task_id="a-2", node_id="a", visit=2, generation=1))
DONE_AGAIN = _entry(9, TaskSucceeded(task_id="a-2"))
TYPED = WatchRunMessage(live=LiveDelta(text="x"))
QUIET = WatchRunMessage(heartbeat=Heartbeat(revision=7))
LOST = Unavailable("the gateway is restarting")


class Unreliable:
    """Gives one answer to each call, and remembers from where it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    async def Watch(self, request: WatchRun, context: object) -> AsyncIterator[WatchRunMessage]:
        self.asked.append(request.from_revision)
        for message in self.answers.pop(0) if self.answers else [LOST]:
            if isinstance(message, Exception):
                raise message
            yield message

    def __getattr__(self, name: str) -> object:
        return None


Serve = Callable[[Unreliable], Awaitable[Gateway]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    running: list[RunningServer] = []
    channels = []

    async def start(servicer: Unreliable) -> Gateway:
        registration = Registration("crewlog.v1.RunService", add_RunServiceServicer_to_server, servicer, Access.CLIENT)
        running.append(await start_server([registration], address="127.0.0.1:0", verifier=Verifier("secret")))
        channels.append(dial(running[-1].address, "secret"))
        return gateway.of_channel(channels[-1], running[-1].address)

    yield start
    for channel in channels:
        await channel.close()
    for server in running:
        await server.stop()


async def _followed(connected: Gateway, said: list[str] | None = None) -> list[WatchRunMessage]:
    say = (said if said is not None else []).append
    return [message async for message in following.follow(connected, "demo", with_live=True, say=say)]


async def test_it_ends_with_the_run(serve: Serve) -> None:
    servicer = Unreliable([STARTED, TYPED, CLAIMED, QUIET, DONE, OVER])
    assert await _followed(await serve(servicer)) == [STARTED, TYPED, CLAIMED, QUIET, DONE, OVER]
    assert servicer.asked == [0]


async def test_an_end_before_a_retry_is_not_the_end(serve: Serve) -> None:
    servicer = Unreliable([STARTED, CLAIMED, FAILED, RETRIED, LOST], [AGAIN, DONE_AGAIN, OVER])
    followed = await _followed(await serve(servicer))
    assert followed == [STARTED, CLAIMED, FAILED, RETRIED, AGAIN, DONE_AGAIN, OVER]
    assert servicer.asked == [0, 7]


@pytest.mark.parametrize("end", [[], [LOST]])
async def test_it_goes_on_where_it_was(serve: Serve, end: list[Exception]) -> None:
    servicer = Unreliable([STARTED, CLAIMED, *end], [LOST], [CLAIMED, DONE, *end], [DONE, OVER])
    said: list[str] = []
    assert await _followed(await serve(servicer), said) == [STARTED, CLAIMED, DONE, OVER]
    assert servicer.asked == [0, 5, 5, 9]
    assert said == ["the connection is lost; trying again", "connected again"] * 2


async def test_what_is_refused_is_not_tried_again(serve: Serve) -> None:
    servicer = Unreliable([NotFound("there is no run 'demo'")])
    with pytest.raises(NotFound, match="no run"):
        await _followed(await serve(servicer))
    assert servicer.asked == [0]


async def test_a_gateway_that_stays_away_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENCE_SECONDS_MAX", 0.3)
    with pytest.raises(Unavailable, match="restarting"):
        await _followed(await serve(Unreliable([STARTED])))
