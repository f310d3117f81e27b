"""Claims whose executor is gone, is silent, or does not move: they lapse, so that another executor takes the task over.

Before a claim lapses, the agent's log is asked whether the agent has ended. Time counts against an executor only while
this scheduler was listening and leads: every wait begins anew when it starts, and when it was itself held up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator

from crewlog.domain import names
from crewlog.domain.errors import Unavailable
from crewlog.domain.run.state import Run, open_tasks
from crewlog.eventlog.owner import Clock
from crewlog.scheduler import closing
from crewlog.scheduler.closing import Closer
from crewlog.scheduler.ends import Ends
from crewlog.scheduler.fleet import Executor, Fleet, Held, TaskKey, deaf_tasks, lost_tasks, stray_tasks
from crewlog.scheduler.reactor import Reactor
from crewlog.v1.run_pb2 import LapseClaim, TaskResult
from crewlog.v1.scheduler_pb2 import ExecutorReport

CLAIM_SECONDS = 10.0
LOOK_SECONDS = 1.0
STUCK_MARGIN_SECONDS = 30.0
LAPSING_AT_ONCE_MAX = 64

Lost = tuple[Executor, list[tuple[TaskKey, Held]], str]
"""Claims of an executor that lapse, and why."""

logger = logging.getLogger(__name__)


class Claims:
    def __init__(
        self,
        ends: Ends,
        fleet: Fleet,
        reactor: Reactor,
        closer: Closer,
        clock: Clock,
        claim_seconds: float = CLAIM_SECONDS,
        may_judge: Callable[[], bool] = lambda: True,
    ) -> None:
        self._ends = ends
        self._fleet = fleet
        self._reactor = reactor
        self._closer = closer
        self._clock = clock
        self._claim_seconds = claim_seconds
        self._may_judge = may_judge
        self._waits: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(LAPSING_AT_ONCE_MAX)

    def connected(self, executor_id: str) -> Executor:
        """A stream was opened. Earlier processes of its name are gone, and maybe what an earlier stream was told."""
        executor = self._fleet.connect(executor_id)
        executor.heard_at = _now()
        for run_id in {run_id for run_id, _ in executor.held}:
            self._reactor.wake(run_id)
        for key in executor.held:
            self._spawn(self._reactor.repeat_allotment(*key))
        for older in self._fleet.older_boots(executor):
            self._spawn(self._lapse(older, list(older.held.items()), "its executor was started again"))
        return executor

    def reported(self, executor: Executor, report: ExecutorReport) -> None:
        executor.slots, executor.labels = report.slots, frozenset(report.labels)
        executor.heard_at, executor.is_silent = _now(), False
        for task in report.running:
            held = executor.held.get((task.run_id, task.task_id))
            if held is not None and held.generation == task.generation:
                held.saw(task, executor.heard_at)
        self._compare(executor, report)
        self._reactor.feed()

    def _compare(self, executor: Executor, report: ExecutorReport) -> None:
        """What it does against what it should do."""
        lost = lost_tasks(executor, report)
        if lost:
            self._spawn(self._lapse(executor, lost, "its executor does not work on it"))
        for stop in stray_tasks(executor, report):
            self._fleet.stop(executor.executor_id, stop)
        for key in deaf_tasks(executor, report):
            self._spawn(self._reactor.repeat_messages(*key))

    def disconnected(self, executor: Executor) -> None:
        executor.connections -= 1
        if not executor.connections:
            executor.heard_at = _now()
            self._fleet.forget_idle(executor)

    async def watch(self) -> None:
        """Looks at every executor again and again, until it is cancelled."""
        looked_at = _now()
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._claim_seconds / 4))
            held_up_seconds, looked_at = _now() - looked_at, _now()
            if held_up_seconds > LOOK_SECONDS * 3 or not self._may_judge():
                self._begin_anew(looked_at)
            for executor, claims, reason in list(self._lost(looked_at)):
                await self._lapse(executor, claims, reason)

    async def recover(self, run: Run) -> None:
        """Takes the tasks of a run away from their executors, because somebody asks for it."""
        run_id = run.started.run_id
        for task in open_tasks(run):
            executor = self._fleet.executors.get(task.executor_id)
            held = executor.held.get((run_id, task.task_id)) if executor is not None else None
            if executor is not None and held is not None and held.generation:
                await self._lapse(executor, [((run_id, task.task_id), held)], "somebody has taken it away")

    def _begin_anew(self, now: float) -> None:
        """Nobody is blamed for what we have not heard."""
        for executor in self._fleet.executors.values():
            executor.heard_at = now
            for held in executor.held.values():
                held.moved_at = now if held.moved_at else 0.0

    def _lost(self, now: float) -> Iterator[Lost]:
        for executor in list(self._fleet.executors.values()):
            if now - executor.heard_at > self._claim_seconds:
                executor.is_silent = bool(executor.connections)
                reason = "its executor does not report" if executor.connections else "its executor is gone"
                yield executor, list(executor.held.items()), reason
                continue
            stuck = [item for item in executor.held.items() if item[1].is_stuck(now, STUCK_MARGIN_SECONDS)]
            if stuck:
                yield executor, stuck, "its executor lives, and does not get on with it"

    async def resume(self, run: Run) -> None:
        """Takes over what another scheduler had granted, or had not yet reacted to."""
        run_id = run.started.run_id
        for task in open_tasks(run):
            if self._fleet.knows(task.executor_id, (run_id, task.task_id), task.generation):
                continue
            if task.executor_id == closing.EXECUTOR_ID:
                self._closer.close(run, task)
                continue
            end = await self._ends.at_a_glance(run_id, task.task_id, task.generation)
            if end is not None:
                self._reactor.wake(run_id, end)
                continue
            self._fleet.hold(task.executor_id, (run_id, task.task_id), self._fleet.claimed(run, task), _now())

    async def look_again(self, run: Run, is_moving: Callable[[str], bool]) -> None:
        """Finds ends that nobody has reacted to, and claims that nobody knows of. Agents that are known to move are not
        looked up in the log."""
        run_id = run.started.run_id
        await self.resume(run)
        for task in open_tasks(run):
            if task.executor_id == closing.EXECUTOR_ID or is_moving(names.agent_id(run_id, task.task_id)):
                continue
            end = await self._ends.at_a_glance(run_id, task.task_id, task.generation)
            if end is not None:
                self._reactor.wake(run_id, end)

    def stop(self) -> None:
        for wait in self._waits:
            wait.cancel()

    async def _lapse(self, executor: Executor, claims: list[tuple[TaskKey, Held]], reason: str) -> None:
        await asyncio.gather(*(self._lapse_one(executor, key, held, reason) for key, held in claims))

    async def _lapse_one(self, executor: Executor, key: TaskKey, held: Held, reason: str) -> None:
        async with self._gate:
            if executor.held.get(key) is not held or not held.generation:
                return
            try:
                end, so_far = await self._ends.of(*key, held.generation)
            except Unavailable as error:
                logger.warning("task %s of run %s is looked at later: %s", key[1], key[0], error)
                held.is_lost = True
                return
            self._fleet.release(executor.executor_id, key, held.generation)
            command = end or _lapsed(key, held, reason, so_far, self._clock())
            logger.info("task %s of run %s: %s", key[1], key[0], reason)
            self._reactor.wake(key[0], command)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)


def _lapsed(key: TaskKey, held: Held, reason: str, so_far: TaskResult | None, at: int) -> LapseClaim:
    return LapseClaim(
        run_id=key[0],
        task_id=key[1],
        generation=held.generation,
        reason=reason,
        at_unix_micros=at,
        so_far=so_far,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
