"""Every refusal crosses a real connection and arrives as what it was; a bug says nothing about itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from crewlog.domain import errors
from crewlog.domain.errors import Refused
from crewlog.runtime import limits, status
from crewlog.runtime.channel import dial
from crewlog.runtime.serve import Access, Registration, Verifier, start_server
from crewlog.v1.events_pb2 import GetStatus, PlatformStatus, WatchEvents
from crewlog.v1.events_pb2_grpc import EventServiceServicer, EventServiceStub, add_EventServiceServicer_to_server
from crewlog.v1.workspace_pb2 import Blob, GetBlob
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from crewlog.v1.events_pb2_grpc import EventServiceAsyncStub

TOKEN = "client-token"


class Raising(EventServiceServicer):
    """Raises what it is told to."""

    error: BaseException = Refused("nothing to raise")

    async def Status(self, request: GetStatus, context: Any) -> Any:
        raise self.error

    async def Watch(self, request: WatchEvents, context: Any) -> AsyncIterator[Any]:
        raise self.error
        yield

    async def ReadBlob(self, request: GetBlob, context: Any) -> Blob:
        return Blob(content=bytes(int(request.sha256)))


@asynccontextmanager
async def serving(servicer: Raising) -> AsyncIterator[EventServiceAsyncStub]:
    registration = Registration("crewlog.v1.EventService", add_EventServiceServicer_to_server, servicer, Access.CLIENT)
    server = await start_server([registration], address="127.0.0.1:0", verifier=Verifier(TOKEN), drain_seconds=0.5)
    try:
        async with dial(server.address, TOKEN) as channel:
            yield EventServiceStub(channel)
    finally:
        await server.stop()


ROWS = [
    (errors.InvalidCommand, "INVALID_ARGUMENT", "INVALID_COMMAND"),
    (errors.NotFound, "NOT_FOUND", "NOT_FOUND"),
    (errors.Conflict, "ALREADY_EXISTS", "CONFLICT"),
    (errors.WrongState, "FAILED_PRECONDITION", "WRONG_STATE"),
    (errors.StaleClaim, "FAILED_PRECONDITION", "STALE_CLAIM"),
    (errors.MergeConflict, "FAILED_PRECONDITION", "MERGE_CONFLICT"),
    (errors.BudgetExceeded, "RESOURCE_EXHAUSTED", "BUDGET_EXCEEDED"),
    (errors.NotAuthenticated, "UNAUTHENTICATED", "NOT_AUTHENTICATED"),
    (errors.NotPermitted, "PERMISSION_DENIED", "NOT_PERMITTED"),
    (errors.Contention, "ABORTED", "CONTENTION"),
    (errors.Unavailable, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.TooLarge, "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    (errors.Refused, "FAILED_PRECONDITION", "REFUSED"),
]


def test_every_refusal_has_a_row() -> None:
    def all_below(kind: type[Refused]) -> set[type[Refused]]:
        return {kind}.union(
            *(all_below(below) for below in kind.__subclasses__() if below.__module__ == kind.__module__)
        )

    assert {row[0] for row in ROWS} == all_below(Refused)


@pytest.mark.parametrize("violations", [{}, {"run_id": "is too long", "budget.usd_micros": "has to be ≥ 0 — really"}])
@pytest.mark.parametrize(("kind", "code", "reason"), ROWS)
async def test_a_refusal_arrives_as_it_was_raised(
    kind: type[Refused], code: str, reason: str, violations: dict[str, str]
) -> None:
    servicer = Raising()
    servicer.error = kind("it is wrong: “ü”\n100 %", what_to_do="do it – differently", violations=violations)
    async with serving(servicer) as stub:
        with pytest.raises(Refused) as unary:
            await stub.Status(GetStatus())
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            await anext(aiter(stub.Watch(WatchEvents())))
    assert stream.value.code().name == code
    assert _detail(stream.value, error_details_pb2.ErrorInfo()).reason == reason
    for refusal in (unary.value, status.refusal_of(stream.value)):
        assert type(refusal) is kind
        assert isinstance(refusal, Refused)
        assert (refusal.message, refusal.what_to_do) == ("it is wrong: “ü”\n100 %", "do it – differently")
        assert refusal.violations == violations


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (errors.InvalidCommand, error_details_pb2.BadRequest()),
        (errors.WrongState, error_details_pb2.PreconditionFailure()),
        (errors.StaleClaim, error_details_pb2.PreconditionFailure()),
        (errors.BudgetExceeded, error_details_pb2.QuotaFailure()),
        (errors.TooLarge, error_details_pb2.QuotaFailure()),
        (errors.Contention, error_details_pb2.RetryInfo()),
        (errors.Unavailable, error_details_pb2.RetryInfo()),
    ],
)
def test_each_class_has_its_standard_detail(kind: type[Refused], detail: Message) -> None:
    wire = status.to_wire(kind("no", violations={"field": "why"}))
    details = status_pb2.Status.FromString(wire.trailing_metadata[0][1]).details
    assert any(packed.Is(detail.DESCRIPTOR) for packed in details)


async def test_a_class_that_the_table_does_not_know_travels_as_its_parent() -> None:
    class TooShort(errors.InvalidCommand):
        pass

    servicer = Raising()
    servicer.error = TooShort("too short")
    async with serving(servicer) as stub:
        with pytest.raises(errors.InvalidCommand, match="too short"):
            await stub.Status(GetStatus())


async def test_texts_of_any_length_arrive_cut() -> None:
    servicer = Raising()
    long = "ü" * 100_000
    servicer.error = errors.InvalidCommand(long, what_to_do=long, violations={f"{i}{long}": long for i in range(1000)})
    async with serving(servicer) as stub:
        with pytest.raises(errors.InvalidCommand) as caught:
            await stub.Status(GetStatus())
    assert caught.value.message == long[: limits.MESSAGE_CHARACTERS_MAX]
    assert len(caught.value.violations) == limits.VIOLATIONS_MAX


@pytest.mark.parametrize(
    "bug", [ValueError("secret detail"), KeyError("secret detail"), AssertionError("secret detail")]
)
async def test_a_bug_is_internal_and_tells_nothing_but_an_id_that_the_log_has(
    bug: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    servicer = Raising()
    servicer.error = bug
    async with serving(servicer) as stub:
        with pytest.raises(status.RemoteFault) as caught:
            await stub.Status(GetStatus())
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            await anext(aiter(stub.Watch(WatchEvents())))
    assert caught.value.code is stream.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.message + str(stream.value.trailing_metadata()) + str(stream.value.details())
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert all(line.exc_info and line.exc_info[1] is bug for line in lines)
    assert lines[0].__dict__["error_id"] in caught.value.message


async def test_a_handler_that_times_out_is_unavailable() -> None:
    servicer = Raising()
    servicer.error = TimeoutError("it took too long inside")
    async with serving(servicer) as stub:
        with pytest.raises(errors.Unavailable):
            await stub.Status(GetStatus())


async def test_a_call_to_nobody_is_unavailable() -> None:
    async with dial("127.0.0.1:1", TOKEN) as channel:
        with pytest.raises(errors.Unavailable):
            await EventServiceStub(channel).Status(GetStatus())


async def test_a_method_that_is_not_served_is_a_fault() -> None:
    server = await start_server([], address="127.0.0.1:0", verifier=Verifier(TOKEN))
    async with dial(server.address, TOKEN) as channel:
        with pytest.raises(status.RemoteFault, match="UNIMPLEMENTED"):
            await EventServiceStub(channel).Status(GetStatus())
    await server.stop()


async def test_messages_over_the_limits_are_refused_as_too_large() -> None:
    async with serving(Raising()) as stub:
        with pytest.raises(errors.TooLarge):
            await stub.ReadBlob(GetBlob(sha256=bytes(limits.REQUEST_BYTES_MAX + 1)))
        with pytest.raises(errors.TooLarge):
            await stub.ReadBlob(GetBlob(sha256=str(limits.ANSWER_BYTES_MAX + 1).encode()))
        answer = await stub.ReadBlob(GetBlob(sha256=str(64 * 1024 * 1024).encode()))
    assert len(answer.content) == 64 * 1024 * 1024


async def test_a_server_refuses_what_a_careless_client_sends() -> None:
    server = await start_server(
        [Registration("crewlog.v1.EventService", add_EventServiceServicer_to_server, Raising(), Access.CLIENT)],
        address="127.0.0.1:0",
        verifier=Verifier(TOKEN),
    )
    async with grpc.aio.insecure_channel(server.address) as channel:
        large = GetBlob(sha256=bytes(limits.REQUEST_BYTES_MAX + 1))
        call = EventServiceStub(channel).ReadBlob(large, metadata=(("authorization", f"Bearer {TOKEN}"),))
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await server.stop()


async def test_cancelling_a_call_cancels_its_handler() -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    class Waiting(Raising):
        async def Status(self, request: GetStatus, context: Any) -> Any:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

    async with serving(Waiting()) as stub:

        async def call() -> None:
            await stub.Status(GetStatus())

        task = asyncio.create_task(call())
        await asyncio.wait_for(entered.wait(), 5)
        task.cancel()
        await asyncio.wait_for(left.wait(), 5)


async def test_a_deadline_ends_the_call_on_both_sides() -> None:
    left = asyncio.Event()

    class Waiting(Raising):
        async def Status(self, request: GetStatus, context: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

    async with serving(Waiting()) as stub:
        await stub.ReadBlob(GetBlob(sha256=b"0"))
        with pytest.raises(errors.Unavailable, match="deadline"):
            await stub.Status(GetStatus(), timeout=1)
        await asyncio.wait_for(left.wait(), 5)


async def test_calls_without_a_deadline_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    remaining: list[float] = []

    class Looking(Raising):
        async def Status(self, request: GetStatus, context: Any) -> Any:
            remaining.append(context.time_remaining())
            return PlatformStatus()

    async with serving(Looking()) as stub:
        await stub.Status(GetStatus())
        await stub.Status(GetStatus(), timeout=500)
        monkeypatch.setattr(limits, "CALL_SECONDS_DEFAULT", 20.0)
        await stub.Status(GetStatus())
    assert 22 < remaining[0] < 32 < 400 < remaining[1] and 10 < remaining[2] < 22


async def test_a_server_limits_calls_that_came_without_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(Raising):
        async def Status(self, request: GetStatus, context: Any) -> Any:
            assert context.time_remaining() is None
            await asyncio.Event().wait()

    monkeypatch.setattr(limits, "CALL_SECONDS_MAX", 0.1)
    registration = Registration("crewlog.v1.EventService", add_EventServiceServicer_to_server, Waiting(), Access.CLIENT)
    server = await start_server([registration], address="127.0.0.1:0", verifier=Verifier(TOKEN))
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = EventServiceStub(channel).Status(GetStatus(), metadata=(("authorization", f"Bearer {TOKEN}"),))
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop()


def _all_below(kind: type[Refused]) -> list[type[Refused]]:
    return [kind, *(found for below in kind.__subclasses__() for found in _all_below(below))]


def _detail(error: grpc.aio.AioRpcError, wanted: Any) -> Any:
    packed = dict(error.trailing_metadata())[status.DETAILS_KEY]
    assert isinstance(packed, bytes)
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Unpack(wanted):
            return wanted
    raise AssertionError(f"no {wanted.DESCRIPTOR.name}")
