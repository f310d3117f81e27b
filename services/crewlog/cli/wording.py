"""How amounts, times and foreign text are written for people.

Text that came from a model, a tool or a repository never reaches a terminal as it is: whatever could move the cursor,
change colours or turn the direction of writing is shown as an escape.
"""

from __future__ import annotations

from datetime import datetime

from crewlog.v1.admission_pb2 import AdmissionDimension
from crewlog.v1.budget_pb2 import Usage
from crewlog.v1.run_pb2 import MessageMode, ParkCause, RunPaused, RunStatus, TaskStatus
from crewlog.v1.waiting_pb2 import WaitingReason
from crewlog.v1.workspace_pb2 import DiffStat

SHORT_ID_CHARACTERS = 10
ITEM_CHARACTERS = 80
"""Of an item of a map, where it stands beside its task."""


def money(usd_micros: int) -> str:
    """Dollars, with as many digits as it takes to tell a small amount from nothing."""
    sign, amount = ("-" if usd_micros < 0 else ""), abs(usd_micros)
    digits = 2 if amount >= 1_000_000 or amount == 0 else 4 if amount >= 100 else 6
    return f"{sign}${amount / 1e6:.{digits}f}"


def duration(micros: int) -> str:
    seconds = max(0, micros) / 1e6
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: int) -> str:
    """`950`, `12.3k`, `1.2M`."""
    if number < 1_000:
        return str(number)
    return f"{number / 1e3:.1f}k" if number < 999_950 else f"{number / 1e6:.1f}M"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tokens(usage: Usage) -> int:
    """Everything that went in and out, cached or not."""
    return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def time_of_day(unix_micros: int) -> str:
    return datetime.fromtimestamp(unix_micros / 1e6).strftime("%H:%M:%S") if unix_micros else ""


def date_and_time(unix_micros: int) -> str:
    return datetime.fromtimestamp(unix_micros / 1e6).strftime("%Y-%m-%d %H:%M:%S") if unix_micros else ""


def diff_stat(stat: DiffStat) -> str:
    return f"{counted(stat.files, 'file')} +{stat.insertions} -{stat.deletions}"


def short_id(object_id: str) -> str:
    return object_id[:SHORT_ID_CHARACTERS]


def run_status(status: RunStatus.ValueType) -> str:
    return RunStatus.Name(status).removeprefix("RUN_STATUS_").lower()


def task_status(status: TaskStatus.ValueType) -> str:
    return TaskStatus.Name(status).removeprefix("TASK_STATUS_").lower()


def park_cause(cause: ParkCause.ValueType) -> str:
    """What a parked task waits for."""
    return _PARK_CAUSES.get(cause, "waits")


def admission_dimension(dimension: AdmissionDimension.ValueType) -> str:
    return AdmissionDimension.Name(dimension).removeprefix("ADMISSION_DIMENSION_").lower()


def waiting_reason(reason: WaitingReason.ValueType) -> str:
    return WaitingReason.Name(reason).removeprefix("WAITING_REASON_").replace("_", " ").lower()


def message_mode(mode: MessageMode.ValueType) -> str:
    return MessageMode.Name(mode or MessageMode.MESSAGE_MODE_STEER).removeprefix("MESSAGE_MODE_").lower()


def pause(paused: RunPaused) -> str:
    """Why a run is paused, by whom, and when it goes on by itself."""
    failure = paused.failure
    why = f"{failure.reason}: {failure.message}" if failure.reason else paused.reason
    text = (f"by {paused.by}" if paused.by else "") + (f": {why}" if why else "")
    again = f"; it goes on by itself at {date_and_time(paused.resumes_at_unix_micros)}"
    return one_line(text.removeprefix(": "), 300) + (again if paused.resumes_at_unix_micros else "")


def plain(text: str) -> str:
    """`text` with its lines and tabs; anything else that is not printable is escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, characters_max: int = 100) -> str:
    """The text on one line, cut where it is too long."""
    flat = plain(" ".join(text.split()))
    return flat if len(flat) <= characters_max else flat[: characters_max - 1] + "…"


_PARK_CAUSES = {
    ParkCause.PARK_CAUSE_UNSPECIFIED: "waits for money",
    ParkCause.PARK_CAUSE_BUDGET: "waits for money",
    ParkCause.PARK_CAUSE_PAUSED: "paused: waits until its run is resumed",
    ParkCause.PARK_CAUSE_HANDED_OVER: "waits for another executor",
    ParkCause.PARK_CAUSE_QUESTION: "waits for an answer",
    ParkCause.PARK_CAUSE_MODEL: "the model's provider refuses: waits until its run is resumed",
    ParkCause.PARK_CAUSE_GATE: "waits for an answer",
    ParkCause.PARK_CAUSE_WAIT: "waits for its time",
    ParkCause.PARK_CAUSE_MAP: "its items are worked on",
    ParkCause.PARK_CAUSE_CHILD_RUN: "its child run is worked on",
    ParkCause.PARK_CAUSE_MERGE: "its files are being merged",
    ParkCause.PARK_CAUSE_CHILDREN: "waits for its children",
    ParkCause.PARK_CAUSE_RETRY: "waits for its next try",
}
