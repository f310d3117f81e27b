"""Inside a container of a service: exit status 0 when the service at the address says that it serves."""

from __future__ import annotations

import asyncio
import sys

from crewlog.cli.launcher import readiness

SECONDS_MAX = 4.0


async def check(address: str) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        await readiness.serving(address)


if __name__ == "__main__":
    asyncio.run(check(sys.argv[1]))
