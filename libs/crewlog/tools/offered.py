"""What an agent is offered: the tools of its role, and those that its node brings with it."""

from __future__ import annotations

from typing import Any

from crewlog.domain.agent.state import FINISH_TOOL
from crewlog.tools import children, finish
from crewlog.tools.registry import effect_class_of, tool_definitions
from crewlog.v1.agent_pb2 import EFFECT_CLASS_PURE, ToolSpec
from crewlog.v1.run_pb2 import AgentNode


def definitions(node: AgentNode) -> list[dict[str, Any]]:
    """As the Messages API describes tools. Raises InvalidCommand for a role with a tool that does not exist."""
    own = [finish.definition(node)] if finish.is_offered(node) else []
    crew = children.definitions(node) if children.are_offered(node) else []
    return [*tool_definitions(node.role.tools), *crew, *own]


def specs(node: AgentNode) -> list[ToolSpec]:
    """What recovery may do about their calls."""
    role = node.role
    of_role = [ToolSpec(name=name, effect_class=effect_class_of(name, network=role.network)) for name in role.tools]
    own = [ToolSpec(name=FINISH_TOOL, effect_class=EFFECT_CLASS_PURE)] if finish.is_offered(node) else []
    crew = [ToolSpec(name=tool.name, effect_class=tool.effect_class) for tool in children.TOOLS]
    return [*of_role, *(crew if children.are_offered(node) else []), *own]
