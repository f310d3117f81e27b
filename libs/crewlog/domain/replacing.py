"""Replacing fields of a state: what folding a history does most.

It costs half of what `dataclasses.replace` does, and a fifteenth of it for a class without slots, whose instances
become copies of one dictionary, half as large as one that has grown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The type checker knows what the standard library's takes.
    from dataclasses import replace as replace
else:

    def replace(state, /, **changes):
        """As `dataclasses.replace`, for a frozen dataclass whose fields are all set as they are given."""
        new = object.__new__(type(state))
        if hasattr(state, "__dict__"):
            object.__setattr__(new, "__dict__", {**vars(state), **changes})
        else:
            get, put = _access(type(state))
            for put_one, value in zip(put.values(), get(state), strict=True):
                put_one(new, value)
            for name, value in changes.items():
                put[name](new, value)
        return new


@cache
def _access(kind: type) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, Callable[[Any, Any], None]]]:
    """Reads all fields, and sets each."""
    names = [field.name for field in fields(kind)]
    return attrgetter(*names), {name: vars(kind)[name].__set__ for name in names}
