"""What one agent works with: its worktree, its tools, its model, and the wire on which it is heard live.

A desk is set up for one claim and thrown away after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crewlog.domain.agent.state import Agent
from crewlog.domain.errors import Refused, Unavailable, WrongState
from crewlog.domain.names import TENANT
from crewlog.eventlog.port import BlobStore, Live
from crewlog.executor.control import Control
from crewlog.executor.live import LiveStream
from crewlog.executor.patience import patiently
from crewlog.executor.tool_calls import ToolRunner
from crewlog.executor.workspace import Workspace
from crewlog.models.provider import AnthropicModel, ModelError
from crewlog.tools.sandbox import Sandbox
from crewlog.tools.tool import ToolContext
from crewlog.v1.agent_pb2 import EffectKey
from crewlog.v1.answer_pb2 import Failure
from crewlog.v1.scheduler_pb2 import Grant
from crewlog.v1.workspace_pb2 import PreparedWorkspace, Snapshot

TITLE_CHARACTERS_MAX = 60
CONFLICTS_SHOWN_MAX = 100
CONFLICTS_TEXT = (
    "Your files come from several tasks whose changes do not fit together. These files have conflict markers "
    "(`<<<<<<<`, `=======`, `>>>>>>>`), which you have to resolve:"
)

FindModel = Callable[[Grant, str], Awaitable[tuple[AnthropicModel, str]]]
"""The client for a model with the credential of the grant's run, and its name. Raises Refused where there is none."""


@dataclass(slots=True)
class Desk:
    grant: Grant
    workspace: Workspace
    blobs: BlobStore
    live_plane: Live
    sandbox: Sandbox | None
    find_model: FindModel
    prepared: PreparedWorkspace | None = None
    _model: tuple[AnthropicModel, str] | None = None

    async def set_up(self, snapshot: Snapshot | None) -> None:
        """Prepares the worktree, with the files of the agent's last snapshot where it has one."""
        self.prepared = await self.workspace.prepare(snapshot)

    def with_conflicts_told(self, prompt: str) -> str:
        """The prompt, behind the files with conflict markers, where there are some."""
        conflicts = self.prepared.conflicts if self.prepared is not None else ()
        if not conflicts:
            return prompt
        shown = "\n".join(f"- {path}" for path in conflicts[:CONFLICTS_SHOWN_MAX])
        more = len(conflicts) - CONFLICTS_SHOWN_MAX
        rest = f"\n- and {more} more: look for `<<<<<<<`" if more > 0 else ""
        return f"{CONFLICTS_TEXT}\n\n{shown}{rest}\n\n{prompt}"

    async def model(self, name: str) -> tuple[AnthropicModel, str]:
        """Waits for a gateway that is being started again. Raises ModelError where there is no key."""
        if self._model is None:
            try:
                self._model = await patiently(lambda: self.find_model(self.grant, name), "gateway")
            except Unavailable:
                raise
            except Refused as refusal:
                failure = Failure(reason="model_key_missing", message=refusal.message, what_to_do=refusal.what_to_do)
                raise ModelError(failure, may_have_charged=False) from refusal
        return self._model

    def tools(self, control: Control) -> ToolRunner:
        return ToolRunner(self.grant.node, self.workspace, self._prepared(), self._context, self.blobs, control)

    @contextmanager
    def live(self, key: EffectKey) -> Iterator[LiveStream]:
        stream = self._stream(key)
        try:
            yield stream
        finally:
            stream.close()

    async def commit(self, agent: Agent, revision: int) -> tuple[str, Snapshot | None]:
        """The commit and the snapshot that hold what the agent did; nothing where it never had files."""
        if self.prepared is None:
            return "", None
        taken = await self.workspace.snapshot("end")
        snapshot = taken.snapshot if taken.snapshot.tree else agent.snapshot or self.prepared.snapshot
        if snapshot.tree == self.prepared.snapshot.tree and agent.snapshot is None:
            return self.prepared.base_commit, snapshot
        committed = await self.workspace.commit(snapshot, self._message(), revision, agent.started.at_unix_micros)
        return committed.commit, snapshot

    def _message(self) -> str:
        title = self.grant.title[:TITLE_CHARACTERS_MAX]
        node = self.grant.node
        return f"{node.agent.role.name or node.node_id}: {title}"

    def _context(self, key: EffectKey) -> ToolContext:
        prepared = self._prepared()
        return ToolContext(
            root=Path(prepared.path),
            sandbox=self.sandbox,
            read_only_paths=tuple(Path(path) for path in prepared.read_only_paths),
            on_output=self._stream(key),
            tools=frozenset(self.grant.node.agent.role.tools),
            network=self.grant.node.agent.role.network,
        )

    def _stream(self, key: EffectKey) -> LiveStream:
        return LiveStream(self.live_plane, TENANT, self.grant.run_id, self.grant.agent_id, key)

    def _prepared(self) -> PreparedWorkspace:
        if self.prepared is None:
            raise WrongState(f"the workspace of {self.grant.agent_id!r} is not prepared")
        return self.prepared
