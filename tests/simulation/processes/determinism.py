"""What the services ask their surroundings for comes from the simulation: time, randomness, and the world outside.

It is put into the modules for good, so it is only done in a process that does nothing else (tests/simulation/campaign).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from random import Random
from typing import Any

from tests.simulation.processes.loop import wall_nanos


class SimulatedTime:
    """In place of the module `time`."""

    @staticmethod
    def time() -> float:
        return wall_nanos() / 1e9

    @staticmethod
    def time_ns() -> int:
        return wall_nanos()

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def perf_counter() -> float:
        return asyncio.get_running_loop().time()


class SimulatedSecrets:
    """In place of the module `secrets`."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def token_hex(self, length: int = 32) -> str:
        return self._chance.randbytes(length).hex()

    def token_urlsafe(self, length: int = 32) -> str:
        return self._chance.randbytes(length).hex()


def replace_surroundings(chance: Random) -> None:
    """In every module of the project that is loaded."""
    stand_ins: dict[int, Any] = {
        id(time): SimulatedTime(),
        id(secrets): SimulatedSecrets(chance),
        id(random): chance,
    }
    for module in _modules():
        for name, value in list(vars(module).items()):
            if id(value) in stand_ins:
                setattr(module, name, stand_ins[id(value)])


def replace_everywhere(original: Any, stand_in: Any) -> None:
    """Wherever a module of the project has imported it by name."""
    for module in _modules():
        for name, value in list(vars(module).items()):
            if value is original:
                setattr(module, name, stand_in)


def _modules() -> list[Any]:
    return [module for name, module in list(sys.modules.items()) if name.startswith("crewlog.")]
