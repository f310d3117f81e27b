"""The process of the log."""

from __future__ import annotations

from crewlog.cli.launcher.child import Program
from crewlog.cli.launcher.environment import Plan

USERS = ("gateway", "scheduler", "executor", "git", "operator")


def program(plan: Plan) -> Program:
    raise NotImplementedError


async def prepare(plan: Plan) -> None:
    raise NotImplementedError
