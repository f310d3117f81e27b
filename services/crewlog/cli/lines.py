"""A line of the story: who, what, how it is meant, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

RUN = "run"


class Tone(Enum):
    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    DETAIL = "detail"


@dataclass(frozen=True, slots=True)
class Line:
    """`who` is a task, `run`, the project, or a budget."""

    who: str
    text: str
    tone: Tone = Tone.PLAIN
    duration_micros: int = 0
    cost_usd_micros: int = 0
    revision: int = 0
    at_unix_micros: int = 0
