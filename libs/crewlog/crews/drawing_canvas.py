"""A field of characters on which lines meet properly."""

from __future__ import annotations

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
_LINES = " ╵╷│╴┘┐┤╶└┌├─┴┬┼"


class Canvas:
    """Grows as it is drawn on. Lines and texts; a text hides a line."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], int] = {}
        self._texts: dict[tuple[int, int], str] = {}

    def down(self, column: int, top: int, bottom: int) -> None:
        """From the middle of one row to the middle of another."""
        for row in range(top, bottom + 1):
            self._add(row, column, (UP if row > top else 0) | (DOWN if row < bottom else 0))

    def across(self, row: int, one: int, other: int) -> None:
        left, right = min(one, other), max(one, other)
        for column in range(left, right + 1):
            self._add(row, column, (LEFT if column > left else 0) | (RIGHT if column < right else 0))

    def write(self, row: int, column: int, text: str) -> None:
        for number, character in enumerate(text):
            self._texts[row, column + number] = character

    def room(self, row: int, column: int, columns: int) -> int:
        """How many cells are free from there on, up to the edge."""
        for number in range(max(0, columns - column)):
            if (row, column + number) in self._texts or (row, column + number) in self._lines:
                return number
        return max(0, columns - column)

    def text(self) -> str:
        cells = {**{at: _LINES[line] for at, line in self._lines.items()}, **self._texts}
        rows: dict[int, dict[int, str]] = {}
        for (row, column), character in cells.items():
            rows.setdefault(row, {})[column] = character
        return "\n".join(_row(rows.get(row, {})) for row in range(max(rows, default=-1) + 1))

    def _add(self, row: int, column: int, line: int) -> None:
        self._lines[row, column] = self._lines.get((row, column), 0) | line


def _row(cells: dict[int, str]) -> str:
    return "".join(cells.get(column, " ") for column in range(max(cells, default=-1) + 1)).rstrip()
