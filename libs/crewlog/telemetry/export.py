"""Sends finished spans to an OTLP collector. Imported only where one is configured: the SDK takes long to import.

The queue is bounded and drops the oldest; sending is done by a thread. A collector that is down costs nothing else.
"""

from __future__ import annotations

import threading

from crewlog.telemetry.ids import SpanId, parse_traceparent
from crewlog.telemetry.traces import Link, Span
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as OtelLink
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

QUEUE_SPANS_MAX = 8192
BATCH_SPANS_MAX = 512
DELAY_MILLIS = 500

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_SCOPE = InstrumentationScope("crewlog")


class OtlpRecorder:
    """A `Recorder` over the exporter of the SDK, which reads the OTEL_EXPORTER_OTLP_ variables."""

    def __init__(self, service: str) -> None:
        self._resource = Resource.create({"service.name": f"crewlog-{service}"})
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(),
            max_queue_size=QUEUE_SPANS_MAX,
            schedule_delay_millis=DELAY_MILLIS,
            max_export_batch_size=BATCH_SPANS_MAX,
        )

    def record(self, span: Span) -> None:
        self._processor.on_end(_to_otel(span, self._resource))

    def close(self, seconds: float) -> None:
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)


def _to_otel(span: Span, resource: Resource) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=_context(span.id),
        parent=_context(span.parent) if span.parent else None,
        resource=resource,
        attributes={**span.attributes, "error.type": span.error} if span.error else span.attributes,
        links=_links(span.links),
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=span.start_nanos,
        end_time=span.end_nanos,
        instrumentation_scope=_SCOPE,
    )


def _context(place: SpanId) -> SpanContext:
    return SpanContext(place.trace_id, place.span_id, False, TraceFlags(int(place.sampled)))


def _links(links: list[Link]) -> list[OtelLink]:
    places = ((parse_traceparent(link.traceparent), link.relation) for link in links)
    return [OtelLink(_context(place), {"crewlog.relation": relation}) for place, relation in places if place]
