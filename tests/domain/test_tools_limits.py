"""docs/limits.md says the numbers that the code uses."""

from __future__ import annotations

import re
from pathlib import Path

from crewlog.domain.run import results
from crewlog.tools import limits

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
UNITS = {"": 1, "s": 1, "MiB": limits.MIB, "GiB": limits.GIB}


def test_the_page_has_every_limit_with_its_value() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d,.]+) ?(\w*) \|", PAGE.read_text(), re.MULTILINE)
    said = {name: float(number.replace(",", "")) * UNITS[unit] for name, number, unit in rows}
    names = [name for name in vars(limits) if name.isupper() and name not in ("KIB", "MIB", "GIB")]
    assert said == {name: float(getattr(limits, name)) for name in names}


def test_what_a_tool_may_hand_over_is_what_a_run_takes() -> None:
    assert limits.STRUCTURED_BYTES_MAX == results.STRUCTURED_BYTES_MAX
