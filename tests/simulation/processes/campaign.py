"""One simulation: disasters for a while, then everything is mended, and every run has to come to its end."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crewlog.domain.errors import WrongState
from crewlog.domain.run import state as run_state
from crewlog.eventlog import codec
from crewlog.v1.entry_pb2 import Entry

from tests.simulation.processes import checks
from tests.simulation.processes.controls import CONTROLS
from tests.simulation.processes.disasters import Disasters
from tests.simulation.processes.log import Disk
from tests.simulation.processes.loop import NothingLeft, VirtualLoop
from tests.simulation.processes.network import pass_time
from tests.simulation.processes.people import People
from tests.simulation.processes.platform import GIT, Platform, left_behind

LIVENESS_SECONDS = 14_400.0
"""An agent may use an hour, and be tried again at a time that a clock which was hours ahead has written."""
SETTLING_SECONDS = 6.0
TRACE_LINES_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much happens, and which disk it happens on."""

    runs: int = 4
    executors: int = 3
    schedulers: int = 2
    seconds: float = 90.0
    liveness_seconds: float = LIVENESS_SECONDS
    disasters_every: float = 6.0
    interference: float = 0.3
    disk: Callable[[], Disk] = Disk

    @classmethod
    def named(cls, name: str) -> Plan:
        return PLANS[name]


PLANS = {
    "many disasters": Plan(),
    "no disasters": Plan(disasters_every=0.0, interference=0.0),
    **{name: Plan(disk=disk, liveness_seconds=120.0) for name, disk in CONTROLS.items()},
}


def simulate(seed: int, plan: Plan) -> dict[str, Any]:
    """A report that can be sent as JSON."""
    directory = Path(tempfile.mkdtemp(prefix="simulation-"))
    loop = VirtualLoop()
    platform = Platform(seed, directory, loop, plan.disk())
    try:
        try:
            loop.run_until_complete(_live(platform, plan))
        except NothingLeft:
            platform.mistakes.append("nothing was left that could happen")
        checks.count(platform)
        return _report(platform, [*platform.mistakes, *_mistakes(platform), *left_behind(loop)])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _mistakes(platform: Platform) -> list[str]:
    try:
        return checks.mistakes(platform)
    except (KeyError, IndexError, WrongState) as damage:
        return [*platform.provider.mistakes, f"the log cannot be folded: {damage!r}"]


async def _live(platform: Platform, plan: Plan) -> None:
    schedulers = [f"scheduler-{number}" for number in range(1, plan.schedulers + 1)]
    platform.schedulers = ",".join(schedulers)
    names = [GIT, *schedulers, *(f"executor-{number}" for number in range(1, plan.executors + 1))]
    for name in names:
        platform.boot(name)
    disasters = Disasters(platform, plan.disasters_every)
    people = People(platform, plan.runs, plan.seconds / 2, plan.interference)
    platform.network.spawn(disasters.restart())
    platform.effects.may_hang = bool(plan.disasters_every)
    if plan.disasters_every:
        platform.network.spawn(disasters.happen())
    starting = platform.clients.start(people.start_all())
    living = platform.clients.start(people.live())
    await pass_time(plan.seconds)
    disasters.mend()
    people.helpful = True
    await _until_all_is_over(platform, people, plan.liveness_seconds)
    await pass_time(SETTLING_SECONDS)
    for work in (starting, living):
        work.cancel()


async def _until_all_is_over(platform: Platform, people: People, seconds: float) -> None:
    deadline = platform.loop.time() + seconds
    while platform.loop.time() < deadline:
        await pass_time(1.0)
        if len(people.started) == len(people.run_ids) and all(
            run_state.is_over(platform.run(run_id)) for run_id in people.run_ids
        ):
            return
    platform.mistakes += list(checks.unfinished(platform, people.run_ids))


def _report(platform: Platform, found: list[str]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for stored in platform.disk.stored:
        digest.update(stored.payload)
    return {
        "seed": platform.seed,
        "mistakes": found,
        "paths": dict(platform.paths),
        "digest": digest.hexdigest(),
        "entries": len(platform.disk.stored),
        "seconds": round(platform.loop.time(), 3),
        "trace": [*platform.trace[:TRACE_LINES_MAX], *_story(platform)] if found else [],
    }


def _story(platform: Platform) -> list[str]:
    """The log, one line for each entry."""
    lines = []
    for stored in platform.disk.stored:
        entry = Entry.FromString(stored.payload)
        facts = " ".join(_short(fact) for fact in codec.facts(entry))
        lines.append(f"{stored.revision:5} {entry.aggregate.kind} {entry.aggregate.id} g{entry.generation}: {facts}")
    return lines


def _short(fact: Any) -> str:
    key = getattr(fact, "key", None)
    where = f"({key.turn},{key.index},{key.attempt})" if key is not None else ""
    task = getattr(fact, "task_id", "")
    return f"{fact.DESCRIPTOR.name}{where}{f'[{task}]' if task else ''}"
