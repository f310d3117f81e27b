"""A client in another language needs nothing of ours: it learns the API by reflection, starts a run and watches it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from crewlog.cli.launcher.platform import Platform

CLIENT = Path(__file__).resolve().parent / "node"
INSTALL_SECONDS_MAX = 120.0
WATCH_SECONDS_MAX = 60.0
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@localhost")

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed on this machine"
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with its packages, in a directory of its own: the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("node")
    for path in CLIENT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    done = subprocess.run(
        ["npm", "ci", "--no-progress"], cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX
    )
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT")):
        pytest.skip("npm cannot reach its registry, and the packages of the client are not in its cache")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", path], check=True)
    commit = ["git", *IDENTITY, "-C", str(path), "commit", "--quiet", "--allow-empty", "--message", "first"]
    subprocess.run(commit, check=True)
    return path


@needs_node
@pytest.mark.slow
async def test_a_node_client_starts_and_watches_a_run(packages: Path, repository: Path, tmp_path: Path) -> None:
    async with Platform(tmp_path / "data", sandbox="none") as platform:
        lines = await _client(packages, platform, repository, "from-node")
        again = await _client(packages, platform, repository, "from-node")
    *events, last = lines
    assert last["run"]["status"] == "RUN_STATUS_SUCCEEDED"
    assert [event["type"] for event in events if event["kind"] == "run"] == [
        "run_started",
        *("task_claimed", "task_succeeded"),
        *("task_claimed", "task_succeeded"),
        "run_succeeded",
    ]
    assert _ordinals(events) == {
        "from-node": list(range(1, 5)),
        "from-node_first-1": list(range(1, 4)),
        "from-node_second-1": list(range(1, 3)),
    }
    revisions = [int(event["revision"]) for event in events]
    assert revisions == sorted(revisions)
    assert again[:-1] == events
    assert again[-1]["run"] == last["run"]


@needs_node
@pytest.mark.slow
async def test_a_node_client_with_a_wrong_token_learns_nothing_it_can_use(
    packages: Path, repository: Path, tmp_path: Path
) -> None:
    async with Platform(tmp_path / "data", sandbox="none") as platform:
        code, output, errors = await _run(packages, platform.gateway_address, "wrong", repository, "from-node")
    assert (code, output) == (1, "")
    assert "UNAUTHENTICATED" in errors


def _ordinals(events: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Of each aggregate, once for each entry."""
    seen: dict[str, list[int]] = {}
    for event in events:
        ordinals = seen.setdefault(event["id"], [])
        if int(event["ordinal"]) not in ordinals:
            ordinals.append(int(event["ordinal"]))
    return seen


async def _client(packages: Path, platform: Platform, repository: Path, run_id: str) -> list[dict[str, Any]]:
    code, output, errors = await _run(packages, platform.gateway_address, platform.token, repository, run_id)
    assert code == 0, errors
    return [json.loads(line) for line in output.splitlines()]


async def _run(packages: Path, address: str, token: str, repository: Path, run_id: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *("node", "client.js", address, str(repository), run_id),
        cwd=packages,
        env={"PATH": os.environ["PATH"], "CREWLOG_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(WATCH_SECONDS_MAX):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()
