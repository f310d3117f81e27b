"""The gateway as a process of its own on the real log."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from pathlib import Path

import grpc
from crewlog.eventlog.nats_server import NatsServer
from crewlog.runtime import auth
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

TOKEN = "client-token"


class Program:
    """Starts and stops the process; the address stays."""

    def __init__(self, directory: Path, nats_server: NatsServer) -> None:
        keys = auth.new_keypair()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._environment = {
            "PATH": os.environ["PATH"],
            "CREWLOG_DATA_DIR": str(directory),
            "CREWLOG_NATS_URL": nats_server.url,
            "CREWLOG_NATS_USER": "gateway",
            "CREWLOG_NATS_PASSWORD": nats_server.passwords["gateway"],
            "CREWLOG_GATEWAY_ADDRESS": self.address,
            "CREWLOG_SCHEDULER_ADDRESS": "127.0.0.1:1",
            "CREWLOG_GIT_ADDRESS": "127.0.0.1:1",
            "CREWLOG_CLIENT_TOKEN": TOKEN,
            "CREWLOG_SERVICE_TOKEN": auth.mint_service_token(keys.signing_key, "gateway"),
            "CREWLOG_SERVICE_VERIFY_KEY": keys.verify_key,
            "CREWLOG_CLAIM_VERIFY_KEY": auth.new_keypair().verify_key,
        }
        self.process: Process | None = None

    async def start(self) -> None:
        command = (sys.executable, "-m", "crewlog.gateway")
        self.process = await asyncio.create_subprocess_exec(*command, env=self._environment)
        async with asyncio.timeout(20), grpc.aio.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            answer = await stub.Check(request, wait_for_ready=True)
            while answer.status != health_pb2.HealthCheckResponse.SERVING:
                answer = await stub.Check(request, wait_for_ready=True)

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10)
