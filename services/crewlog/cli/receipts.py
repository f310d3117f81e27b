"""A resume receipt in words: what is not asked or paid again, what is, what nobody knows, and which files there are."""

from __future__ import annotations

from collections.abc import Iterator

from crewlog.cli import wording
from crewlog.v1.agent_pb2 import ResumeReceipt


def in_words(receipt: ResumeReceipt) -> str:
    """In one line: `12 answers reused ($0.84 not paid again), 1 tool call run again`."""
    return ", ".join(_parts(receipt)) or "nothing was recorded yet"


def facts(receipt: ResumeReceipt) -> Iterator[tuple[str, str]]:
    """Line by line, each with what it means; nothing is said of what there is none of."""
    yield "reused", _reused(receipt)
    if receipt.model_calls_lost:
        lost = wording.money(receipt.lost_usd_micros)
        yield "lost", f"{_model_calls(receipt)} under way: asked again, and the {lost} reserved for it count as spent"
    for name, number, _, meaning in _tool_calls(receipt):
        if number:
            yield name, f"{wording.counted(number, 'tool call')}{meaning}"
    yield "files", f"as recorded last (tree {wording.short_id(receipt.tree)})" if receipt.tree else "as at its start"


def is_calm(receipt: ResumeReceipt) -> bool:
    """Whether nothing was under way, so that nothing is lost, done twice or unknown."""
    return not (receipt.model_calls_lost or any(number for _, number, _, _ in _tool_calls(receipt)[:-1]))


def _parts(receipt: ResumeReceipt) -> Iterator[str]:
    if receipt.model_answers_reused:
        saved = f" ({wording.money(receipt.reused_usd_micros)} not paid again)" if receipt.reused_usd_micros else ""
        yield f"{_answers(receipt)} reused{saved}"
    if receipt.tool_outcomes_reused:
        yield f"{_outcomes(receipt)} reused"
    if receipt.model_calls_lost:
        yield f"{_model_calls(receipt)} lost ({wording.money(receipt.lost_usd_micros)} counts as spent)"
    for _, number, short, _ in _tool_calls(receipt):
        if number:
            yield f"{wording.counted(number, 'tool call')} {short}"


def _tool_calls(receipt: ResumeReceipt) -> tuple[tuple[str, int, str, str], ...]:
    """A name, how many, what becomes of them in a few words, and in more. The last are those not begun before."""
    unknown = ": the model is told that nobody knows whether anything happened"
    return (
        ("run again", receipt.tool_calls_run_again, "run again", " under way: run again"),
        (
            "restored",
            receipt.tool_calls_restored,
            "run again after the files are put back",
            " under way: the files are put back as they were, then it runs again",
        ),
        ("unknown", receipt.tool_calls_told_unknown, "of which nobody knows the outcome", f" under way{unknown}"),
        ("asked", receipt.tool_calls_asked, "put to a person", " under way: a person is asked what is to be done"),
        ("not begun", receipt.tool_calls_not_begun, "not begun before", ": performed now, for the first time"),
    )


def _reused(receipt: ResumeReceipt) -> str:
    if not receipt.model_answers_reused and not receipt.tool_outcomes_reused:
        return "nothing: no answer is recorded yet"
    return f"{_answers(receipt)} ({wording.money(receipt.reused_usd_micros)}, not paid again), {_outcomes(receipt)}"


def _answers(receipt: ResumeReceipt) -> str:
    return wording.counted(receipt.model_answers_reused, "answer")


def _outcomes(receipt: ResumeReceipt) -> str:
    return wording.counted(receipt.tool_outcomes_reused, "tool outcome")


def _model_calls(receipt: ResumeReceipt) -> str:
    return wording.counted(receipt.model_calls_lost, "model call")
