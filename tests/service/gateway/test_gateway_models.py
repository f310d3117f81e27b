"""The models of a run: each has a price before anything is appended, from the list or from a price file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.v1.run_pb2 import AgentNode, Node, Role, StartRun, Workflow

PRICES = """
[models.house-model]
input_usd_micros_per_mtok = 1_000
output_usd_micros_per_mtok = 2_000
cache_read_usd_micros_per_mtok = 100
cache_write_usd_micros_per_mtok = 1_250
"""


def plan(**role: str) -> Workflow:
    agent = AgentNode(role=Role(name="r", prompt="Role: r", **role))  # type: ignore[arg-type]
    return Workflow(name="w", nodes=[Node(node_id="n", agent=agent)])


async def start(world: Any, model: str = "", /, **role: str) -> None:
    project_id = await world.register()
    await world.run_service.Start(
        StartRun(run_id="run-1", project_id=project_id, input="do it", model=model, workflow=plan(**role))
    )


@pytest.mark.parametrize(
    ("model", "role", "field"),
    [
        ("house-model", {}, "model"),
        ("", {"model": "house-model"}, "workflow.n.role.model"),
        ("", {"cheaper_model": "house-model"}, "workflow.n.role.cheaper_model"),
        ("", {"cheaper_model": "no such"}, "workflow.n.role.cheaper_model"),
        ("", {"cheaper_model": "x" * 1_000}, "workflow.n.role.cheaper_model"),
        ("", {"model": "claude-opus-5-5", "cheaper_model": "*"}, "workflow.n.role.cheaper_model"),
    ],
)
async def test_a_model_without_a_price_is_refused_by_its_field(
    world: Any, model: str, role: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await start(world, model, **role)
    assert set(refused.value.violations) == {field}
    assert field in refused.value.message
    assert not world.scheduler.started


async def test_a_model_of_the_price_file_is_as_good_as_a_listed_one(world: Any, tmp_path: Path) -> None:
    world.prices = tmp_path / "prices.toml"
    world.prices.write_text(PRICES)
    await world.restart()
    await start(world, "house-model", cheaper_model="claude-haiku-5-5")
    (command,) = world.scheduler.started
    assert command.model == "house-model"
    assert command.workflow.nodes[0].agent.role.cheaper_model == "claude-haiku-5-5"


async def test_a_price_file_that_is_not_valid_stops_the_start(world: Any, tmp_path: Path) -> None:
    world.prices = tmp_path / "prices.toml"
    world.prices.write_text(PRICES.replace("1_000", "0.5"))
    with pytest.raises(InvalidCommand, match="whole number"):
        await world.restart()
