"""A collector of traces that is slow, full or away costs the platform some memory, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from crewlog.telemetry import export, traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

SPANS = 3 * export.QUEUE_SPANS_MAX
EMIT_SECONDS_MAX = 10.0


class Slow(trace_service_pb2_grpc.TraceServiceServicer):
    """Answers nobody until it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()
        self.received = 0

    async def Export(self, request: Any, context: Any) -> Any:
        self.asked.set()
        await self.let_go.wait()
        self.received += sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slow]:
    collector, server = Slow(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collector
    collector.let_go.set()
    await asyncio.to_thread(traces.close, 5.0)
    await server.stop(0)


async def test_fault_78_what_a_slow_collector_does_not_take_is_dropped_and_nobody_waits(slow: Slow) -> None:
    traces.configure("test")
    traces.emit_span("first", run_id="r", step="first", start_micros=1, end_micros=2)
    await asyncio.wait_for(slow.asked.wait(), EMIT_SECONDS_MAX)
    began = time.monotonic()
    for number in range(SPANS):
        traces.emit_span("x", run_id="r", step=f"s-{number}", start_micros=1, end_micros=2)
    assert time.monotonic() - began < EMIT_SECONDS_MAX
    slow.let_go.set()
    await asyncio.to_thread(traces.close, 10.0)
    assert export.QUEUE_SPANS_MAX / 2 < slow.received <= export.QUEUE_SPANS_MAX + export.BATCH_SPANS_MAX + 1
