"""Spans reach a collector with derived ids and links; without a collector nothing is recorded and nothing waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from crewlog.domain.errors import NotFound
from crewlog.runtime.channel import dial
from crewlog.runtime.serve import Access, Registration, RunningServer, Verifier, start_server
from crewlog.telemetry import config, ids, names, traces
from crewlog.v1.events_pb2 import GetStatus, PlatformStatus, WatchEvents, WatchEventsMessage
from crewlog.v1.events_pb2_grpc import EventServiceServicer, EventServiceStub, add_EventServiceServicer_to_server
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TOKEN = "client-token"
CALLER = f"00-{7:032x}-{9:016x}-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.services: set[str] = set()

    async def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_spans:
            self.services.update(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            for scope in group.scope_spans:
                self.spans.update({f"{span.kind}:{span.name}": span for span in scope.spans})
        return trace_service_pb2.ExportTraceServiceResponse()

    async def receive(self, *wanted: str) -> list[Span]:
        async with asyncio.timeout(10):
            while not set(wanted) <= set(self.spans):
                await asyncio.sleep(0.01)
        return [self.spans[name] for name in wanted]


@pytest.fixture(autouse=True)
def closed_afterwards() -> Iterator[None]:
    yield
    traces.close()


@asynccontextmanager
async def collecting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    traces.configure("test")
    try:
        yield collector
    finally:
        traces.close()
        await server.stop(0)


class Events(EventServiceServicer):
    """`Status` says which trace it is served in, and refuses or fails when it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def Status(self, request: GetStatus, context: Any) -> PlatformStatus:
        traces.link_current(traces.traceparent_of_run("run-1"), "run")
        if self.error:
            raise self.error
        return PlatformStatus(epoch=traces.current_traceparent())

    async def Watch(self, request: WatchEvents, context: Any) -> AsyncIterator[WatchEventsMessage]:
        yield WatchEventsMessage()
        await asyncio.Event().wait()

    async def ReadBlob(self, request: Any, context: Any) -> Any: ...


@asynccontextmanager
async def serving(servicer: Events) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    registration = Registration("crewlog.v1.EventService", add_EventServiceServicer_to_server, servicer, Access.CLIENT)
    server = await start_server([registration], address="127.0.0.1:0", verifier=Verifier(TOKEN), drain_seconds=0.5)
    async with dial(server.address, TOKEN) as channel:
        yield server, channel
    await server.stop()


METHOD = "crewlog.v1.EventService/Status"
WATCH = "crewlog.v1.EventService/Watch"


async def test_a_call_is_two_spans_of_the_callers_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting(monkeypatch) as collector, serving(Events()) as (_, channel):
        with traces.within(CALLER):
            seen = (await EventServiceStub(channel).Status(GetStatus())).epoch
        server, client = await collector.receive(f"2:{METHOD}", f"3:{METHOD}")
    assert {int.from_bytes(span.trace_id, "big") for span in (server, client)} == {7}
    assert int.from_bytes(client.parent_span_id, "big") == 9
    assert server.parent_span_id == client.span_id
    assert seen == f"00-{7:032x}-{server.span_id.hex()}-01"
    assert _attributes(server) == {
        names.RPC_SYSTEM: "grpc",
        names.RPC_METHOD: METHOD,
        names.RPC_STATUS: "OK",
    }
    assert 0 < server.start_time_unix_nano <= server.end_time_unix_nano
    assert collector.services == {"crewlog-test"}


async def test_the_request_is_linked_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting(monkeypatch) as collector, serving(Events()) as (_, channel):
        await EventServiceStub(channel).Status(GetStatus())
        (server,) = await collector.receive(f"2:{METHOD}")
    (link,) = server.links
    assert int.from_bytes(link.trace_id, "big") == traces.trace_id_of_run("run-1")
    assert int.from_bytes(link.span_id, "big") == traces.span_id_of("run-1", "run")
    assert link.attributes[0].value.string_value == "run"


@pytest.mark.parametrize(
    ("error", "code", "server_failed"),
    [(NotFound("no"), "NOT_FOUND", False), (ValueError("secret"), "INTERNAL", True)],
)
async def test_the_span_of_a_call_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, server_failed: bool
) -> None:
    servicer = Events()
    servicer.error = error
    async with collecting(monkeypatch) as collector, serving(servicer) as (_, channel):
        with pytest.raises(Exception, match=r"no|failed"):
            await EventServiceStub(channel).Status(GetStatus())
        server, client = await collector.receive(f"2:{METHOD}", f"3:{METHOD}")
    assert _attributes(server)[names.RPC_STATUS] == _attributes(client)[names.RPC_STATUS] == code
    assert (server.status.code == Status.STATUS_CODE_ERROR) is server_failed
    assert client.status.code == Status.STATUS_CODE_ERROR
    assert "secret" not in str(server) + str(client)


async def test_a_stream_that_is_cancelled_ends_its_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting(monkeypatch) as collector, serving(Events()) as (_, channel):
        stream = EventServiceStub(channel).Watch(WatchEvents())
        await anext(aiter(stream))
        stream.cancel()
        server, client = await collector.receive(f"2:{WATCH}", f"3:{WATCH}")
    assert _attributes(server)[names.RPC_STATUS] == _attributes(client)[names.RPC_STATUS] == "CANCELLED"


async def test_steps_of_a_run_have_derived_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting(monkeypatch) as collector:
        traces.emit_span("invoke_workflow agent", run_id="run-1", step="run", start_micros=1_000, end_micros=5_000)
        traces.emit_span(
            "invoke_agent tester",
            run_id="run-1",
            step="tester-1",
            attempt=2,
            start_micros=2_000,
            end_micros=3_000,
            attributes={names.OPERATION_NAME: names.INVOKE_AGENT, names.GENERATION: 2},
            links=[traces.Link(CALLER, "request"), traces.Link("nonsense", "request")],
            error="timed_out",
        )
        root, step = await collector.receive("1:invoke_workflow agent", "1:invoke_agent tester")
    assert root.trace_id == step.trace_id == traces.trace_id_of_run("run-1").to_bytes(16, "big")
    assert root.parent_span_id == b""
    assert step.parent_span_id == root.span_id == traces.span_id_of("run-1", "run").to_bytes(8, "big")
    assert step.span_id == traces.span_id_of("run-1", "tester-1", 2).to_bytes(8, "big")
    assert (step.start_time_unix_nano, step.end_time_unix_nano) == (2_000_000, 3_000_000)
    assert [link.trace_id[-1] for link in step.links] == [7]
    assert (step.status.code, step.status.message) == (Status.STATUS_CODE_ERROR, "timed_out")
    assert _attributes(step)["error.type"] == "timed_out"


async def test_a_trace_that_the_caller_does_not_sample_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting(monkeypatch) as collector, serving(Events()) as (_, channel):
        with traces.within(CALLER[:-1] + "0"):
            await EventServiceStub(channel).Status(GetStatus())
        await EventServiceStub(channel).Status(GetStatus())
        (server,) = await collector.receive(f"2:{METHOD}")
    assert int.from_bytes(server.trace_id, "big") != 7


async def test_without_a_collector_nothing_is_recorded_but_the_place_travels() -> None:
    assert not traces.is_recording()
    async with serving(Events()) as (_, channel):
        with traces.within(CALLER):
            assert (await EventServiceStub(channel).Status(GetStatus())).epoch == CALLER
        assert (await EventServiceStub(channel).Status(GetStatus())).epoch == ""


async def test_a_collector_that_is_down_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    traces.configure("test")
    started = time.monotonic()
    async with serving(Events()) as (_, channel):
        for _ in range(20):
            await EventServiceStub(channel).Status(GetStatus())
    for number in range(20_000):
        traces.emit_span("x", run_id="run-1", step=f"s-{number}", start_micros=1, end_micros=2)
    assert time.monotonic() - started < 30
    started = time.monotonic()
    traces.close(seconds=0.2)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("wanted", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_the_usual_variables_decide(wanted: str) -> None:
    assert not config.wants_traces({})
    assert config.wants_traces({wanted: "http://127.0.0.1:4317"})
    assert not config.wants_traces({wanted: "http://127.0.0.1:4317", "OTEL_SDK_DISABLED": "true"})
    assert not config.wants_traces({wanted: "http://127.0.0.1:4317", "OTEL_TRACES_EXPORTER": "none"})


def test_headers_carry_the_place() -> None:
    headers: dict[str, str] = {}
    traces.inject(headers)
    assert headers == {}
    with traces.within_step("run-1", "tester-1"):
        traces.inject(headers)
    assert headers["traceparent"] == ids.step_of_run("run-1", "tester-1").traceparent
    assert traces.extract(headers) == headers["traceparent"]
    assert traces.extract(None) == ""


@pytest.mark.parametrize(
    "text", ["", "x", CALLER + "x", CALLER.upper().replace("00-", "FF-"), f"00-{0:032x}-{9:016x}-01"]
)
def test_a_malformed_place_is_no_place(text: str) -> None:
    assert ids.parse_traceparent(text) is None
    assert traces.extract({"traceparent": text}) == ""


def test_ids_are_the_same_everywhere_and_forever() -> None:
    assert traces.traceparent_of_run("fix-slug-7") == "00-b77abb41dc7dab24eec3ec59a7ba48d0-829cfb4dd1aea2e7-01"
    assert traces.trace_id_of_run("a") != traces.trace_id_of_run("b")
    assert traces.span_id_of("a", "b") != traces.span_id_of("a", "b", 2)


def _attributes(span: Span) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}
