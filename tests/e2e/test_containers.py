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
from crewlog.runtime.channel import dial
from crewlog.v1.events_pb2 import GetStatus
from crewlog.v1.events_pb2_grpc import EventServiceStub

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("git", "scheduler", "executor", "gateway")
READY_SECONDS_MAX = 60.0
TOOLS = ROOT / "tools" / "containers"


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
        stage.start(name, compose["services"][name])
    async with dial(stage.address("gateway:7700"), stage.token) as channel:
        status = await EventServiceStub(channel).Status(GetStatus())
    assert status.epoch
    assert status.head_revision == status.projected_revision == 0


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

    def address(self, text: str) -> str:
        """`gateway:7700` on this machine."""
        return f"127.0.0.1:{self._ports.setdefault(text, _free_port())}"

    def start(self, name: str, service: dict[str, Any]) -> None:
        """Returns when it is healthy, or has done what it is for."""
        environment = self._environment(service)
        program = subprocess.Popen(
            self._command(service["command"]), env=environment, cwd=self._directory, start_new_session=True
        )
        self._running.append(program)
        if service["restart"] == "no":
            assert program.wait(READY_SECONDS_MAX) == 0
            return
        check = self._command(service["healthcheck"]["test"][1:])
        deadline = time.monotonic() + READY_SECONDS_MAX
        while subprocess.run(check, env=environment, stderr=subprocess.DEVNULL, check=False).returncode:
            assert program.poll() is None, f"{name} has ended"
            assert time.monotonic() < deadline, f"{name} is not healthy"

    def stop(self) -> None:
        for program in reversed(self._running):
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGTERM)
                program.wait(READY_SECONDS_MAX)

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        files = (self._secrets / Path(name).name for name in service["env_file"])
        secret = (line.partition("=") for file in files for line in file.read_text().splitlines())
        plain = {name: self._here(str(value)) for name, value in service.get("environment", {}).items()}
        return {"PATH": os.environ["PATH"], **plain, **{name: value.strip("'") for name, _, value in secret}}

    def _command(self, words: list[str]) -> list[str]:
        return [sys.executable if word == "python" else self._here(word) for word in words]

    def _here(self, text: str) -> str:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        text = text.replace("/opt/crewlog/containers", str(TOOLS)).replace("/var/lib", str(self._directory))
        text = text.replace("('log', 4222)", str(tuple(self._pair("log:4222"))))
        if text == "4222":
            return str(self._pair("log:4222")[1])
        return re.sub(r"\b(?:log:4222|(?:gateway|scheduler|executor|git):7700)\b", lambda m: self.address(m[0]), text)

    def _pair(self, text: str) -> tuple[str, int]:
        host, _, port = self.address(text).partition(":")
        return host, int(port)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
