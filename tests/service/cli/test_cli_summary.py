"""What a run that is over tells people to type next."""

from __future__ import annotations

import grpc.aio
import pytest
from crewlog.cli import summary
from crewlog.cli.gateway import of_channel
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.run_pb2 import RunStatus, RunView


@pytest.mark.parametrize(
    ("reason", "is_worth_it"),
    [("command_failed", True), ("expression_failed", False), ("condition_failed", True), ("visits_exhausted", True)],
)
async def test_a_retry_is_proposed_only_where_it_can_find_something_else(reason: str, is_worth_it: bool) -> None:
    view = RunView(run_id="r", status=RunStatus.RUN_STATUS_FAILED, failure=Failure(reason=reason))
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        commands = summary.next_commands(view, of_channel(channel, "127.0.0.1:1"))
    assert any(" retry r" in command for command in commands) == is_worth_it
