"""A paused run goes on: because somebody says so, or because its time has come."""

from __future__ import annotations

from crewlog.domain.run.state import Run
from crewlog.v1.run_pb2 import ParkCause, RunResumed, TaskUnparked
from google.protobuf.message import Message


def resumed(run: Run, by: str, at: int) -> list[Message]:
    """What was parked because of the pause goes on; what waits for money or a person still does."""
    if run.paused is None:
        return []
    causes = (ParkCause.PARK_CAUSE_PAUSED, ParkCause.PARK_CAUSE_HANDED_OVER, ParkCause.PARK_CAUSE_MODEL)
    freed = (task_id for task_id in run.parked if run.tasks[task_id].park_cause in causes)
    unparked = (TaskUnparked(task_id=task_id, at_unix_micros=at) for task_id in freed)
    return [RunResumed(by=by, at_unix_micros=at), *unparked]
