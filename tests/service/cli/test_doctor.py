"""`crewlog doctor` as data, and what it says of a git that is too old."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crewlog.cli.exits import ExitCode
from crewlog.runtime import requirements

from tests.service.cli.remembering import Crewlog


async def test_findings_are_an_array_or_lines(crewlog: Crewlog) -> None:
    array, lines = await crewlog("doctor", "-o", "json"), await crewlog("doctor", "-o", "jsonl")
    found, again = json.loads(array.stdout), [json.loads(line) for line in lines.stdout.splitlines()]
    assert {"git", "nats-server", "platform"} <= {finding["subject"] for finding in found}
    assert [finding["subject"] for finding in again] == [finding["subject"] for finding in found]


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("git version 2.37.9", "missing"),
        ("git version 2.38.0.rc1", "ok"),
        ("git version 3.0", "ok"),
        ("what?", "missing"),
    ],
)
async def test_a_git_that_the_service_would_refuse_is_missing(
    crewlog: Crewlog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, state: str
) -> None:
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\necho '{said}'\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = await crewlog("doctor", "-o", "jsonl")
    [finding] = [each for each in map(json.loads, done.stdout.splitlines()) if each["subject"] == "git"]
    assert finding["state"] == state
    assert (requirements.GIT in finding["what"]) is (state == "missing")
    assert (done.returncode == ExitCode.FAILED) or state == "ok"
