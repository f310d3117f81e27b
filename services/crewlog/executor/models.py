"""Clients of model providers, by credential. A key comes from the gateway when it is needed, and stays in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crewlog.models.provider import AnthropicModel
from crewlog.runtime.channel import claim_metadata
from crewlog.v1.agent_pb2 import GetModelCredential
from crewlog.v1.scheduler_pb2 import Grant

if TYPE_CHECKING:
    from crewlog.v1.agent_pb2_grpc import CredentialServiceAsyncStub

CLIENTS_MAX = 64


class Models:
    def __init__(self, credentials: CredentialServiceAsyncStub) -> None:
        self._credentials = credentials
        self._clients: dict[tuple[str, str], AnthropicModel] = {}

    async def find(self, grant: Grant, model: str) -> tuple[AnthropicModel, str]:
        """The client, and the name of the credential. Raises Refused where the gateway has no key for the run."""
        wanted = GetModelCredential(run_id=grant.run_id, model=model)
        credential = await self._credentials.Get(wanted, metadata=claim_metadata(grant.claim_token))
        key = (credential.api_key, credential.base_url)
        if key not in self._clients:
            self._make_room()
            self._clients[key] = AnthropicModel(credential.api_key, credential.base_url)
        return self._clients[key], credential.name

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    def _make_room(self) -> None:
        """The oldest is forgotten; a call that it still makes goes on."""
        if len(self._clients) >= CLIENTS_MAX:
            del self._clients[next(iter(self._clients))]
