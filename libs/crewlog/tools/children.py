"""spawn, message_child, wait_for_children: an agent gives a part of its work, and of its money, to others.

Offered only where the node names roles for children. They are not run here: the executor asks the scheduler.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from crewlog.domain.agent.sharing import SHARE_PERCENT_MAX
from crewlog.domain.agent.state import SPAWN_TOOL, WAIT_TOOL
from crewlog.tools.answers import DENIED, NotDone
from crewlog.tools.limits import CHILD_CHARACTERS_MAX, CHILD_TEXT_CHARACTERS_MAX
from crewlog.tools.registry import definition_of
from crewlog.tools.tool import Tool, ToolContext, ToolInput
from crewlog.v1.agent_pb2 import EFFECT_CLASS_KEYED
from crewlog.v1.run_pb2 import AgentNode
from pydantic import Field

MESSAGE_TOOL: Final = "message_child"


class SpawnInput(ToolInput):
    role: str = Field(min_length=1, description="What kind of agent the child is.")
    task: str = Field(
        min_length=1,
        max_length=CHILD_TEXT_CHARACTERS_MAX,
        description="What exactly it has to do. It starts from your files as they are now, and sees nothing of what "
        "was said to you.",
    )
    share_percent: int = Field(
        default_factory=int,
        ge=1,
        le=SHARE_PERCENT_MAX,
        description="How much of what you have left to spend it gets. Leave it out for an equal part.",
    )


class MessageInput(ToolInput):
    child: str = Field(min_length=1, max_length=CHILD_CHARACTERS_MAX, description="Its name, as `spawn` has told it.")
    text: str = Field(min_length=1, max_length=CHILD_TEXT_CHARACTERS_MAX, description="What it has to know.")


class WaitInput(ToolInput):
    pass


async def _not_here(_: Any, context: ToolContext) -> NoReturn:
    raise NotDone(DENIED, "there are no children here")


SPAWN = Tool(
    SPAWN_TOOL,
    "Gives a part of your work to another agent, which works beside you in files of its own. What it comes to is told "
    "to you as a message; go on meanwhile, or call wait_for_children: who is still at work when you end is stopped.",
    SpawnInput,
    EFFECT_CLASS_KEYED,
    False,
    _not_here,
)
MESSAGE = Tool(
    MESSAGE_TOOL,
    "Says something to a child that is still at work.",
    MessageInput,
    EFFECT_CLASS_KEYED,
    False,
    _not_here,
)
WAIT = Tool(
    WAIT_TOOL,
    "Waits until all your children have ended. Call it when there is nothing else to do before.",
    WaitInput,
    EFFECT_CLASS_KEYED,
    False,
    _not_here,
)
TOOLS: Final = (SPAWN, MESSAGE, WAIT)
NAMES: Final = frozenset(tool.name for tool in TOOLS)


def are_offered(node: AgentNode) -> bool:
    return bool(node.children)


def definitions(node: AgentNode) -> list[dict[str, Any]]:
    """As the Messages API describes them; the roles are those of the node."""
    described = [definition_of(tool) for tool in TOOLS]
    schema = described[0]["input_schema"]
    role = {**schema["properties"]["role"], "enum": [role.name for role in node.children]}
    described[0]["input_schema"] = {**schema, "properties": {**schema["properties"], "role": role}}
    return described
