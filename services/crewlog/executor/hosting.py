"""What performs a grant, wherever it does: in this process, or in one of its own."""

from __future__ import annotations

from typing import Protocol

from crewlog.executor.control import Leave
from crewlog.v1.scheduler_pb2 import ChangedAllotment, TaskMessage


class Hosting(Protocol):
    @property
    def progress_revision(self) -> int:
        """Revision of the agent's last entry, as far as it is known."""

    @property
    def step_seconds(self) -> float:
        """How long the step that it is in may take at most."""

    @property
    def messages(self) -> int:
        """How many of the messages to the task it has heard."""

    async def run(self) -> None:
        """Ends when the agent has ended, has let go, or is another's. Cancelled, it drops everything."""

    def ask_to_leave(self, leave: Leave, grace_seconds: float = 0.0) -> None:
        """Asks it to let go at the next recorded step, or to end the task once the grace is over."""

    def hear(self, message: TaskMessage) -> None:
        """Somebody says something to the agent. Hearing it twice is hearing it once."""

    def change_allotment(self, changed: ChangedAllotment) -> None:
        """The run has less for the task than before, or more."""
