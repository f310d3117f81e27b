"""What is said to an agent on its way into the conversation: in order, once, and only while the agent is ours."""

from __future__ import annotations

from crewlog.domain.agent.state import is_over
from crewlog.executor.control import Control
from crewlog.executor.session import Session
from crewlog.v1.agent_pb2 import ReceiveMessage
from crewlog.v1.run_pb2 import MessageMode
from crewlog.v1.scheduler_pb2 import Grant, TaskMessage


class Inbox:
    """Messages that arrive before the agent is taken over wait; `heard` counts those without a gap."""

    def __init__(self, session: Session, control: Control, grant: Grant) -> None:
        self._session = session
        self._control = control
        self._is_open = False
        self._known = {message.number: message for message in grant.messages}

    @property
    def heard(self) -> int:
        number = 0
        while number + 1 in self._known:
            number += 1
        return number

    def hear(self, message: TaskMessage) -> None:
        self._known.setdefault(message.number, message)
        self._copy()

    def open(self) -> None:
        """The agent is ours."""
        self._is_open = True
        self._copy()

    def _copy(self) -> None:
        agent = self._session.agent
        while self._is_open and not is_over(agent) and agent.parked is None and agent.messages + 1 in self._known:
            message = self._known[agent.messages + 1]
            self._session.do(_received(message))
            agent = self._session.agent
            if message.mode == MessageMode.MESSAGE_MODE_INTERRUPT:
                self._control.interrupt()


def _received(message: TaskMessage) -> ReceiveMessage:
    return ReceiveMessage(message_id=message.message_id, number=message.number, mode=message.mode, text=message.text)
