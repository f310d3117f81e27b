"""The one place that makes spans. Without `configure` and an OTLP endpoint, nothing is recorded and little is spent.

A span is sent when it ends, with its start, its end and its id: no span is open for long, and a run's root span is made
from the log when the run is over. The current place in a trace travels with calls whether or not anything is recorded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from crewlog.telemetry import config
from crewlog.telemetry.ids import ROOT_STEP, SpanId, parse_traceparent, step_of_run
from crewlog.telemetry.ids import span_id_of as span_id_of
from crewlog.telemetry.ids import trace_id_of_run as trace_id_of_run
from crewlog.telemetry.ids import traceparent_of_run as traceparent_of_run

TRACEPARENT = "traceparent"
FLUSH_SECONDS = 1.0

Attribute = str | int | float | bool | Sequence[str]
Kind = Literal["internal", "server", "client"]


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that this one has to do with; `relation` is a word such as `request` or `previous_attempt`."""

    traceparent: str
    relation: str


@dataclass(slots=True)
class Span:
    """What is sent when a span ends; `error` is a short word, empty when there was none."""

    name: str
    id: SpanId
    parent: SpanId | None
    kind: Kind = "internal"
    start_nanos: int = 0
    end_nanos: int = 0
    attributes: dict[str, Attribute] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    error: str = ""


class Recorder(Protocol):
    def record(self, span: Span) -> None:
        """Takes a finished span; never blocks and never fails."""

    def close(self, seconds: float) -> None:
        """Sends what is waiting, for at most so long."""


_recorder: Recorder | None = None
_place: ContextVar[SpanId | None] = ContextVar("place", default=None)
_open_span: ContextVar[Span | None] = ContextVar("open_span", default=None)


def configure(service: str) -> None:
    """Starts to export when the usual OTEL_ variables name a collector."""
    global _recorder
    if config.wants_traces():
        from crewlog.telemetry.export import OtlpRecorder

        _recorder = OtlpRecorder(service)


def close(seconds: float = FLUSH_SECONDS) -> None:
    """Sends what is waiting and stops to record."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.close(seconds)


def is_recording() -> bool:
    return _recorder is not None


def emit_span(
    name: str,
    *,
    run_id: str,
    step: str,
    start_micros: int,
    end_micros: int,
    parent_step: str = ROOT_STEP,
    attempt: int = 1,
    parent_attempt: int = 1,
    attributes: Mapping[str, Attribute] | None = None,
    links: Sequence[Link] = (),
    error: str = "",
    kind: Kind = "internal",
) -> None:
    """Sends the finished span of a step of a run. The step `run` is the root; never call this while replaying."""
    if _recorder is None:
        return
    span = Span(
        name,
        step_of_run(run_id, step, attempt),
        None if step == ROOT_STEP else step_of_run(run_id, parent_step, parent_attempt),
        kind,
        start_micros * 1000,
        end_micros * 1000,
        dict(attributes or {}),
        list(links),
        error,
    )
    _recorder.record(span)


def start_span(name: str, kind: Kind, parent: SpanId | None = None) -> Span | None:
    """Begins a span that `end_span` sends; None when nothing is recorded. Without a parent it is the current place."""
    if _recorder is None:
        return None
    parent = parent or _place.get()
    if parent is not None and not parent.sampled:
        return None
    trace_id = parent.trace_id if parent else random.getrandbits(128) or 1
    return Span(name, SpanId(trace_id, random.getrandbits(64) or 1), parent, kind, time.time_ns())


def end_span(span: Span, error: str = "") -> None:
    span.error, span.end_nanos = error, time.time_ns()
    if _recorder is not None:
        _recorder.record(span)


def enter(place: SpanId | None, span: Span | None = None) -> None:
    """Makes this the current place for the rest of the task."""
    _place.set(span.id if span else place)
    _open_span.set(span)


@contextmanager
def within(traceparent: str) -> Iterator[None]:
    """Calls made inside belong below this span."""
    token = _place.set(parse_traceparent(traceparent))
    try:
        yield
    finally:
        _place.reset(token)


def within_step(run_id: str, step: str, attempt: int = 1) -> AbstractContextManager[None]:
    """Calls made inside belong below this step of the run."""
    return within(step_of_run(run_id, step, attempt).traceparent)


def current_traceparent() -> str:
    """The current place, or an empty string."""
    place = _place.get()
    return place.traceparent if place else ""


def current_trace_id() -> str:
    place = _place.get()
    return f"{place.trace_id:032x}" if place else ""


def link_current(traceparent: str, relation: str) -> None:
    """Adds a link to the span of the call that is being served, if there is one."""
    span = _open_span.get()
    if span is not None:
        span.links.append(Link(traceparent, relation))


def inject(headers: MutableMapping[str, str]) -> None:
    """Writes the current place into the headers of a message."""
    place = _place.get()
    if place is not None:
        headers[TRACEPARENT] = place.traceparent


def extract(headers: Mapping[str, str] | None) -> str:
    """The place that the sender of a message was at, or an empty string."""
    text = (headers or {}).get(TRACEPARENT, "")
    return text if parse_traceparent(text) else ""
