"""Tables of the rules of limits on tasks at once: given the commands, when the command, then the events."""

from __future__ import annotations

import pytest
from crewlog.domain import admission
from crewlog.domain.admission import Admission, Key
from crewlog.domain.decider import fold
from crewlog.domain.errors import InvalidCommand, Refused, TooLarge
from crewlog.v1.admission_pb2 import AdmissionDimension, AdmissionLimitSet, SetAdmissionLimit
from google.protobuf.message import Message

ROLE = AdmissionDimension.ADMISSION_DIMENSION_ROLE
MODEL = AdmissionDimension.ADMISSION_DIMENSION_MODEL


def limit(tasks_max: int, name: str = "tester", dimension: AdmissionDimension.ValueType = ROLE) -> SetAdmissionLimit:
    return SetAdmissionLimit(dimension=dimension, name=name, tasks_max=tasks_max, by="local", at_unix_micros=7)


def after(*commands: SetAdmissionLimit) -> Admission:
    state = admission.INITIAL
    for command in commands:
        state = fold(admission, admission.decide(state, command), state)
    return state


@pytest.mark.parametrize(
    ("given", "when", "then"),
    [
        ((), limit(4), [AdmissionLimitSet]),
        ((), limit(0), [AdmissionLimitSet]),
        ((limit(4),), limit(4), []),
        ((limit(4),), limit(3), [AdmissionLimitSet]),
        ((limit(4),), limit(4, dimension=MODEL), [AdmissionLimitSet]),
        ((limit(4),), limit(-1), [AdmissionLimitSet]),
        ((limit(-1),), limit(-1), []),
        ((), limit(-1, "*"), []),
        ((limit(4, "*"),), limit(-1, "*"), [AdmissionLimitSet]),
        ((limit(4, "*"),), limit(4), [AdmissionLimitSet]),
        ((), limit(-2), InvalidCommand),
        ((), limit(admission.TASKS_MAX + 1), InvalidCommand),
        ((), limit(1, ""), InvalidCommand),
        ((), limit(1, "a" * (admission.NAME_CHARACTERS_MAX + 1)), InvalidCommand),
        ((), limit(1, "two\nlines"), InvalidCommand),
        ((), SetAdmissionLimit(name="tester", tasks_max=1), InvalidCommand),
        ((), limit(1, "two words"), [AdmissionLimitSet]),
        ((), limit(1, "provider/model:4.5", MODEL), [AdmissionLimitSet]),
    ],
)
def test_what_setting_a_limit_leads_to(
    given: tuple[SetAdmissionLimit, ...], when: SetAdmissionLimit, then: list[type[Message]] | type[Refused]
) -> None:
    state = after(*given)
    if isinstance(then, list):
        assert [type(event) for event in admission.decide(state, when)] == then
    else:
        with pytest.raises(then) as refusal:
            admission.decide(state, when)
        assert refusal.value.violations


@pytest.mark.parametrize(
    ("given", "name", "tasks_max"),
    [
        ((), "tester", None),
        ((limit(4),), "tester", 4),
        ((limit(4),), "reviewer", None),
        ((limit(9, "*"), limit(4)), "tester", 4),
        ((limit(9, "*"), limit(4)), "reviewer", 9),
        ((limit(9, "*"), limit(-1)), "tester", None),
        ((limit(9, "*"), limit(-1, "*")), "reviewer", None),
        ((limit(0),), "tester", 0),
        ((limit(4), limit(2)), "tester", 2),
        ((limit(4, dimension=MODEL),), "tester", None),
    ],
)
def test_a_name_has_its_own_limit_or_that_of_every_other(
    given: tuple[SetAdmissionLimit, ...], name: str, tasks_max: int | None
) -> None:
    assert admission.tasks_max(after(*given), Key(ROLE, name)) == tasks_max


def test_the_event_says_who_and_when() -> None:
    [event] = admission.decide(admission.INITIAL, limit(4))
    assert event == AdmissionLimitSet(dimension=ROLE, name="tester", tasks_max=4, by="local", at_unix_micros=7)


def test_there_are_no_more_limits_than_allowed() -> None:
    state = after(*(limit(1, f"role-{number}") for number in range(admission.LIMITS_MAX)))
    with pytest.raises(TooLarge):
        admission.decide(state, limit(1, "one-more"))
    assert admission.decide(state, limit(2, "role-0"))


def test_a_key_is_said_as_people_write_it() -> None:
    assert str(Key(ROLE, "tester")) == "role=tester"
