"""A log whose connection to nats-server can lose what it carries."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from crewlog.eventlog.jetstream import JetStreamLog, connect_log
from crewlog.eventlog.nats_server import NatsServer

from tests.contract.wire import Wire


@pytest.fixture
async def wire(nats_server: NatsServer) -> AsyncIterator[Wire]:
    wire = Wire(nats_server.url)
    await wire.open()
    yield wire
    await wire.close()


@pytest.fixture
async def log_behind_wire(nats_server: NatsServer, wire: Wire) -> AsyncIterator[JetStreamLog]:
    """A log whose connection goes over the wire; `jetstream_log` is another one, which does not."""
    log = await connect_log(wire.url, "operator", nats_server.passwords["operator"], name="behind-the-wire")
    yield log
    await log.close()
