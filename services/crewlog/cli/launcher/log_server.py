"""The process of the log, and the log in it: made at the first start of a data directory, and never again.

Beside the log are the leases, by which one scheduler leads.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from crewlog.cli.launcher.child import Program
from crewlog.cli.launcher.directory import DataDirectory
from crewlog.cli.launcher.environment import LOG, Plan
from crewlog.domain.errors import WrongState
from crewlog.eventlog import nats_server
from crewlog.eventlog.permissions import USERS as USERS

OPERATOR = "operator"


def program(plan: Plan) -> Program:
    """How to start nats-server. On Linux the kernel ends it when the launcher is gone."""
    directory = _directory(plan)
    config = nats_server.write_config(directory, port=plan.ports[LOG])
    nats_server.remove_stale_ports_files(directory)
    environment = nats_server.environment(plan.credentials.log_passwords)
    return Program(LOG, tuple(nats_server.command(config)), environment)


def is_listening(plan: Plan) -> bool:
    """Whether the server of this start has bound its port: whoever else answers there has not written this file."""
    return nats_server.has_ports_file(_directory(plan))


async def prepare(plan: Plan) -> None:
    """Makes the log, or checks that it is the one that was here before. Raises WrongState when that one is gone."""
    from crewlog.eventlog.jetstream import create_stream, find_epoch
    from crewlog.eventlog.jetstream_leases import create_leases

    directory, password = DataDirectory(plan.data_dir), plan.credentials.log_passwords[OPERATOR]
    known, found = directory.read_epoch(), await find_epoch(plan.log_url, OPERATOR, password)
    if known and found != known:
        raise WrongState(
            f"the log of {plan.data_dir} is gone: it was {known}, and nats-server holds {found or 'none'}",
            what_to_do=f"put back what belongs into {_directory(plan)}, or use a new data directory",
        )
    if found is None:
        found = new_epoch()
        await create_stream(plan.log_url, OPERATOR, password, found)
    await create_leases(plan.log_url, OPERATOR, password)
    directory.write_epoch(found)


def new_epoch() -> str:
    """Readable, and never the same twice."""
    return f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}"


def _directory(plan: Plan) -> Path:
    return plan.data_dir / "nats"
