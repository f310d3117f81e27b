"""Values become words of a command, and never parts of a script."""

from __future__ import annotations

import pytest
from crewlog.domain.workflow.command_lines import script_with_values


@pytest.mark.parametrize(
    ("argv", "place"),
    [
        (["sh", "-c", "echo {{ a }}"], 2),
        (["/bin/bash", "-e", "-lc", "echo {{ a }}", "x"], 3),
        (["zsh", "-ec", "{{ a }}; {{ b }}"], 2),
        (["sh", "-c", "{{ a }} -q"], 2),
        (["sh", "-c", " {{ a }} "], None),
        (["sh", "-c", 'echo "$1"', "_", "{{ a }}"], None),
        (["sh", "script.sh", "{{ a }}"], None),
        (["sh", "--norc", "script.sh", "{{ a }}"], None),
        (["sh", "-c"], None),
        (["echo", "-c", "x {{ a }}"], None),
        (["{{ a }}"], None),
        ([], None),
    ],
)
def test_a_value_does_not_become_a_part_of_a_script(argv: list[str], place: int | None) -> None:
    assert script_with_values(argv) == place
