"""`python -m bench [FIGURE ...]`: runs the workloads, prints a table, writes bench/results/latest.json."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from crewlog.cli.launcher.platform import Platform
from crewlog.eventlog.jetstream import connect_log
from rich.console import Console
from rich.table import Table

from bench import agents, budgets, floors, graphs, kills, processes, workloads
from bench.runs import Client, client

RESULTS = Path(__file__).parent / "results" / "latest.json"
SETTLE_SECONDS = 3.0
EXECUTOR_SLOTS = 128
WORKLOADS: dict[str, Callable[[Client, Platform], Awaitable[dict[str, float]]]] = {
    "W1": workloads.w1,
    "W1t": workloads.w1t,
    "W2": workloads.w2,
    "W3": graphs.w3,
    "W3c": graphs.w3c,
    "W3f": workloads.w3f,
    "map10k": graphs.large,
    "long": graphs.long,
    "W6": workloads.w6,
    "W8": workloads.w8,
    "turn": agents.sandboxed_turn,
    "W5": kills.w5,
    "waiting": graphs.waiting,
}
# The first targets, to be beaten later: what a figure may be at most, or at least where it is a rate.
TARGETS = {
    "W1.p50_ms": 2.0,
    "W1t.p50_ms": 4.0,
    "W2.steps_per_s": 500.0,
    "W4.overhead_ms_per_step": 3.0,
    "W7.idle_mib": 400.0,
    "W7.ready_s": 2.5,
    "W8.p50_ms": 8.0,
}


async def measure(only: set[str]) -> dict[str, float]:
    """Every figure that was asked for; all of them where none was named."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="crewlog-bench-") as name:
        directory = Path(name)
        repository = new_repository(directory / "repository")
        (directory / "script.yaml").write_text(agents.script())
        began = time.perf_counter()
        platform = Platform(directory / "data", scripted_model=directory / "script.yaml", executor_slots=EXECUTOR_SLOTS)
        async with platform:
            figures["W7.ready_s"] = time.perf_counter() - began
            async with client(platform, str(repository)) as bench_client:
                await _measure(only, platform, bench_client, repository, figures)
    return {key: value for key, value in figures.items() if not only or key.partition(".")[0] in only | _beside(only)}


async def _measure(
    only: set[str], platform: Platform, bench_client: Client, repository: Path, figures: dict[str, float]
) -> None:
    await asyncio.sleep(SETTLE_SECONDS)
    figures["W7.idle_mib"] = processes.pss_mib(processes.tree(platform))
    if not only or only & {"fsync", "nats", "append"}:
        figures |= await _floors(platform)
    if not only or "budget" in only:
        figures |= await _budgets(platform)
    for name, workload in WORKLOADS.items():
        if not only or name in only:
            figures |= await workload(bench_client, platform)
    if not only or "W4" in only:
        url = f"http://{platform.plan.address('model')}"
        figures |= await agents.w4(bench_client, platform, url, repository / agents.FILE)


async def _budgets(platform: Platform) -> dict[str, float]:
    passwords = platform.plan.credentials.log_passwords
    log = await connect_log(platform.plan.log_url, "operator", passwords["operator"], name="bench")
    try:
        return await budgets.measure(log)
    finally:
        await log.close()


async def _floors(platform: Platform) -> dict[str, float]:
    passwords = platform.plan.credentials.log_passwords
    log = await connect_log(platform.plan.log_url, "operator", passwords["operator"], name="bench")
    try:
        return {
            "fsync.p50_ms": floors.fsync_millis(platform.directory.path),
            "nats.p50_ms": await floors.raw_nats_millis(log),
            "append.p50_ms": await floors.append_millis(log),
            "nats.per_s": await floors.raw_nats_per_second(log),
            "append.per_s": await floors.append_per_second(log),
        }
    finally:
        await log.close()


def new_repository(path: Path) -> Path:
    path.mkdir()
    (path / agents.FILE).write_text("x" * agents.FILE_BYTES)
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for arguments in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "bench")):
        subprocess.run(("git", "-C", str(path), *arguments), check=True)
    return path


def _beside(only: set[str]) -> set[str]:
    """Figures that come with another workload."""
    return {"next"} if "long" in only else set()


def show(figures: dict[str, float]) -> None:
    table = Table("figure", "measured", "target")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}", f"{TARGETS[name]:g}" if name in TARGETS else "")
    Console().print(table)


def main() -> int:
    figures = asyncio.run(measure(set(sys.argv[1:])))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
