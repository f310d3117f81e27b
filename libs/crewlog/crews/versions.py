"""The version of a role or a workflow: a hash of its content."""

from __future__ import annotations

import hashlib
from typing import TypeVar

from crewlog.v1.run_pb2 import Role, Workflow

CHARACTERS = 12
M = TypeVar("M", Role, Workflow)


def with_version(message: M) -> M:
    message.ClearField("version")
    message.version = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()[:CHARACTERS]
    return message
