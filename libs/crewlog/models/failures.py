"""Why a model call failed, as one pure table: what it means, what to do next, whether to try again, whether it may have
cost something.

A status of 4xx, 429, 503 or 529 is a refusal: nothing was computed, nothing is charged. Once the request may have been
worked on (another 5xx, a silence, a broken stream) we do not know, and count it as charged.

The statuses and types are those of https://platform.claude.com/docs/en/api/errors and of
`anthropic.types.shared.ErrorType`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime

from crewlog.v1.answer_pb2 import Failure

RETRY_AFTER_MILLIS_MAX = 24 * 3600 * 1000
MESSAGE_CHARACTERS_MAX = 500


@dataclass(frozen=True)
class Kind:
    """`may_have_charged` holds for an error that comes as the answer itself; inside a stream everything may have."""

    reason: str
    what_to_do: str
    retryable: bool = False
    may_have_charged: bool = False


class ModelError(Exception):
    """A model call that gave no answer. `retry_after_millis` is the provider's wish, 0 where it gave none."""

    def __init__(self, failure: Failure, may_have_charged: bool, retry_after_millis: int = 0) -> None:
        super().__init__(f"{failure.reason}: {failure.message}")
        self.failure = failure
        self.may_have_charged = may_have_charged
        self.retry_after_millis = retry_after_millis


# Each ends with the next step of somebody who finds the run paused. Where it is tried again, that comes before.
_RESUME = "then `crewlog resume RUN`."
_AGAIN = f"start the platform again, {_RESUME}"
_KEY = f"Set ANTHROPIC_API_KEY to a valid key, {_AGAIN}"
_WAIT = f"Wait until the provider answers again, {_RESUME}"
_OTHERWISE = "to try this one once more: `crewlog resume RUN`."

REQUEST_INVALID = Kind("model_request_invalid", f"Mend what the message names, {_RESUME}")
CONTEXT_TOO_LONG = Kind(
    "context_too_long", f"Start another run with a smaller task or a model with a larger context; {_OTHERWISE}"
)
KEY_MISSING = Kind("model_key_missing", _KEY)
KEY_REFUSED = Kind("model_key_refused", _KEY)
SPEND_LIMIT = Kind("model_spend_limit", f"Raise the spend limit or add credit in the provider's console, {_RESUME}")
NOT_PERMITTED = Kind("model_not_permitted", f"Let the key use this model in the provider's console, {_RESUME}")
UNKNOWN = Kind(
    "model_unknown",
    f"Where the name of the model is wrong, start another run with --model; else set CREWLOG_MODEL_BASE_URL, {_AGAIN}",
)
TOO_LARGE = Kind("model_request_too_large", f"Start another run with a smaller task; {_OTHERWISE}")
RATE_LIMITED = Kind("model_rate_limited", _WAIT, retryable=True)
OVERLOADED = Kind("model_overloaded", _WAIT, retryable=True)
UNAVAILABLE = Kind("model_unavailable", _WAIT, retryable=True)
BROKEN = Kind("model_unavailable", _WAIT, retryable=True, may_have_charged=True)
UNREACHABLE = Kind("model_unreachable", f"Mend the network or the provider's address, {_RESUME}", retryable=True)
ADDRESS_INVALID = Kind(
    "model_address_invalid",
    f"Set CREWLOG_MODEL_BASE_URL to http://HOST or https://HOST, {_AGAIN}",
)
TIMED_OUT = Kind("model_timed_out", _WAIT, retryable=True, may_have_charged=True)
DISCONNECTED = Kind("model_disconnected", _WAIT, retryable=True, may_have_charged=True)
UNREADABLE = Kind(
    "model_answer_unreadable",
    f"Set CREWLOG_MODEL_BASE_URL to the address of an Anthropic Messages API, {_AGAIN}",
    may_have_charged=True,
)

_BY_STATUS: Mapping[int, Kind] = {
    400: REQUEST_INVALID,
    401: KEY_REFUSED,
    402: SPEND_LIMIT,
    403: NOT_PERMITTED,
    404: UNKNOWN,
    408: BROKEN,
    409: UNAVAILABLE,
    413: TOO_LARGE,
    429: RATE_LIMITED,
    503: UNAVAILABLE,
    529: OVERLOADED,
}
# An error inside a stream has no status of its own, only a type.
_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# A 429 that does not pass by waiting for seconds.
_SPEND_CODES = frozenset({"contract_spend_limit_reached", "enforced_spend_limit_reached"})
# The provider has no code for it, only these words.
_TOO_LONG_WORDS = ("prompt is too long", "exceed context limit", "context window")
_SPENT_WORDS = ("credit balance is too low", "reached your specified api usage limits")

KINDS: tuple[Kind, ...] = (
    *(REQUEST_INVALID, CONTEXT_TOO_LONG, KEY_MISSING, KEY_REFUSED, SPEND_LIMIT, NOT_PERMITTED, UNKNOWN, TOO_LARGE),
    *(RATE_LIMITED, OVERLOADED, UNAVAILABLE, BROKEN, UNREACHABLE, ADDRESS_INVALID, TIMED_OUT, DISCONNECTED),
    UNREADABLE,
)


def kind_of(status: int, error_type: str = "", error_code: str = "", message: str = "") -> Kind:
    """The row for an error that the provider answered with."""
    if 300 <= status < 400:
        return ADDRESS_INVALID
    status = status if status >= 400 else _STATUS_OF_TYPE.get(error_type, 500)
    if error_code in _SPEND_CODES or (status < 500 and _says(message, _SPENT_WORDS)):
        return SPEND_LIMIT
    if status == 400 and _says(message, _TOO_LONG_WORDS):
        return CONTEXT_TOO_LONG
    return _BY_STATUS.get(status, BROKEN if status >= 500 else REQUEST_INVALID)


def _says(message: str, words: Iterable[str]) -> bool:
    return any(word in message.lower() for word in words)


def error_of(kind: Kind, message: str, *, retry_after_millis: int = 0) -> ModelError:
    failure = Failure(
        reason=kind.reason,
        message=message[:MESSAGE_CHARACTERS_MAX],
        what_to_do=kind.what_to_do,
        retryable=kind.retryable,
    )
    return ModelError(failure, kind.may_have_charged, retry_after_millis)


def answered_error(status: int, body: object, headers: Mapping[str, str], now: float) -> ModelError:
    """The error for an error response, or for an `error` event in a stream (whose status is 200). `now` in seconds."""
    error_type, error_code, message = _parts(body)
    kind = kind_of(status, error_type, error_code, message)
    wish = headers.get("x-should-retry")
    if wish in ("true", "false"):
        kind = replace(kind, retryable=wish == "true")
    if status < 400:
        kind = replace(kind, may_have_charged=True)
    return error_of(kind, message or f"HTTP status {status}", retry_after_millis=retry_after_millis(headers, now))


def retry_after_millis(headers: Mapping[str, str], now: float) -> int:
    """From `retry-after-ms`, else from `retry-after` in seconds or as a date; 0 where there is none, or nonsense."""
    for name, millis in (("retry-after-ms", 1), ("retry-after", 1000)):
        if _NUMBER.fullmatch(headers.get(name, "").strip()):
            return math.ceil(min(float(headers[name]) * millis, RETRY_AFTER_MILLIS_MAX))
    at = _time(headers.get("retry-after", ""))
    # A date is one of the provider's clock; what its answer is dated says how far that is from ours.
    seconds = 0.0 if at is None else at - (_time(headers.get("date", "")) or now)
    return min(max(0, math.ceil(seconds * 1000)), RETRY_AFTER_MILLIS_MAX)


_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def _time(text: str) -> float | None:
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _parts(body: object) -> tuple[str, str, str]:
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return "", "", body if isinstance(body, str) else ""
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, Mapping) else None
    return _text(error.get("type")), _text(code), _text(error.get("message"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
