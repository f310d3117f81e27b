"""The limits that every adapter keeps; the sizes themselves stand in the port."""

from __future__ import annotations

from crewlog.domain.errors import InvalidCommand, TooLarge, WrongState
from crewlog.domain.names import is_aggregate_id
from crewlog.eventlog.port import BLOB_BYTES_MAX, ENTRY_BYTES_MAX

BATCH_ENTRIES_MAX = 500
BATCH_BYTES_MAX = 8 * 1024 * 1024
SHA256_BYTES = 32


def check_entry(payload: bytes) -> None:
    if len(payload) > ENTRY_BYTES_MAX:
        raise TooLarge(f"an entry of {len(payload)} bytes; the limit is {ENTRY_BYTES_MAX}")


def check_blob(content: bytes) -> None:
    if len(content) > BLOB_BYTES_MAX:
        raise TooLarge(f"a blob of {len(content)} bytes; the limit is {BLOB_BYTES_MAX}")


def check_kinds(kinds: tuple[str, ...]) -> None:
    """Refuses what would be a wildcard in a subject."""
    for kind in kinds:
        if not is_aggregate_id(kind):
            raise InvalidCommand(f"{kind[:80]!r} is not a kind of aggregate")


def check_head(head: int, known: int) -> None:
    """Refuses a log that ends before a revision that was read from it: whoever went on would write another past."""
    if head < known:
        raise WrongState(
            f"the log ends at revision {head}, and was read up to {known} before: its end was lost, or it was put back"
            " from an older copy",
            what_to_do="stop everything and put back the newest copy of the log; see docs/reliability.md",
        )
