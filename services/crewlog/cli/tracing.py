"""`crewlog trace`: the tree of spans, with a bar for when each of them was."""

from __future__ import annotations

import json

from crewlog.cli import following, trace_tree, wording
from crewlog.cli.gateway import Gateway
from crewlog.cli.options import Output
from crewlog.cli.output import say, write_line
from crewlog.cli.trace_tree import Span
from crewlog.telemetry.ids import trace_id_of_run

NAME_CHARACTERS_MAX = 44
DETAIL_CHARACTERS_MAX = 60


async def write_trace(gateway: Gateway, output: Output, run_id: str) -> int:
    spans = trace_tree.spans_of(await following.until_now(gateway, run_id))
    if output is Output.TABLE:
        say(f"trace {trace_id_of_run(run_id):032x} of run {run_id}")
        for line in in_words(spans):
            write_line(line)
    else:
        _write_json(spans, output)
    return 0


def in_words(spans: list[Span]) -> list[str]:
    """A line per span: name, duration, bar, and what is worth saying."""
    width = min(NAME_CHARACTERS_MAX, max((len(_name(span)) for span in spans), default=0))
    return [_line(span, spans[0], width) for span in spans]


def _line(span: Span, root: Span, width: int) -> str:
    micros = span.end_micros - span.start_micros
    time = wording.duration(micros) if micros else ""
    mark = "✗ " if span.failed else ""
    detail = wording.one_line(span.detail, DETAIL_CHARACTERS_MAX)
    return f"{_name(span):<{width}}  {time:>9}  |{trace_tree.bar(span, root)}|  {mark}{detail}".rstrip()


def _name(span: Span) -> str:
    indent = "  " * span.depth
    return indent + wording.one_line(span.name, NAME_CHARACTERS_MAX - len(indent))


def _write_json(spans: list[Span], output: Output) -> None:
    dicts = [
        {
            "name": span.name,
            "depth": span.depth,
            "start_unix_micros": span.start_micros,
            "end_unix_micros": span.end_micros,
            "failed": span.failed,
            "detail": span.detail,
        }
        for span in spans
    ]
    if output is Output.JSONL:
        for each in dicts:
            write_line(json.dumps(each, ensure_ascii=False))
    else:
        write_line(json.dumps(dicts, indent=2, ensure_ascii=False))
