"""How many tasks may be worked on at once, of a tenant, project, workflow, role or model, or in a pool of executors.

    --set--> LIMITS --set--> ...

One aggregate holds all limits. `*` is the limit of every name of its dimension that has none of its own; a name whose
limit is -1 has no limit, whatever `*` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from crewlog.domain.errors import InvalidCommand, TooLarge
from crewlog.v1.admission_pb2 import AdmissionDimension, AdmissionLimitSet, SetAdmissionLimit
from google.protobuf.message import Message
from immutables import Map

KIND = "admission"
VERSION = 1
AGGREGATE_ID = "limits"
EVERY_OTHER = "*"
UNLIMITED = -1
LIMITS_MAX = 1_000
NAME_CHARACTERS_MAX = 128
TASKS_MAX = 1_000_000

WORDS = {
    AdmissionDimension.ADMISSION_DIMENSION_TENANT: "tenant",
    AdmissionDimension.ADMISSION_DIMENSION_PROJECT: "project",
    AdmissionDimension.ADMISSION_DIMENSION_WORKFLOW: "workflow",
    AdmissionDimension.ADMISSION_DIMENSION_ROLE: "role",
    AdmissionDimension.ADMISSION_DIMENSION_MODEL: "model",
    AdmissionDimension.ADMISSION_DIMENSION_POOL: "pool",
}
"""What people call the dimensions."""


class Key(NamedTuple):
    """What a task counts under."""

    dimension: AdmissionDimension.ValueType
    name: str

    def __str__(self) -> str:
        return f"{WORDS[self.dimension]}={self.name}"


@dataclass(frozen=True, slots=True)
class Admission:
    limits: Map[Key, int] = field(default_factory=Map)


INITIAL = Admission()


def decide(admission: Admission, command: SetAdmissionLimit) -> list[Message]:
    """What a command causes. Raises InvalidCommand or TooLarge."""
    _check(command)
    key = Key(command.dimension, command.name)
    if admission.limits.get(key, _unset(key)) == command.tasks_max:
        return []
    if key not in admission.limits and len(admission.limits) >= LIMITS_MAX:
        raise TooLarge(f"there are {LIMITS_MAX} limits already", what_to_do="set one for `*` instead of one for each")
    return [
        AdmissionLimitSet(
            dimension=command.dimension,
            name=command.name,
            tasks_max=command.tasks_max,
            by=command.by,
            at_unix_micros=command.at_unix_micros,
        )
    ]


def evolve(admission: Admission, event: AdmissionLimitSet) -> Admission:
    """What an event means."""
    key = Key(event.dimension, event.name)
    if event.tasks_max != _unset(key):
        return Admission(admission.limits.set(key, event.tasks_max))
    return Admission(admission.limits.delete(key)) if key in admission.limits else admission


def tasks_max(admission: Admission, key: Key) -> int | None:
    """How many tasks may count under the key at once; None: any number."""
    found = admission.limits.get(key)
    if found is None:
        found = admission.limits.get(Key(key.dimension, EVERY_OTHER))
    return None if found == UNLIMITED else found


def _unset(key: Key) -> int | None:
    """What says that there is nothing to remember: every other name has no limit unless one is set."""
    return UNLIMITED if key.name == EVERY_OTHER else None


def _check(command: SetAdmissionLimit) -> None:
    violations: dict[str, str] = {}
    if command.dimension not in WORDS:
        violations["dimension"] = f"has to be one of {', '.join(WORDS.values())}"
    if not 1 <= len(command.name) <= NAME_CHARACTERS_MAX or not command.name.isprintable():
        violations["name"] = f"has to be 1 to {NAME_CHARACTERS_MAX} printable characters, or `*`"
    if not UNLIMITED <= command.tasks_max <= TASKS_MAX:
        violations["tasks_max"] = f"has to be 0 to {TASKS_MAX:,}, or -1 for no limit"
    if violations:
        raise InvalidCommand("; ".join(f"{where} {why}" for where, why in violations.items()), violations=violations)
