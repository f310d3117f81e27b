"""One trace for a run, across the services, as a collector receives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from crewlog.cli import following
from crewlog.eventlog import codec
from crewlog.telemetry.ids import span_id_of, trace_id_of_run
from crewlog.v1.agent_pb2 import ModelCallStarted, ToolCallStarted
from crewlog.v1.entry_pb2 import RecordedEntry
from crewlog.v1.run_pb2 import RunStatus
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.world import platform_on

WAIT_SECONDS = 20.0


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent: the spans with the service that they come from."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.more = asyncio.Event()

    async def Export(self, request: Any, context: object) -> Any:
        for group in request.resource_spans:
            service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
        self.more.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def until(self, name: str) -> Span:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                self.more.clear()
                for _, span in self.spans:
                    if span.name == name:
                        return span
                await self.more.wait()


STEPS = ("invoke_workflow ", "invoke_agent ", "chat ", "execute_tool ")


def steps_of(entries: Sequence[RecordedEntry]) -> set[int]:
    """The ids of the spans that the events lead to: the run, its agents and their effects."""
    steps = {span_id_of("traced", "run")}
    for entry in (recorded.entry for recorded in entries):
        steps.add(span_id_of("traced", entry.aggregate.id))
        for fact in codec.facts(entry):
            if isinstance(fact, ModelCallStarted):
                steps.add(span_id_of("traced", f"{entry.aggregate.id}/{fact.key.turn}/chat", fact.key.attempt))
            elif isinstance(fact, ToolCallStarted):
                place = f"{entry.aggregate.id}/{fact.key.turn}/tool-{fact.key.index}"
                steps.add(span_id_of("traced", place, fact.key.attempt))
    return steps


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collector
    await server.stop(0)


async def test_a_run_is_one_trace_across_the_services(collector: Collector, tmp_path: Path, repository: Path) -> None:
    async with platform_on(tmp_path, repository) as world:
        await world.start("traced")
        assert (await world.finished("traced")).status == RunStatus.RUN_STATUS_SUCCEEDED
        steps = steps_of(await following.until_now(world.gateway, "traced"))
        root = await collector.until("invoke_workflow crew")
    trace_id = trace_id_of_run("traced").to_bytes(16, "big")
    found = [(service, span) for service, span in collector.spans if span.trace_id == trace_id]
    names = {span.name for _, span in found}
    assert {"invoke_agent implementer", "chat claude-sonnet-5-5", "execute_tool bash"} <= names
    assert {"crewlog-scheduler", "crewlog-executor", "crewlog-git", "crewlog-gateway"} <= {s for s, _ in found}
    ids = {span.span_id for _, span in found}
    orphans = [span.name for _, span in found if span.parent_span_id and span.parent_span_id not in ids]
    assert not orphans
    assert len(ids) == len(found), "a span was sent twice"
    told = {span.span_id: span.name for _, span in found if span.name.startswith(STEPS)}
    assert not {name for id, name in told.items() if int.from_bytes(id, "big") not in steps}
    assert not root.parent_span_id
    request = next(span for _, span in collector.spans if span.span_id == root.links[0].span_id)
    assert request.name.endswith("/Start") and request.trace_id != trace_id
    assert any(link.trace_id == trace_id and link.span_id == root.span_id for link in request.links)


async def test_a_replay_sends_no_span(collector: Collector, tmp_path: Path, repository: Path) -> None:
    async with platform_on(tmp_path, repository) as world:
        await world.start("traced")
        await world.finished("traced")
        await collector.until("invoke_workflow crew")
    sent = len(collector.spans)
    async with platform_on(tmp_path, repository) as world:
        run = await world.finished("traced")
        assert run.status == RunStatus.RUN_STATUS_SUCCEEDED
    again = [
        span.name
        for _, span in collector.spans[sent:]
        if span.trace_id == trace_id_of_run("traced").to_bytes(16, "big")
    ]
    assert not again
