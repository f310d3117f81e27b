"""Signals, limits and what tasks wait for, against a gateway that remembers what it was asked, over real gRPC."""

from __future__ import annotations

from crewlog.cli.exits import ExitCode
from crewlog.v1.admission_pb2 import AdmissionDimension, SetAdmissionLimit
from crewlog.v1.run_pb2 import SignalRun
from crewlog.v1.waiting_pb2 import ExplainWaiting

from tests.service.cli.remembering import Crewlog, Remembering


async def test_a_signal_carries_its_data(crewlog: Crewlog, remembering: Remembering) -> None:
    done = await crewlog("signal", "demo", "approved", "--data", '{"ok": true}', "--request-id", "r-1")
    assert done.returncode == ExitCode.OK
    expected = SignalRun(run_id="demo", name="approved", payload_json='{"ok": true}', request_id="r-1")
    assert remembering.asked == [expected]


async def test_data_that_is_not_json_is_not_sent(crewlog: Crewlog, remembering: Remembering) -> None:
    done = await crewlog("signal", "demo", "approved", "--data", "{")
    assert done.returncode != ExitCode.OK
    assert "is not JSON" in done.stderr
    assert not remembering.asked


async def test_a_limit_is_set(crewlog: Crewlog, remembering: Remembering) -> None:
    done = await crewlog("limits", "set", "role", "implementer", "4")
    assert done.returncode == ExitCode.OK
    role = AdmissionDimension.ADMISSION_DIMENSION_ROLE
    assert remembering.asked == [SetAdmissionLimit(dimension=role, name="implementer", tasks_max=4)]


async def test_what_a_task_waits_for_is_listed(crewlog: Crewlog, remembering: Remembering) -> None:
    done = await crewlog("runs", "--why-waiting", "demo")
    assert done.returncode == ExitCode.OK
    assert "4 of 4 at work" in done.stdout
    assert remembering.asked == [ExplainWaiting(run_id="demo")]
