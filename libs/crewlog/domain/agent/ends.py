"""How an agent ends by what it has come to: a command by its exit code, a conversation by what it hands over."""

from __future__ import annotations

import json

from crewlog.domain.agent.state import FINISH_TOOL, Agent, Turn
from crewlog.domain.kept import Kept
from crewlog.v1.answer_pb2 import Failure

INVALID_OUTPUTS_MAX = 3
OUTPUT_BYTES_MAX = 60_000

_NOT_BEGUN = Failure(reason="command_failed", message="could not be run")
_NOT_RUN = {
    "timed_out": Failure(
        reason="command_timed_out", message="took longer than it may", what_to_do="give it less to do, or split it"
    ),
    "killed": Failure(
        reason="command_killed", message="was killed", what_to_do="look at its output for the limit that it met"
    ),
    "in_doubt": Failure(
        reason="command_in_doubt",
        message="was under way when its process was killed, and may have taken effect",
        what_to_do="look at what it has done, then `crewlog retry`",
    ),
}


def command_failure(agent: Agent) -> Failure | None:
    """Why the command has not succeeded; None where it has."""
    if agent.ran is None or agent.ran.is_error:
        return _not_run(agent)
    code = json.loads(agent.structured_json)["exit_code"]
    if code == 0 or code in agent.started.command.ok_exit_codes:
        return None
    return Failure(
        reason="command_failed",
        message=f"{_shown(agent)} exited with {code}",
        what_to_do=_read_its_output(agent),
    )


def _not_run(agent: Agent) -> Failure:
    why = _NOT_RUN.get(agent.ran.reason if agent.ran is not None else "", _NOT_BEGUN)
    what_to_do = why.what_to_do or _read_its_output(agent)
    return Failure(reason=why.reason, message=f"{_shown(agent)} {why.message}", what_to_do=what_to_do)


def _read_its_output(agent: Agent) -> str:
    return f"read its output: `crewlog show {agent.started.run_id} --task {agent.started.task_id}` has it"


def _shown(agent: Agent) -> str:
    return f"`{' '.join(agent.started.command.argv)[:200]}`"


def output_failure(agent: Agent) -> Failure | None:
    """The model was told often enough what is wrong with its output."""
    if agent.invalid_outputs <= INVALID_OUTPUTS_MAX:
        return None
    return Failure(
        reason="output_invalid",
        message=f"the agent was told {INVALID_OUTPUTS_MAX} times that it has to finish with valid output",
        what_to_do=f"look at what it gave to `{FINISH_TOOL}`; make the schema simpler, or choose another model",
    )


def output_of(agent: Agent) -> str:
    """What the agent has come to, as text. It is cut at the front: the verdict stands at the end."""
    return _kept(agent).text


def output_cut_from_bytes(agent: Agent) -> int:
    """As in TaskResult."""
    return _kept(agent).cut_from_bytes


def _kept(agent: Agent) -> Kept:
    """So that it always stands in the event itself."""
    cut_before = agent.ran.cut_from_bytes if agent.ran is not None else 0
    return Kept(_output(agent), cut_before).end(OUTPUT_BYTES_MAX)


def _output(agent: Agent) -> str:
    if agent.ran is not None:
        return agent.ran.text.inline.decode(errors="replace")
    if agent.structured_json:
        said = _text(agent.turns[agent.finished_turn - 1])
        return f"{said}\n\n{agent.structured_json}" if said else agent.structured_json
    texts = (_text(turn) for turn in reversed(agent.turns))
    return next((text for text in texts if text), "")


def _text(turn: Turn) -> str:
    text = "\n\n".join(block.text for block in turn.content if block.HasField("text"))
    return text if text.strip() else ""
