"""`crewlog up` as a person starts it: one process that holds everything, stops everything, and survives everything."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from crewlog.cli.exits import ExitCode
from crewlog.cli.launcher import ports
from crewlog.cli.launcher.children import HAND_OVER_SECONDS_MAX, STOP_SECONDS_MAX
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.cli.launcher.environment import LOG, SERVICES
from crewlog.cli.launcher.platform import PORT_CHOICES_MAX, Platform
from crewlog.domain.errors import Unavailable, WrongState
from crewlog.runtime.channel import dial
from crewlog.v1.project_pb2 import RegisterProject
from crewlog.v1.project_pb2_grpc import ProjectServiceStub
from crewlog.v1.run_pb2 import GetRun, Node, NoopNode, RunStatus, RunView, StartRun, Workflow
from crewlog.v1.run_service_pb2 import WatchRun
from crewlog.v1.run_service_pb2_grpc import RunServiceStub

SECONDS_MAX = 90.0
SECRET = "sk-ant-canary-7d2f"
CHILDREN = (*SERVICES, LOG)


@dataclass
class Up:
    """A running `crewlog up`."""

    process: subprocess.Popen[str]
    data_dir: Path
    said: Path

    def pids(self) -> dict[str, int]:
        endpoints = DataDirectory(self.data_dir).read_endpoints()
        assert endpoints is not None
        return endpoints.pids

    def text(self) -> str:
        return self.said.read_text()


def _arguments(data_dir: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "crewlog.cli", "up", "--data-dir", str(data_dir), "--sandbox", "none")


def _until(condition: Callable[[], bool], seconds: float = SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def _up(data_dir: Path, said: Path, environment: dict[str, str] | None = None) -> Iterator[Up]:
    with said.open("w") as file:
        process = subprocess.Popen(
            _arguments(data_dir), stderr=file, text=True, env={**os.environ, **(environment or {})}
        )
    try:
        _until(lambda: "is ready" in said.read_text() or process.poll() is not None)
        assert process.poll() is None, said.read_text()
        yield Up(process, data_dir, said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(SECONDS_MAX)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """One that may be stopped and killed."""
    with _up(tmp_path / "data", tmp_path / "said") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that is only looked at, or heals."""
    folder = tmp_path_factory.mktemp("up")
    with _up(folder / "data", folder / "said", {"ANTHROPIC_API_KEY": SECRET}) as running:
        yield running


def test_a_second_one_is_refused_and_the_first_goes_on(shared: Up) -> None:
    second = subprocess.run(_arguments(shared.data_dir), capture_output=True, text=True, check=False)
    assert second.returncode == ExitCode.FAILED
    assert second.stderr.splitlines() == [
        f"crewlog: crewlog is already running on {shared.data_dir} (process {shared.process.pid})",
        f"  stop it with `crewlog down --data-dir {shared.data_dir}`, or give another --data-dir",
    ]
    assert all(_lives(pid) for pid in shared.pids().values())


def test_a_signal_stops_everything_in_time(up: Up) -> None:
    pids = up.pids()
    assert pids.keys() == set(CHILDREN)
    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(SECONDS_MAX) == ExitCode.OK
    assert time.monotonic() - began < HAND_OVER_SECONDS_MAX, "executors without work hand over nothing"
    assert not any(_lives(pid) for pid in pids.values())
    assert not DataDirectory(up.data_dir).endpoints_path.exists()


def test_a_service_that_hangs_does_not_hold_it_up(up: Up) -> None:
    pids = up.pids()
    for name in SERVICES:
        os.kill(pids[name], signal.SIGSTOP)
    began = time.monotonic()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(SECONDS_MAX) == ExitCode.OK
    assert time.monotonic() - began < HAND_OVER_SECONDS_MAX + STOP_SECONDS_MAX, "it was waited for as if it handed over"
    assert not any(_lives(pid) for pid in pids.values())
    assert "does not stop" in up.text()


def test_children_end_with_a_launcher_that_was_killed(up: Up) -> None:
    pids = up.pids()
    up.process.kill()
    _until(lambda: not any(_lives(pid) for pid in pids.values()))


def test_what_a_killed_launcher_left_behind_is_ended(up: Up, tmp_path: Path) -> None:
    """A child that hangs at that moment does not see that its launcher is gone."""
    pids = up.pids()
    os.kill(pids["gateway"], signal.SIGSTOP)
    up.process.kill()
    up.process.wait(SECONDS_MAX)
    with _up(up.data_dir, tmp_path / "again") as again:
        assert f"ended gateway (process {pids['gateway']}), left over from an earlier start" in again.text()
        assert not _lives(pids["gateway"])


def test_a_service_that_dies_is_started_again_and_it_is_said(shared: Up) -> None:
    for name in (*SERVICES, LOG):
        pid = shared.pids()[name]
        os.kill(pid, signal.SIGKILL)
        _until(lambda name=name: f"{name} is back" in shared.text())  # type: ignore[misc]
        assert f"{name} (process {pid}) was ended by SIGKILL; starting it again in" in shared.text()
        _until(lambda name=name, pid=pid: shared.pids()[name] not in (0, pid))  # type: ignore[misc]


def test_secrets_go_where_they_are_needed_and_nowhere_else(shared: Up) -> None:
    environments = {name: Path(f"/proc/{pid}/environ").read_text() for name, pid in shared.pids().items()}
    token = DataDirectory(shared.data_dir).read_token()
    assert [name for name, text in environments.items() if SECRET in text] == ["gateway"]
    assert [name for name, text in environments.items() if token in text] == ["gateway"]
    arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in shared.pids().values()]
    assert not any(secret in text for text in arguments for secret in (SECRET, token))
    kept = [path for path in shared.data_dir.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []


def test_nobody_else_can_read_the_data_directory(shared: Up) -> None:
    assert stat.S_IMODE(shared.data_dir.stat().st_mode) == 0o700
    for name in ("token", "endpoints.json"):
        assert stat.S_IMODE((shared.data_dir / name).stat().st_mode) == 0o600


def test_endpoints_say_where_it_is(shared: Up) -> None:
    endpoints = json.loads((shared.data_dir / "endpoints.json").read_text())
    assert endpoints["pid"] == shared.process.pid
    assert endpoints["gateway"].startswith("127.0.0.1:")


@pytest.fixture
def lose_ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """`lose_ports("git", 1)`: the port that is chosen for git has another owner before git can bind it, once."""
    choose, owners = ports.choose, list[socket.socket]()

    def lose(name: str, times: int) -> None:
        def choose_and_lose(names: Iterable[str], wanted: Mapping[str, int]) -> dict[str, int]:
            chosen = choose(names, wanted)
            if len(owners) < times:
                owners.append(socket.create_server((ports.LOOPBACK, chosen[name])))
            return chosen

        monkeypatch.setattr(ports, "choose", choose_and_lose)

    yield lose
    for owner in owners:
        owner.close()


@pytest.mark.parametrize("name", ["git", LOG])
async def test_a_port_that_was_taken_in_between_is_replaced(
    tmp_path: Path, lose_ports: Callable[[str, int], None], name: str
) -> None:
    lose_ports(name, 1)
    said: list[str] = []
    async with Platform(tmp_path / "data", sandbox="none", say=said.append) as platform:
        assert platform.pid_of(name) and not platform.restarts_of(name)
    [taken] = _about_ports(said)
    assert f"of {name} in between" in taken


async def test_ports_are_chosen_again_a_few_times_and_not_for_ever(
    tmp_path: Path, lose_ports: Callable[[str, int], None]
) -> None:
    lose_ports(LOG, PORT_CHOICES_MAX)
    said: list[str] = []
    with pytest.raises(Unavailable, match=f"{LOG} did not start"):
        await Platform(tmp_path / "data", sandbox="none", say=said.append).start()
    assert len(_about_ports(said)) == PORT_CHOICES_MAX - 1


def _about_ports(said: list[str]) -> list[str]:
    """On a busy machine it is also said that a service takes its time to stop."""
    return [line for line in said if "took port" in line]


async def test_fault_31_a_log_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    async with Platform(tmp_path / "data", sandbox="none"):
        pass
    (tmp_path / "data" / "nats" / "jetstream").rename(tmp_path / "elsewhere")
    with pytest.raises(WrongState, match="is gone: it was"):
        await Platform(tmp_path / "data", sandbox="none").start()
    shutil.rmtree(tmp_path / "data" / "nats" / "jetstream")
    (tmp_path / "elsewhere").rename(tmp_path / "data" / "nats" / "jetstream")
    async with Platform(tmp_path / "data", sandbox="none"):
        pass


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    (path / "a.txt").write_text("a")
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "one")):
        subprocess.run(("git", *arguments), cwd=path, check=True)
    return path


async def _start(directory: DataDirectory, repository: Path, steps: int) -> None:
    nodes = [Node(node_id=name, noop=NoopNode(steps=steps), depends_on=on) for name, on in (("a", []), ("b", ["a"]))]
    async with _dial(directory) as channel:
        project = await ProjectServiceStub(channel).Register(RegisterProject(path=str(repository)))
        workflow = Workflow(name="nothing", nodes=nodes)
        request = StartRun(run_id="demo", project_id=project.project_id, workflow=workflow, input="nothing")
        await RunServiceStub(channel).Start(request)


async def _end(directory: DataDirectory) -> RunView:
    async with _dial(directory) as channel, asyncio.timeout(SECONDS_MAX):
        runs = RunServiceStub(channel)
        async for _ in runs.Watch(WatchRun(run_id="demo")):
            pass
        return await runs.Get(GetRun(run_id="demo"))


def _dial(directory: DataDirectory) -> grpc.aio.Channel:
    endpoints = directory.read_endpoints()
    assert endpoints is not None
    return dial(endpoints.gateway, directory.read_token())


def test_after_a_kill_of_everything_the_next_one_goes_on(up: Up, tmp_path: Path, repository: Path) -> None:
    directory = DataDirectory(up.data_dir)
    address, token = directory.read_endpoints(), directory.read_token()
    asyncio.run(_start(directory, repository, steps=500))
    for pid in (up.process.pid, *up.pids().values()):
        os.kill(pid, signal.SIGKILL)
    up.process.wait(SECONDS_MAX)
    assert directory.holder() == 0
    with _up(up.data_dir, tmp_path / "again"):
        again = directory.read_endpoints()
        assert address is not None
        assert again is not None
        assert (again.gateway, directory.read_token()) == (address.gateway, token)
        assert asyncio.run(_end(directory)).status == RunStatus.RUN_STATUS_SUCCEEDED
