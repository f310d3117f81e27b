"""`python -m bench.growth`: EVENTS and OPEN_RUNS in the environment say how much; prints a table."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from crewlog.cli.launcher.platform import Platform
from crewlog.eventlog.jetstream import connect_log
from crewlog.eventlog.nats_server import NatsServer, new_passwords
from rich.console import Console
from rich.table import Table

from bench.growth import opening, seeding, starts, workload
from bench.growth.histories import History, Line, spread

RESULTS = Path(__file__).parent.parent / "results" / "growth.json"
SLOTS_MAX = 200
# What a figure may be at most.
TARGETS = {
    "remembered.all_moving_s": 10.0,
    "forgotten.all_moving_s": 90.0,
    "opening.run_ms": 200.0,
    "opening.agent_ms": 200.0,
}
Figures = dict[str, float]


async def measure(events: int, open_runs: int) -> Figures:
    """A log of so many events, with so many open runs: opening one, and cold starts without and with checkpoints."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="crewlog-growth-") as name:
        directory = Path(name)
        repository = workload.new_repository(directory / "repository")
        (directory / "script.yaml").write_text(workload.script())
        platform = _platform(directory, open_runs)
        await platform.start()
        try:
            closed, still_open = await workload.histories(platform, repository)
        finally:
            await starts.kill(platform)
        ids = [f"{workload.OPEN[:-6]}{number:06}" for number in range(1, open_runs)]
        figures |= await _seed(directory, closed, [list(still_open.copy(run_id)) for run_id in ids], events)
        starts.forget_everything(directory / "data")
        head = int(figures["events"])
        for state in ("forgotten", "remembered"):
            platform = _platform(directory, open_runs)
            try:
                head = await starts.start(platform, [workload.OPEN, *ids], head, figures, state)
            finally:
                await starts.kill(platform)
    return figures


def _platform(directory: Path, open_runs: int) -> Platform:
    slots = min(SLOTS_MAX, open_runs + 8)
    return Platform(
        directory / "data", scripted_model=directory / "script.yaml", executor_slots=slots, sandbox="none", say=_say
    )


async def _seed(directory: Path, closed: History, still_open: Sequence[Sequence[Line]], events: int) -> Figures:
    """Without an fsync for each, which the server does again from the next start on."""
    began = time.perf_counter()
    passwords = new_passwords()
    server = await asyncio.to_thread(
        NatsServer.start, directory / "data" / "nats", passwords=passwords, sync_always=False
    )
    try:
        log = await connect_log(server.url, "operator", passwords["operator"], name="growth")
        head = await log.head()
        await seeding.fill(log, spread(_closed(closed), still_open, events - head))
        figures = {"seeding_s": time.perf_counter() - began} | await opening.measure(log)
        figures["events"] = float(await log.head())
        await log.close()
    finally:
        await asyncio.to_thread(server.stop)
    return figures


def _closed(history: History) -> Iterator[Line]:
    for number in itertools.count(1):
        yield from history.copy(f"{history.run_id[:-6]}{number:06}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def show(figures: Figures) -> None:
    table = Table("figure", "measured", "at most")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}", f"{TARGETS[name]:g}" if name in TARGETS else "")
    Console().print(table)


def main() -> int:
    figures = asyncio.run(measure(int(os.environ.get("EVENTS", "1000000")), int(os.environ.get("OPEN_RUNS", "100"))))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures)
    return 1 if any(figures.get(name, 0.0) > most for name, most in TARGETS.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
