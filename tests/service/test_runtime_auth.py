"""Who may call what: every kind of access, over real connections, with tokens of every bad kind."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import jwt
import pytest
from crewlog.domain.errors import NotAuthenticated, NotPermitted, Refused
from crewlog.runtime import auth
from crewlog.runtime.auth import Claim, Keypair
from crewlog.runtime.channel import claim_metadata, dial
from crewlog.runtime.serve import Access, Registration, RunningServer, Verifier, start_server
from crewlog.v1.agent_pb2 import GetModelCredential, ModelCredential
from crewlog.v1.agent_pb2_grpc import (
    CredentialServiceServicer,
    CredentialServiceStub,
    add_CredentialServiceServicer_to_server,
)
from crewlog.v1.answer_pb2 import Receipt
from crewlog.v1.project_pb2 import GetProject, ProjectView
from crewlog.v1.project_pb2_grpc import (
    ProjectServiceServicer,
    ProjectServiceStub,
    add_ProjectServiceServicer_to_server,
)
from crewlog.v1.run_pb2 import CancelRun
from crewlog.v1.scheduler_pb2_grpc import (
    SchedulerServiceServicer,
    SchedulerServiceStub,
    add_SchedulerServiceServicer_to_server,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

CLIENT_TOKEN = "the-token-of-the-data-directory"
SERVICES = auth.new_keypair()
CLAIMS = auth.new_keypair()
SERVICES_KEY, CLAIMS_KEY = (
    Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(keys.signing_key)) for keys in (SERVICES, CLAIMS)
)
SERVICE_TOKEN = auth.mint_service_token(SERVICES.signing_key, "executor")


def claim_token(keys: Keypair = CLAIMS, seconds: float = 60) -> str:
    return auth.mint_claim_token(keys.signing_key, "run-1", "a-1", 3, int(time.time() + seconds))


class Projects(ProjectServiceServicer):
    """Access.CLIENT: answers with the principal."""

    async def Get(self, request: GetProject, context: Any) -> ProjectView:
        return ProjectView(project_id=auth.current_principal())

    async def Register(self, request: Any, context: Any) -> Any: ...
    async def List(self, request: Any, context: Any) -> Any: ...


class Scheduler(SchedulerServiceServicer):
    """Access.SERVICE: `Cancel` answers with the generation of the claim."""

    async def Cancel(self, request: CancelRun, context: Any) -> Receipt:
        return Receipt(revision=auth.current_claim().generation)

    async def Start(self, request: Any, context: Any) -> Any: ...
    async def Grow(self, request: Any, context: Any) -> Any: ...
    async def CancelTask(self, request: Any, context: Any) -> Any: ...
    async def Pause(self, request: Any, context: Any) -> Any: ...
    async def Resume(self, request: Any, context: Any) -> Any: ...
    async def Retry(self, request: Any, context: Any) -> Any: ...
    async def Send(self, request: Any, context: Any) -> Any: ...
    async def Recover(self, request: Any, context: Any) -> Any: ...
    async def Signal(self, request: Any, context: Any) -> Any: ...
    async def Spawn(self, request: Any, context: Any) -> Any: ...
    async def Explain(self, request: Any, context: Any) -> Any: ...
    async def Synchronize(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for report in request_iterator:
            yield report


class Credentials(CredentialServiceServicer):
    """Access.CLAIM: answers with what it was told about the caller."""

    async def Get(self, request: GetModelCredential, context: Any) -> ModelCredential:
        return ModelCredential(api_key=f"{auth.current_principal()} {auth.current_claim()}")


@pytest.fixture
async def server() -> AsyncIterator[RunningServer]:
    registrations = [
        Registration("crewlog.v1.ProjectService", add_ProjectServiceServicer_to_server, Projects(), Access.CLIENT),
        Registration(
            "crewlog.v1.SchedulerService", add_SchedulerServiceServicer_to_server, Scheduler(), Access.SERVICE
        ),
        Registration(
            "crewlog.v1.CredentialService", add_CredentialServiceServicer_to_server, Credentials(), Access.CLAIM
        ),
    ]
    verifier = Verifier(CLIENT_TOKEN, SERVICES.verify_key, CLAIMS.verify_key)
    server = await start_server(registrations, address="127.0.0.1:0", verifier=verifier, drain_seconds=0.5)
    yield server
    await server.stop()


async def ask_project(address: str, token: str) -> str:
    async with dial(address, token) as channel:
        return (await ProjectServiceStub(channel).Get(GetProject())).project_id


async def ask_scheduler(address: str, token: str, claim: str = "") -> int:
    async with dial(address, token) as channel:
        metadata = claim_metadata(claim) if claim else None
        return (await SchedulerServiceStub(channel).Cancel(CancelRun(), metadata=metadata)).revision


async def ask_credential(address: str, token: str, claim: str = "") -> str:
    async with dial(address, token) as channel:
        metadata = claim_metadata(claim) if claim else None
        return (await CredentialServiceStub(channel).Get(GetModelCredential(), metadata=metadata)).api_key


def _forged(claims: dict[str, object], algorithm: str = "none", key: Any = "") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


def _with_other_payload(token: str, **changes: object) -> str:
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | changes
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"{header}.{changed}.{signature}"


BAD_SERVICE_TOKENS = {
    "none at all": "",
    "no token": "x",
    "the client token, almost": CLIENT_TOKEN[:-1],
    "longer than the client token": CLIENT_TOKEN + "x",
    "signed by a key that was replaced": auth.mint_service_token(auth.new_keypair().signing_key, "executor"),
    "made for another audience": auth.mint_claim_token(SERVICES.signing_key, "r", "t", 1, int(time.time()) + 100),
    "made for others": _forged({"sub": "service:executor", "aud": "others"}, "EdDSA", SERVICES_KEY),
    "algorithm none": _forged({"sub": "service:executor", "aud": "crewlog-services"}),
    "signed with the public key as a secret": _forged(
        {"sub": "service:executor", "aud": "crewlog-services"}, "HS256", SERVICES.verify_key
    ),
    "another payload": _with_other_payload(SERVICE_TOKEN, sub="service:operator"),
    "no subject": _forged({"aud": "crewlog-services"}, "EdDSA", SERVICES_KEY),
    "no signature": SERVICE_TOKEN.rpartition(".")[0] + ".",
    "very long": "x" * 10_000,
}


@pytest.mark.parametrize("token", BAD_SERVICE_TOKENS.values(), ids=BAD_SERVICE_TOKENS.keys())
async def test_bad_tokens_get_no_answer_anywhere(server: RunningServer, token: str) -> None:
    for ask in (ask_project(server.address, token), ask_scheduler(server.address, token)):
        with pytest.raises(NotAuthenticated) as caught:
            await ask
        assert "Bearer" in caught.value.what_to_do
    with pytest.raises(NotAuthenticated):
        await ask_credential(server.address, token, claim_token())


async def test_clients_and_services_may_call_what_is_for_clients(server: RunningServer) -> None:
    assert await ask_project(server.address, CLIENT_TOKEN) == "local"
    assert await ask_project(server.address, SERVICE_TOKEN) == "service:executor"


async def test_the_client_may_not_call_what_is_for_services(server: RunningServer) -> None:
    for ask in (
        ask_scheduler(server.address, CLIENT_TOKEN),
        ask_credential(server.address, CLIENT_TOKEN, claim_token()),
    ):
        with pytest.raises(NotPermitted, match="only services"):
            await ask


async def test_a_claim_reaches_the_handler(server: RunningServer) -> None:
    answer = await ask_credential(server.address, SERVICE_TOKEN, claim_token())
    assert answer == f"service:executor {Claim('run-1', 'a-1', 3)}"
    assert await ask_scheduler(server.address, SERVICE_TOKEN, claim_token()) == 3


BAD_CLAIM_TOKENS = {
    "expired": claim_token(seconds=-2),
    "signed by a key that was replaced": claim_token(auth.new_keypair()),
    "made for services": auth.mint_service_token(CLAIMS.signing_key, "executor"),
    "signed by the services' key": claim_token(SERVICES),
    "algorithm none": _forged({"run": "r", "task": "t", "gen": 9, "aud": "crewlog-claims", "exp": 4 * 10**9}),
    "another generation": _with_other_payload(claim_token(), gen=4),
    "no expiry": _forged({"run": "r", "task": "t", "gen": 9, "aud": "crewlog-claims"}, "EdDSA", CLAIMS_KEY),
    "no token": "x",
}


@pytest.mark.parametrize("token", BAD_CLAIM_TOKENS.values(), ids=BAD_CLAIM_TOKENS.keys())
async def test_bad_claims_are_refused_even_where_no_claim_is_needed(server: RunningServer, token: str) -> None:
    for ask in (ask_credential, ask_scheduler):
        with pytest.raises(NotAuthenticated, match="claim"):
            await ask(server.address, SERVICE_TOKEN, token)


async def test_what_needs_a_claim_is_not_done_without(server: RunningServer) -> None:
    with pytest.raises(NotAuthenticated, match="claim"):
        await ask_credential(server.address, SERVICE_TOKEN)
    with pytest.raises(NotPermitted, match="claim"):
        await ask_scheduler(server.address, SERVICE_TOKEN)


async def test_a_token_that_was_verified_once_still_expires(server: RunningServer) -> None:
    token = claim_token(seconds=3)
    assert await ask_scheduler(server.address, SERVICE_TOKEN, token) == 3
    with pytest.raises(NotAuthenticated, match="Expired"):
        async with asyncio.timeout(30):
            while await ask_scheduler(server.address, SERVICE_TOKEN, token):
                await asyncio.sleep(0.05)


def test_the_cache_of_tokens_is_bounded() -> None:
    verifier = Verifier("", SERVICES.verify_key)
    for number in range(5):
        token = auth.mint_service_token(SERVICES.signing_key, f"s{number}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auth, "CACHED_TOKENS_MAX", 2)
            verifier.identify(Access.SERVICE, {"authorization": f"Bearer {token}"})
    assert len(verifier._seen) == 2


def test_nobody_gets_in_where_nothing_is_configured() -> None:
    for token in ("", SERVICE_TOKEN, "x"):
        with pytest.raises(NotAuthenticated):
            Verifier().identify(Access.CLIENT, {"authorization": f"Bearer {token}"})


def test_a_claim_that_is_given_microseconds_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="in seconds"):
        auth.mint_claim_token(CLAIMS.signing_key, "r", "t", 1, 1_900_000_000_000_000)


async def test_health_is_open_and_says_nothing_else(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        call = ProjectServiceStub(channel).Get(GetProject())
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("token", [CLIENT_TOKEN, SERVICE_TOKEN])
async def test_reflection_tells_clients_what_is_served(server: RunningServer, token: str) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with dial(server.address, token) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        answers = [answer async for answer in call]
    served = {service.name for service in answers[0].list_services_response.service}
    assert served == {
        "crewlog.v1.ProjectService",
        "crewlog.v1.SchedulerService",
        "crewlog.v1.CredentialService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_tells_strangers_nothing(server: RunningServer) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with dial(server.address, "") as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stranger_opens_no_stream(server: RunningServer) -> None:
    async with dial(server.address, CLIENT_TOKEN) as channel:
        call = SchedulerServiceStub(channel).Synchronize(iter([]))
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED


def test_refusals_never_show_a_token() -> None:
    with pytest.raises(Refused) as caught:
        Verifier(CLIENT_TOKEN, SERVICES.verify_key).identify(Access.CLIENT, {"authorization": "Bearer topsecret"})
    assert "topsecret" not in caught.value.message + caught.value.what_to_do
