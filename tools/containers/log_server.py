"""Inside the container of the log: writes the configuration of nats-server, and becomes it.

python log_server.py DIRECTORY PORT       nats-server, listening for the other containers
python log_server.py --make-log URL       makes the log in it, once; CREWLOG_NATS_USER and _PASSWORD say as whom
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from crewlog.cli.launcher.log_server import new_epoch
from crewlog.eventlog import nats_server
from crewlog.eventlog.jetstream import create_stream, find_epoch
from crewlog.eventlog.jetstream_leases import create_leases

EVERYONE = "0.0.0.0"


def serve(directory: Path, port: int) -> None:
    """Does not return. The lock is inherited, and held as long as nats-server lives."""
    config = nats_server.write_config(directory, port=port, host=EVERYONE)
    os.set_inheritable(nats_server.lock_directory(directory).fd, True)
    program = str(Path(sys.executable).parent / "nats-server")
    os.execv(program, [program, "--config", str(config)])


async def make_log(url: str, user: str, password: str) -> None:
    if await find_epoch(url, user, password) is None:
        await create_stream(url, user, password, new_epoch())
    await create_leases(url, user, password)


def main() -> None:
    if sys.argv[1] == "--make-log":
        config = os.environ
        asyncio.run(make_log(sys.argv[2], config["CREWLOG_NATS_USER"], config["CREWLOG_NATS_PASSWORD"]))
    else:
        serve(Path(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
