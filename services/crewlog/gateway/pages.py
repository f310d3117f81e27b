"""Page tokens: opaque, and good only for the list that they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate, takewhile

from crewlog.domain.errors import InvalidCommand
from google.protobuf.message import Message

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200
PAGE_BYTES_MAX = 16 * 1024 * 1024
"""A page that is larger has fewer items: a call could not carry it."""
NUMBER_MAX = 2**63 - 1
_TOKEN_CHARACTERS_MAX = 512


def size(asked: int) -> int:
    """0 means the default; more than the limit is the limit."""
    if asked < 0:
        raise InvalidCommand(f"page_size {asked} is negative", violations={"page_size": "has to be 0 or more"})
    return min(asked or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def fitting(items: Sequence[Message]) -> int:
    """How many of the items, from the first on, are one page; at least one."""
    sizes = accumulate(item.ByteSize() for item in items)
    return max(1, sum(1 for _ in takewhile(lambda size: size <= PAGE_BYTES_MAX, sizes)))


def token(position: str | int, *filters: object) -> str:
    """Names the place after the last item of a page."""
    text = json.dumps([position, _fingerprint(filters)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position(page_token: str, *filters: object) -> str | int | None:
    """The place that a token names, or None for an empty one. Raises InvalidCommand."""
    if not page_token:
        return None
    try:
        if len(page_token) > _TOKEN_CHARACTERS_MAX:
            raise ValueError("too long")
        text = base64.urlsafe_b64decode(page_token + "=" * (-len(page_token) % 4))
        place, fingerprint = json.loads(text)
        str(place).encode()  # as the file has to hold it
    except (ValueError, TypeError, binascii.Error):
        raise refusal() from None
    if fingerprint != _fingerprint(filters):
        raise refusal("belongs to a list with other filters")
    if not isinstance(place, str | int):
        raise refusal()
    return place


def number(page_token: str, *filters: object) -> int | None:
    """As `position`, of a list whose places are numbers that the file can hold."""
    place = position(page_token, *filters)
    if place is None or (isinstance(place, int) and abs(place) <= NUMBER_MAX):
        return place
    raise refusal()


def _fingerprint(filters: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(filters).encode()).hexdigest()[:16]


def refusal(why: str = "is none that this service has given") -> InvalidCommand:
    return InvalidCommand(f"page_token {why}", violations={"page_token": why}, what_to_do="begin without a page token")
