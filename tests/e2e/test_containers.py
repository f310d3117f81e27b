"""What docker-compose.yml starts works together: its commands, variables, secrets, order and health checks.

There is no Docker in these tests. The same programs run here with the same variables; only names of hosts and
directories are replaced by those of this machine. That the file confines them is checked as data.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from crewlog.executor.synchronize import DRAIN_SECONDS
from crewlog.runtime.channel import dial
from crewlog.v1.events_pb2 import GetStatus
from crewlog.v1.events_pb2_grpc import EventServiceStub

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("git", "scheduler", "executor", "gateway")
READY_SECONDS_MAX = 60.0
TOOLS = ROOT / "tools" / "containers"
COPIES = {"scheduler:7700": 2}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


@pytest.mark.parametrize("name", ["log", "log-made", *SERVICES])
def test_a_container_may_do_no_more_than_it_needs(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_only_the_gateway_is_reachable_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:7700:7700"]}


def test_every_container_that_stays_has_a_health_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    staying = {name for name, service in services.items() if service["restart"] == "unless-stopped"}
    assert staying == {name for name, service in services.items() if "healthcheck" in service}


def test_what_may_have_copies_is_told_nothing_that_only_one_can_have(compose: dict[str, Any]) -> None:
    copied = {name: service for name, service in compose["services"].items() if "deploy" in service}
    assert copied.keys() == {"scheduler", "executor"}
    for name, service in copied.items():
        own = {
            key: value for key, value in service["environment"].items() if key.startswith(f"CREWLOG_{name.upper()}_")
        }
        assert own[f"CREWLOG_{name.upper()}_ADDRESS"] == "0.0.0.0:7700"
        assert f"CREWLOG_{name.upper()}_ID" not in own


def test_an_executor_has_the_time_to_hand_over(compose: dict[str, Any]) -> None:
    assert int(compose["services"]["executor"]["stop_grace_period"].rstrip("s")) > DRAIN_SECONDS


def test_only_the_gateway_reads_the_key_of_the_model(compose: dict[str, Any]) -> None:
    reading = {name for name, service in compose["services"].items() if "ANTHROPIC_API_KEY" in str(service)}
    assert reading == {"gateway"}


def test_the_secrets_are_for_their_owner_alone_and_stay(tmp_path: Path) -> None:
    make = [sys.executable, str(TOOLS / "make_secrets.py"), str(tmp_path / "secrets")]
    subprocess.run(make, check=True)
    files = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}
    subprocess.run(make, check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == files


@pytest.mark.slow
async def test_what_the_file_starts_works_together(compose: dict[str, Any], stage: Stage) -> None:
    for name in ("log", "log-made", *SERVICES):
        for copy in range(compose["services"][name].get("deploy", {}).get("replicas", 1)):
            stage.start(name, compose["services"][name], copy)
    async with dial(stage.address("gateway:7700"), stage.token) as channel:
        status = await EventServiceStub(channel).Status(GetStatus())
    assert status.epoch
    assert status.head_revision == status.projected_revision == 0
    assert [is_open(address) for address in stage.addresses("scheduler:7700")] == [True, False]


class Stage:
    """Runs the programs of the file on this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._secrets = directory / "secrets"
        self._ports: dict[str, int] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        subprocess.run([sys.executable, str(TOOLS / "make_secrets.py"), str(self._secrets)], check=True)

    @property
    def token(self) -> str:
        return (self._secrets / "token").read_text()

    def address(self, text: str, copy: int = 0) -> str:
        """`gateway:7700` on this machine."""
        return f"127.0.0.1:{self._ports.setdefault(f'{text}/{copy}', _free_port())}"

    def addresses(self, text: str) -> list[str]:
        """Of all copies: what the name stands for."""
        return [self.address(text, copy) for copy in range(COPIES.get(text, 1))]

    def start(self, name: str, service: dict[str, Any], copy: int = 0) -> None:
        """Returns when it is healthy, or has done what it is for."""
        own = self.address(f"{name}:7700", copy)
        environment = {**self._environment(service, own), "HOSTNAME": f"{name}{copy}"}
        command = self._command(service["command"], own)
        program = subprocess.Popen(command, env=environment, cwd=self._directory, start_new_session=True)
        self._running.append(program)
        if service["restart"] == "no":
            assert program.wait(READY_SECONDS_MAX) == 0
            return
        check = self._command(service["healthcheck"]["test"][1:], own)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while subprocess.run(check, env=environment, stderr=subprocess.DEVNULL, check=False).returncode:
            assert program.poll() is None, f"{name} has ended"
            assert time.monotonic() < deadline, f"{name} is not healthy"

    def stop(self) -> None:
        for program in reversed(self._running):
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGTERM)
                program.wait(READY_SECONDS_MAX)

    def _environment(self, service: dict[str, Any], own: str) -> dict[str, str]:
        files = (self._secrets / Path(name).name for name in service["env_file"])
        secret = (line.partition("=") for file in files for line in file.read_text().splitlines())
        plain = {name: self._here(str(value), own) for name, value in service.get("environment", {}).items()}
        return {"PATH": os.environ["PATH"], **plain, **{name: value.strip("'") for name, _, value in secret}}

    def _command(self, words: list[str], own: str) -> list[str]:
        return [sys.executable if word == "python" else self._here(word, own) for word in words]

    def _here(self, text: str, own: str) -> str:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        text = text.replace("/opt/crewlog/containers", str(TOOLS)).replace("/var/lib", str(self._directory))
        text = text.replace("('log', 4222)", str(tuple(self._pair("log:4222"))))
        if text == "4222":
            return str(self._pair("log:4222")[1])
        if text in ("0.0.0.0:7700", "127.0.0.1:7700"):
            return own
        names = r"\b(?:log:4222|(?:gateway|scheduler|executor|git):7700)\b"
        return re.sub(names, lambda found: ",".join(self.addresses(found[0])), text)

    def _pair(self, text: str) -> tuple[str, int]:
        host, _, port = self.address(text).partition(":")
        return host, int(port)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.stop()


def is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
