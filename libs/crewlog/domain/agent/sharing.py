"""What an agent may spend, when the run has changed it or a child gets a part of it.

A part goes to the child before the run knows of it: a crash in between leaves too little with the parent, never the
same money with both. The next figure of the run holds again for both.
"""

from __future__ import annotations

from crewlog.domain import amounts
from crewlog.domain.agent.state import Agent, is_over, place_of
from crewlog.domain.amounts import Amounts
from crewlog.domain.errors import BudgetExceeded, WrongState
from crewlog.v1.agent_pb2 import AllotmentRaised, AllotmentShared, RaiseAllotment, ShareAllotment
from google.protobuf.message import Message

SHARE_PERCENT_MAX = 90


def share_of(agent: Agent, percent: int) -> Amounts:
    """So much of what is left, in the units that are limited. Raises BudgetExceeded where that is nothing of one."""
    left = amounts.left(agent.allotment, agent.spent + agent.reserved)
    share = Amounts(*(getattr(left, unit) * percent // 100 for unit in amounts.UNITS))
    missing = [unit for unit in amounts.limited_units(agent.allotment) if getattr(share, unit) <= 0]
    if missing:
        raise BudgetExceeded(f"too little is left to share: {', '.join(missing)}", what_to_do="do it without a child")
    return share


def share(agent: Agent, command: ShareAllotment) -> list[Message]:
    """Once for each tool call, however often it is tried."""
    place = place_of(command.key)
    if is_over(agent) or place in agent.shared:
        return []
    if place not in agent.open:
        raise WrongState(f"agent {command.agent_id!r} has no such tool call under way")
    amounts.check("share", command.share, needs_one=True)
    _check_fits(agent, Amounts.of(command.share))
    return [AllotmentShared(key=command.key, share=command.share, at_unix_micros=command.at_unix_micros)]


def raised(agent: Agent, command: RaiseAllotment) -> list[Message]:
    """The run may not know yet of what is being shared: that stays with the child."""
    if is_over(agent) or agent.parked is not None or command.run_revision <= agent.allotment_revision:
        return []
    allotment = Amounts.of(command.allotment)
    for place, shared in agent.shared.items():
        if place in agent.open:
            allotment = _less(allotment, shared)
    if allotment == agent.allotment:
        return []
    at = command.at_unix_micros
    return [AllotmentRaised(allotment=allotment.limit(), run_revision=command.run_revision, at_unix_micros=at)]


def _check_fits(agent: Agent, share: Amounts) -> None:
    """Something of each limited unit stays, because a limit of nothing would be none."""
    left = amounts.left(agent.allotment, agent.spent + agent.reserved)
    for unit in amounts.UNITS:
        is_limited, part = getattr(agent.allotment, unit) > 0, getattr(share, unit)
        if part and (not is_limited or part >= getattr(left, unit)):
            raise BudgetExceeded(f"the share does not fit into what is left of {unit}")


def _less(allotment: Amounts, shared: Amounts) -> Amounts:
    kept = amounts.left(allotment, shared)
    return Amounts(*(max(getattr(kept, unit), int(getattr(allotment, unit) > 0)) for unit in amounts.UNITS))
