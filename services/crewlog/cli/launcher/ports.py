"""Free loopback ports, below the range from which the kernel serves outgoing connections: none of them takes ours."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)
ATTEMPTS_MAX = 200


def choose(names: Iterable[str], wanted: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: the wanted one where nobody listens there now, so that clients find it again."""
    chosen: dict[str, int] = {}
    for name in names:
        port = wanted.get(name, 0)
        chosen[name] = port if port and port not in chosen.values() and is_free(port) else _any(chosen.values())
    return chosen


def taken(ports: Mapping[str, int]) -> dict[str, int]:
    """Those that somebody has now."""
    return {name: port for name, port in ports.items() if not is_free(port)}


def is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _any(taken: Iterable[int]) -> int:
    for port in random.sample(PORTS, ATTEMPTS_MAX):
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no port of {ATTEMPTS_MAX} tried between {PORTS.start} and {PORTS.stop} is free")
