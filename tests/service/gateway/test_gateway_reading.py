"""Files, blobs, status and the key of the model: who gets what, and what nobody gets."""

from __future__ import annotations

import time
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand, NotAuthenticated, NotFound, NotPermitted, StaleClaim, WrongState
from crewlog.gateway.config import ModelAccess, from_environment, model_access
from crewlog.runtime import auth
from crewlog.runtime.channel import claim_metadata, dial
from crewlog.v1.agent_pb2 import GetModelCredential, ModelCredential
from crewlog.v1.agent_pb2_grpc import CredentialServiceStub
from crewlog.v1.events_pb2 import GetStatus
from crewlog.v1.run_pb2 import GetRun, ListRuns
from crewlog.v1.run_service_pb2_grpc import RunServiceStub
from crewlog.v1.workspace_pb2 import GetBlob, GetDiff, ListFiles, ReadFile

TREE = "a" * 40


async def ask(world: Any, *, token: str = "", run_id: str = "run-1", generation: int = 1) -> ModelCredential:
    expires_at = int(time.time()) + 60
    claim = auth.mint_claim_token(world.claims.signing_key, "run-1", "a-1", generation, expires_at)
    async with dial(world.address, token or world.service_token) as channel:
        request = GetModelCredential(run_id=run_id, model="claude-sonnet-4-5")
        return await CredentialServiceStub(channel).Get(request, metadata=claim_metadata(claim))


async def test_whoever_has_the_claim_gets_the_key(world: Any) -> None:
    credential = await ask(world)
    assert (credential.api_key, credential.base_url, credential.scripted) == ("sk-secret", "http://127.0.0.1:9", False)
    assert credential.name == "anthropic"
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    revision = await world.claim("run-1")
    await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=revision))
    assert (await ask(world)).api_key == "sk-secret"
    assert (await ask(world, generation=2)).api_key == "sk-secret"


async def test_nobody_else_gets_the_key(world: Any) -> None:
    with pytest.raises(NotPermitted):
        await ask(world, token=world.token)
    with pytest.raises(NotAuthenticated):
        await ask(world, token="guessed")
    with pytest.raises(NotPermitted, match="run-1"):
        await ask(world, run_id="run-2")
    async with dial(world.address, world.service_token) as channel:
        with pytest.raises(NotAuthenticated, match="claim"):
            await CredentialServiceStub(channel).Get(GetModelCredential(run_id="run-1"))


async def test_a_claim_of_an_older_generation_gets_no_key(world: Any) -> None:
    project_id = await world.register()
    await world.start_run("run-1", project_id)
    revision = await world.claim("run-1")
    await world.run_service.Get(GetRun(run_id="run-1", at_least_revision=revision))
    with pytest.raises(StaleClaim):
        await ask(world, generation=0)


async def test_without_a_key_it_is_said_what_to_do(world: Any) -> None:
    world.model = ModelAccess()
    await world.restart()
    with pytest.raises(WrongState) as caught:
        await ask(world)
    assert "ANTHROPIC_API_KEY" in caught.value.what_to_do
    assert not (await world.event_service.Status(GetStatus())).has_model_credential


async def test_the_status_says_what_answers(world: Any) -> None:
    status = await world.event_service.Status(GetStatus())
    assert (status.epoch, status.head_revision, status.scripted, status.has_model_credential) == (
        "memory",
        0,
        False,
        True,
    )
    assert status.model == world.model.default_model
    world.model = ModelAccess(api_key="scripted", base_url="http://127.0.0.1:9", scripted=True)
    await world.restart()
    assert (await world.event_service.Status(GetStatus())).scripted
    credential = await ask(world)
    assert (credential.scripted, credential.name) == (True, "scripted")


def test_the_key_is_read_from_the_environment_and_never_shown() -> None:
    assert model_access({"ANTHROPIC_API_KEY": "sk-secret"}).api_key == "sk-secret"
    scripted = model_access({"ANTHROPIC_API_KEY": "sk-secret", "CREWLOG_MODEL_SCRIPTED": "1"})
    assert scripted.scripted and "sk-secret" not in scripted.api_key
    assert "sk-secret" not in repr(model_access({"ANTHROPIC_API_KEY": "sk-secret"}))
    assert "sk-secret" not in str(ModelCredential(api_key="sk-secret").DESCRIPTOR)
    with pytest.raises(KeyError, match="CREWLOG_DATA_DIR"):
        from_environment({})


async def test_files_come_from_git_for_projects_that_exist(world: Any) -> None:
    project_id = await world.register()
    content = await world.file_service.Read(ReadFile(project_id=project_id, tree=TREE, path="src/a.py"))
    assert content.content == f"{project_id} src/a.py".encode()
    with pytest.raises(NotFound, match="project"):
        await world.file_service.Read(ReadFile(project_id="other", tree=TREE, path="src/a.py"))


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Read", ReadFile(project_id="p", tree=TREE, path="../etc/passwd"), "path"),
        ("Read", ReadFile(project_id="p", tree="HEAD", path="a"), "tree"),
        ("List", ListFiles(project_id="p", tree="--help"), "tree"),
        ("List", ListFiles(project_id="P", tree=TREE), "project_id"),
        ("Compare", GetDiff(project_id="p", from_tree=TREE, to_tree=""), "to_tree"),
    ],
)
async def test_bad_questions_about_files_are_refused(world: Any, method: str, request_: Any, field: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        await getattr(world.file_service, method)(request_)
    assert field in caught.value.violations


async def test_blobs_are_read_by_their_hash(world: Any) -> None:
    digest = await world.blobs.put(b"x" * 100_000)
    assert (await world.event_service.ReadBlob(GetBlob(sha256=digest))).content == b"x" * 100_000
    with pytest.raises(NotFound):
        await world.event_service.ReadBlob(GetBlob(sha256=bytes(32)))
    with pytest.raises(InvalidCommand):
        await world.event_service.ReadBlob(GetBlob(sha256=b"short"))


async def test_nobody_is_answered_without_the_token(world: Any) -> None:
    for token in ("", "wrong"):
        async with dial(world.address, token) as channel:
            with pytest.raises(NotAuthenticated):
                await RunServiceStub(channel).List(ListRuns())
