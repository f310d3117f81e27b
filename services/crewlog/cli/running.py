"""`crewlog up` and `crewlog down`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from crewlog.cli import about, config
from crewlog.cli.config import ModelAccess
from crewlog.cli.exits import ExitCode, Failed
from crewlog.cli.launcher import logfiles
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.cli.launcher.platform import Platform
from crewlog.cli.output import say
from crewlog.models.prices import PriceList

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
LOOK_AGAIN_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Settings:
    data_dir: Path
    sandbox: str = "auto"
    model: str = ""
    scripted_model: Path | None = None
    slots: int = 0
    prices: Path | None = None
    executors: int = 1
    schedulers: int = 1
    executor_labels: Sequence[str] = ()
    isolation: str = ""

    def model_access(self) -> ModelAccess:
        found = config.model_access()
        return replace(found, model=self.model or found.model)


def up(settings: Settings) -> int:
    """Runs until it is told to stop."""
    return asyncio.run(_up(settings))


def up_detached(settings: Settings) -> int:
    """Returns when everything answers; `crewlog down` stops it."""
    PriceList.load(settings.prices)
    directory = DataDirectory(settings.data_dir)
    directory.lock().release()
    with directory.log_path("up").open("ab") as log:
        launcher = subprocess.Popen(
            (sys.executable, "-P", "-m", "crewlog.cli", "up", *_arguments(settings)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _wait_until(lambda: _is_ready(directory, launcher.pid) or launcher.poll() is not None, START_SECONDS_MAX)
    if not _is_ready(directory, launcher.pid):
        launcher.kill()
        raise Failed(f"it did not start: {logfiles.last_words(directory.log_path('up'))}")
    _say_ready(directory, settings)
    say(f"  stop it   {about.command()} down --data-dir {settings.data_dir}")
    return ExitCode.OK


def down(data_dir: Path) -> int:
    """Returns when it is gone."""
    directory = DataDirectory(data_dir)
    pid = directory.holder()
    if not pid:
        say(f"no crewlog is running on {data_dir}")
        return ExitCode.OK
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not _wait_until(lambda: not directory.holder(), STOP_SECONDS_MAX):
        raise Failed(f"process {pid} does not stop")
    say("stopped")
    return ExitCode.OK


async def _up(settings: Settings) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    platform = Platform(
        settings.data_dir,
        scripted_model=settings.scripted_model,
        model=settings.model_access(),
        sandbox=settings.sandbox,
        executor_slots=settings.slots,
        executors=settings.executors,
        schedulers=settings.schedulers,
        executor_labels=settings.executor_labels,
        isolation=settings.isolation,
        prices=settings.prices,
        say=say,
    )
    if await _start(platform, stop, settings):
        await stop.wait()
    say("stopping")
    await platform.stop()
    return ExitCode.OK


async def _start(platform: Platform, stop: asyncio.Event, settings: Settings) -> bool:
    """False when it was told to stop before it was ready."""
    began = time.monotonic()
    starting, stopping = asyncio.create_task(platform.start()), asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return False
    starting.result()
    _say_ready(platform.directory, settings, f" after {time.monotonic() - began:.1f} s")
    say("  stop it   Ctrl-C")
    return True


def _say_ready(directory: DataDirectory, settings: Settings, when: str = "") -> None:
    endpoints = directory.read_endpoints()
    say(f"crewlog {about.release()} is ready{when}")
    say(f"  data      {directory.path}")
    say(f"  gateway   {endpoints.gateway if endpoints else ''}  (token in {directory.token_path})")
    say(f"  model     {_model(settings)}")


def _model(settings: Settings) -> str:
    access = settings.model_access()
    if settings.scripted_model:
        return f"scripted: {settings.scripted_model}"
    if not access.api_key:
        return "none: runs that need one fail until ANTHROPIC_API_KEY is set where `crewlog up` is started"
    return f"{access.model or 'the default one'}, with ANTHROPIC_API_KEY"


def _arguments(settings: Settings) -> list[str]:
    arguments = ["--data-dir", str(settings.data_dir), "--sandbox", settings.sandbox, "--slots", str(settings.slots)]
    arguments += ["--executors", str(settings.executors), "--schedulers", str(settings.schedulers)]
    arguments += [word for labels in settings.executor_labels for word in ("--executor-labels", labels)]
    arguments += ["--isolation", settings.isolation] if settings.isolation else []
    arguments += ["--model", settings.model] if settings.model else []
    arguments += ["--prices", str(settings.prices.absolute())] if settings.prices else []
    return arguments + (["--scripted-model", str(settings.scripted_model)] if settings.scripted_model else [])


def _is_ready(directory: DataDirectory, pid: int) -> bool:
    endpoints = directory.read_endpoints()
    return endpoints is not None and endpoints.pid == pid


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_AGAIN_SECONDS)
    return True
