"""What goes wrong while runs are under way, drawn from the seed; then everything is mended."""

from __future__ import annotations

from tests.simulation.processes.loop import MICROS, Process
from tests.simulation.processes.model import Moods
from tests.simulation.processes.network import ANY, Weather, pass_time
from tests.simulation.processes.platform import Platform

RESTART_SECONDS = (0.1, 1.0, 15.0)
STEPS_TO_DEATH = 400
HOUR, DAY = 3_600 * MICROS, 86_400 * MICROS


class Disasters:
    """One at a time or several together, until `mend`."""

    def __init__(self, platform: Platform, every_seconds: float) -> None:
        self._platform = platform
        self._chance = platform.chance
        self._every = every_seconds
        self._is_over = False

    async def happen(self) -> None:
        self._be_unkind()
        kinds = (
            self._kill,
            self._kill,
            self._freeze,
            self._freeze,
            self._cut,
            self._jump,
            self._starve,
            self._upset,
            self._drain,
        )
        while not self._is_over:
            await pass_time(self._every * self._chance.random() * 2)
            if not self._is_over:
                self._chance.choice(kinds)()

    def mend(self) -> None:
        """No more faults: what is down comes back."""
        platform = self._platform
        self._is_over = True
        platform.tell("everything is mended")
        platform.network.heal()
        platform.provider.moods = Moods()
        for name in platform.log_faults.__slots__:
            setattr(platform.log_faults, name, 0.0)
        for process in platform.live.values():
            process.dies_at = 0
            process.go_on()
            # To a clock that is a day behind, what others have written is due in a day.
            process.clock_micros = max(0, process.clock_micros)

    async def restart(self) -> None:
        """Whoever started the processes starts them again."""
        platform = self._platform
        while True:
            await pass_time(0.05)
            for name, process in list(platform.live.items()):
                if not process.is_alive and process not in platform.gone:
                    platform.gone.append(process)
                    platform.tell(f"{name} is dead")
                    platform.network.later(self._chance.choice(RESTART_SECONDS), self._boot, name)

    def _boot(self, name: str) -> None:
        self._platform.boot(name)

    def _be_unkind(self) -> None:
        chance, faults, network = self._chance, self._platform.log_faults, self._platform.network
        rate = chance.choice((0.0, 0.01, 0.05))
        faults.lost = faults.lost_answers = faults.late = faults.unavailable = rate
        faults.false_conflicts = rate / 2
        faults.repeated, faults.reordered = chance.choice((0.0, 0.3, 1.0)), chance.choice((0.0, 0.5))
        network.weather = Weather(chance.choice((0.0, 0.1, 0.5)), rate, chance.choice((0.0, 0.2, 1.0)))
        self._platform.provider.moods = Moods(chance.choice((0.0, 0.1)), chance.choice((0.0, 0.1)), 0.01, 0.01)

    def _victim(self, *kinds: str) -> Process | None:
        living = self._platform.live.items()
        found = [process for name, process in living if process.is_alive and name.startswith(kinds)]
        return self._chance.choice(found) if found else None

    def _kill(self) -> None:
        """At a step from now on, wherever that is."""
        process = self._victim("executor", "scheduler", "executor")
        if process is not None:
            self._did("kill", process)
            process.dies_at = process.steps + self._chance.randrange(1, STEPS_TO_DEATH)

    def _freeze(self) -> None:
        process = self._victim("executor", "executor", "scheduler")
        if process is not None and not process.is_stopped:
            seconds = self._chance.choice((2.0, 15.0, 25.0, 60.0)) * (0.5 + self._chance.random())
            self._did("freeze", process, f"for {seconds:.1f} s")
            process.stop()
            self._platform.network.later(seconds, process.go_on)

    def _cut(self) -> None:
        process = self._victim("executor", "scheduler")
        if process is None:
            return
        other = self._chance.choice(("scheduler-1", "scheduler-2", "log", "git", ANY))
        seconds = self._chance.choice((1.0, 8.0, 15.0, 50.0)) * (0.5 + self._chance.random())
        ways = [(process.name, other), (other, process.name)]
        for source, target in self._chance.choice((ways, ways[:1], ways[1:])):
            self._did("cut", process, f"{source} -> {target} for {seconds:.1f} s")
            self._platform.network.cut(source, target, seconds)

    def _jump(self) -> None:
        process = self._victim("executor", "scheduler")
        if process is not None:
            by = self._chance.choice((HOUR, -HOUR, DAY, -DAY))
            self._did("jump", process, f"the clock by {by // MICROS} s")
            process.clock_micros += by

    def _starve(self) -> None:
        """The log takes nothing for a while."""
        self._platform.paths["log is down"] += 1
        seconds = self._chance.choice((1.0, 7.0, 20.0))
        self._platform.tell(f"the log is down for {seconds} s")
        self._platform.network.cut(ANY, "log", seconds)

    def _upset(self) -> None:
        """The model refuses everybody for a while."""
        self._platform.paths["model is down"] += 1
        before, self._platform.provider.moods = self._platform.provider.moods, Moods(refuses=0.7, breaks=0.5)
        self._platform.network.later(5.0, self._soothe, before)

    def _soothe(self, moods: Moods) -> None:
        if not self._is_over:
            self._platform.provider.moods = moods

    def _drain(self) -> None:
        """SIGTERM."""
        process = self._victim("executor")
        if process is not None:
            self._did("drain", process)
            process.stop_asked.set()

    def _did(self, what: str, process: Process, more: str = "") -> None:
        self._platform.paths[f"{what} {process.name.partition('-')[0]}"] += 1
        self._platform.tell(f"{what} {process.name} {more}")
