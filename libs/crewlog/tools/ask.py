"""ask: a question to a person, whose answer is the outcome of the call.

It is not run: the agent lets go of its executor, and goes on when somebody has answered, however late that is.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

from crewlog.tools.answers import DENIED, NotDone
from crewlog.tools.inputs import input_of
from crewlog.tools.limits import (
    CHOICE_CHARACTERS_MAX,
    CHOICES_MAX,
    CHOICES_MIN,
    QUESTION_CHARACTERS_MAX,
    QUESTION_SECONDS_MAX,
    QUESTION_SECONDS_MIN,
)
from crewlog.tools.tool import Tool, ToolContext, ToolInput
from crewlog.v1.agent_pb2 import EFFECT_CLASS_KEYED
from crewlog.v1.run_pb2 import GATE_KIND_QUESTION, Question
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "it says nothing")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise PydanticCustomError("not_one_line", "a choice is one line of plain text, without space around it")
    return text


Choice = Annotated[str, Field(min_length=1, max_length=CHOICE_CHARACTERS_MAX), AfterValidator(_one_line)]


class AskInput(ToolInput):
    question: Annotated[str, AfterValidator(_not_blank)] = Field(
        min_length=1,
        max_length=QUESTION_CHARACTERS_MAX,
        description="What the person has to know and to decide. They may see nothing but this.",
    )
    choices: tuple[Choice, ...] = Field(
        default_factory=tuple,
        min_length=CHOICES_MIN,
        max_length=CHOICES_MAX,
        description="The answers that are possible, each short. Leave it out to let the person write.",
    )
    expires_seconds: int = Field(
        default_factory=int,
        ge=QUESTION_SECONDS_MIN,
        le=QUESTION_SECONDS_MAX,
        description="When to go on without an answer. Leave it out to wait for as long as is usual here.",
    )
    default: str = Field(
        default_factory=str,
        max_length=QUESTION_CHARACTERS_MAX,
        description="The answer to go on with when nobody has answered by then; one of the choices where there are.",
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> AskInput:
        if len(set(self.choices)) != len(self.choices):
            raise PydanticCustomError("twice", "a choice stands twice")
        if self.choices and self.default and self.default not in self.choices:
            raise PydanticCustomError("no_choice", "the default is none of the choices")
        return self


def parse_question(input_json: bytes, tools: frozenset[str] | None = None) -> Question:
    """What a call of `ask` asks. `tools` are the names that the agent may use; None allows all. Raises NotDone, which
    is to be answered to the model like that of any other tool."""
    if tools is not None and ASK.name not in tools:
        raise NotDone(DENIED, f"{ASK.name} may not be used here. You have: {', '.join(sorted(tools)) or 'none'}")
    given = input_of(ASK, input_json)
    return Question(
        kind=GATE_KIND_QUESTION,
        question=given.question,
        choices=given.choices,
        expires_seconds=given.expires_seconds,
        default_choice=given.default,
    )


async def _not_here(_: AskInput, context: ToolContext) -> NoReturn:
    raise NotDone(DENIED, "a question cannot be run here: a person has to answer it")


ASK = Tool(
    "ask",
    "Asks a person, and waits for the answer. For decisions that are not yours, not for what you can find out.",
    AskInput,
    EFFECT_CLASS_KEYED,
    False,
    _not_here,
)
