"""What is worked out of a workflow, once for all runs of the same one: a map may start a thousand of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

from crewlog.v1.run_pb2 import Workflow

WORKFLOWS_REMEMBERED_MAX = 64
WORKFLOW_BYTES_MAX = 64 * 1024

T = TypeVar("T")


def once_for_each(work: Callable[[Workflow], T]) -> Callable[[Workflow], T]:
    """Nobody may change what `work` returns. It gets a copy, so that nobody can change what it has seen."""

    @lru_cache(WORKFLOWS_REMEMBERED_MAX)
    def remembered(content: bytes) -> T:
        return work(Workflow.FromString(content))

    @wraps(work)
    def once(workflow: Workflow) -> T:
        content = workflow.SerializeToString(deterministic=True)
        return remembered(content) if len(content) <= WORKFLOW_BYTES_MAX else work(workflow)

    return once
