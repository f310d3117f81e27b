"""Trace and span ids that are derived, not drawn: a step that is reported twice is the same span."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

ROOT_STEP = "run"

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


@dataclass(frozen=True, slots=True)
class SpanId:
    """A place in a trace, as W3C Trace Context names it."""

    trace_id: int
    span_id: int
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse_traceparent(text: str) -> SpanId | None:
    """The place that a `traceparent` names, or None when it is malformed: a bad header never fails a call."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    return SpanId(trace_id, span_id, bool(flags & 1)) if trace_id and span_id else None


def trace_id_of_run(run_id: str) -> int:
    """128 bits, never 0."""
    return int.from_bytes(hashlib.sha256(b"crewlog-trace\0" + run_id.encode()).digest()[:16], "big") or 1


def span_id_of(run_id: str, step: str, attempt: int = 1) -> int:
    """64 bits, never 0. `step` is `run`, a task id, or whatever else names a step within the run."""
    name = f"crewlog-span\0{run_id}\0{step}\0{attempt}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") or 1


def step_of_run(run_id: str, step: str = ROOT_STEP, attempt: int = 1) -> SpanId:
    return SpanId(trace_id_of_run(run_id), span_id_of(run_id, step, attempt))


def traceparent_of_run(run_id: str) -> str:
    """Names the run's root span, which is sent when the run ends."""
    return step_of_run(run_id).traceparent
