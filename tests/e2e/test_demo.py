"""`crewlog demo`, which `make run` calls: it works from nothing, says what is scripted, and leaves nothing running."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crewlog.cli.exits import ExitCode
from crewlog.models.scripted import serve_scripted

SECONDS_MAX = 90.0


def _environment(tmp_path: Path) -> dict[str, str]:
    """Without a key, and without `crewlog` on the path."""
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "crewlog").exists()]
    given = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    return {**given, "PATH": os.pathsep.join(path), "TMPDIR": str(tmp_path)}


def _start(tmp_path: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "crewlog.cli", "demo", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**_environment(tmp_path), **more},
        start_new_session=True,
    )


def _processes_of(tmp_path: Path) -> list[str]:
    """The command lines of processes that were started for this demo: their environment names the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                if str(tmp_path).encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_crew_repairs_the_project_and_the_history_fits(tmp_path: Path) -> None:
    output, errors = (demo := _start(tmp_path)).communicate(timeout=SECONDS_MAX)
    assert demo.returncode == ExitCode.OK, errors
    assert output.startswith("The model is scripted")
    assert "before: 3 run, failures=1" in output
    assert "after:  6 run, all pass" in output
    assert "everything fits" in output
    assert "sends the work back to implementer" in errors
    assert _processes_of(tmp_path) == []
    [root] = tmp_path.glob("crewlog-demo-*")
    branches = subprocess.run(
        ("git", "-C", str(root / "slugger"), "branch", "--list"), capture_output=True, text=True, check=True
    )
    assert "crewlog/repair-slugs" in branches.stdout
    typed = [line for line in output.partition("To look closer:")[2].splitlines() if line.startswith("  ")]
    assert [words[1] for words in map(str.split, typed)][1:] == ["up", "replay", "replay", "trace", "diff", "down"]
    for line in typed:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=_environment(tmp_path), check=False)
        assert done.returncode == ExitCode.OK, done.stderr
    _until(lambda: not _processes_of(tmp_path))


REFUSED = """
name: refused
scripts:
  - steps:
      - say: Never.
        error: {status: 401, type: authentication_error, message: invalid x-api-key}
"""


async def test_a_key_that_is_refused_is_said_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    script = tmp_path / "refused.yaml"
    script.write_text(REFUSED)
    async with serve_scripted(script) as url:
        demo = _start(tmp_path, "--no-keep", ANTHROPIC_API_KEY="sk-refused", ANTHROPIC_BASE_URL=url)
        output, errors = await asyncio.to_thread(demo.communicate, timeout=SECONDS_MAX)
    assert demo.returncode == ExitCode.RUN_PAUSED, errors
    assert output.startswith("The model is real")
    assert "because  model_key_refused: invalid x-api-key" in output
    assert "to do    Set ANTHROPIC_API_KEY" in output
    assert _processes_of(tmp_path) == []


def test_an_interrupt_stops_everything(tmp_path: Path) -> None:
    demo = _start(tmp_path, "--no-keep")
    _until(lambda: any(tmp_path.glob("crewlog-demo-*/data/endpoints.json")) or demo.poll() is not None)
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=SECONDS_MAX)
    assert demo.returncode == ExitCode.INTERRUPTED, errors
    assert "Traceback" not in errors
    assert _processes_of(tmp_path) == []
    assert list(tmp_path.glob("crewlog-demo-*")) == []
