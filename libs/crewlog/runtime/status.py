"""The one table between refusals and gRPC.

A refusal crosses the wire as the richer error model of gRPC and arrives as the same class, with the same message,
advice and violations. `ErrorInfo.reason` is the class in capitals, its domain is `crewlog`, and its metadata holds
`what_to_do`. Texts are cut at the limits of crewlog.runtime.limits, because they travel in headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from crewlog.domain import errors
from crewlog.domain.errors import Refused
from crewlog.runtime import limits
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

DOMAIN = "crewlog"
DETAILS_KEY = "grpc-status-details-bin"
WHAT_TO_DO = "what_to_do"
INTERNAL_REASON = "INTERNAL"
NOBODY_THERE = "failed to connect"
"""How gRPC begins when nobody listens at an address."""


class RemoteFault(Exception):
    """The other side failed in a way that is no refusal: a bug there, or a release that does not fit this one."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.what_to_do = "look at the log of the service that was called"


@dataclass(frozen=True, slots=True)
class _Row:
    kind: type[Refused]
    code: grpc.StatusCode
    details: str = "bad_request"
    retry_millis: int = 0

    @property
    def reason(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.kind.__name__).upper()


_TABLE = (
    _Row(errors.InvalidCommand, grpc.StatusCode.INVALID_ARGUMENT),
    _Row(errors.NotFound, grpc.StatusCode.NOT_FOUND),
    _Row(errors.Conflict, grpc.StatusCode.ALREADY_EXISTS),
    _Row(errors.StaleClaim, grpc.StatusCode.FAILED_PRECONDITION, "precondition"),
    _Row(errors.MergeConflict, grpc.StatusCode.FAILED_PRECONDITION, "precondition"),
    _Row(errors.WrongState, grpc.StatusCode.FAILED_PRECONDITION, "precondition"),
    _Row(errors.BudgetExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED, "quota"),
    _Row(errors.NotAuthenticated, grpc.StatusCode.UNAUTHENTICATED),
    _Row(errors.NotPermitted, grpc.StatusCode.PERMISSION_DENIED),
    _Row(errors.Contention, grpc.StatusCode.ABORTED, retry_millis=50),
    _Row(errors.Unavailable, grpc.StatusCode.UNAVAILABLE, retry_millis=200),
    _Row(errors.TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED, "quota"),
    _Row(errors.Refused, grpc.StatusCode.FAILED_PRECONDITION),
)
_BY_KIND = {row.kind: row for row in _TABLE}
_BY_REASON = {row.reason: row.kind for row in _TABLE}
_WITHOUT_DETAILS: dict[grpc.StatusCode, type[Refused]] = {
    **{row.code: row.kind for row in reversed(_TABLE)},
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.TooLarge,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidCommand,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}


@dataclass(frozen=True, slots=True)
class Wire:
    """A refusal as gRPC carries it."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def to_wire(refusal: Refused) -> Wire:
    """A subclass that the table does not know travels as the nearest class that it does."""
    row = next(_BY_KIND[kind] for kind in type(refusal).__mro__ if kind in _BY_KIND)
    metadata = {WHAT_TO_DO: refusal.what_to_do[: limits.WHAT_TO_DO_CHARACTERS_MAX]} if refusal.what_to_do else {}
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=metadata)
    message = refusal.message[: limits.MESSAGE_CHARACTERS_MAX]
    return _wire(row.code, message, [info, *_violations(row, refusal), *_retry(row)])


def internal(error_id: str) -> Wire:
    """What a caller learns of a bug: nothing but how to find it in the log."""
    info = error_details_pb2.ErrorInfo(reason=INTERNAL_REASON, domain=DOMAIN, metadata={"error_id": error_id})
    return _wire(grpc.StatusCode.INTERNAL, f"the service failed; its log says why, under {error_id}", [info])


def refusal_of(error: grpc.aio.AioRpcError) -> Refused | RemoteFault:
    """What the other side has raised. Failures of the transport are Unavailable or TooLarge."""
    code, message = error.code(), error.details() or ""
    status = _status_of(error)
    info = _first(status, error_details_pb2.ErrorInfo())
    kind = _BY_REASON.get(info.reason) if info and info.domain == DOMAIN else None
    if info is None or kind is None:
        return _without_details(code, message)
    what_to_do = info.metadata.get(WHAT_TO_DO, "")
    return kind(_passed_on(message), what_to_do=what_to_do, violations=dict(_violations_of(status)))


def _passed_on(message: str) -> str:
    """Whoever was asked is there, and has failed to connect to somebody else."""
    if not message.startswith(NOBODY_THERE):
        return message
    return f"a service behind the one that was asked does not answer: {message.rpartition(': ')[2]}"


def _wire(code: grpc.StatusCode, message: str, details: Iterable[Message]) -> Wire:
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return Wire(code, message, ((DETAILS_KEY, status.SerializeToString()),))


def _violations(row: _Row, refusal: Refused) -> list[Message]:
    cut = _cut(refusal.violations)
    if row.details == "precondition":
        failure = error_details_pb2.PreconditionFailure()
        for field, why in cut.items() or [("", refusal.message[: limits.VIOLATION_CHARACTERS_MAX])]:
            failure.violations.add(type=row.reason, subject=field, description=why)
        return [failure]
    if row.details == "quota":
        quota = error_details_pb2.QuotaFailure()
        for field, why in cut.items() or [("", refusal.message[: limits.VIOLATION_CHARACTERS_MAX])]:
            quota.violations.add(subject=field, description=why)
        return [quota]
    request = error_details_pb2.BadRequest()
    for field, why in cut.items():
        request.field_violations.add(field=field, description=why)
    return [request] if cut else []


def _cut(violations: Mapping[str, str]) -> dict[str, str]:
    size = limits.VIOLATION_CHARACTERS_MAX
    return {field[:size]: why[:size] for field, why in list(violations.items())[: limits.VIOLATIONS_MAX]}


def _retry(row: _Row) -> list[Message]:
    if not row.retry_millis:
        return []
    delay = Duration()
    delay.FromMilliseconds(row.retry_millis)
    return [error_details_pb2.RetryInfo(retry_delay=delay)]


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _first(status: status_pb2.Status, wanted: error_details_pb2.ErrorInfo) -> error_details_pb2.ErrorInfo | None:
    return next((wanted for detail in status.details if detail.Unpack(wanted)), None)


def _violations_of(status: status_pb2.Status) -> Iterable[tuple[str, str]]:
    for detail in status.details:
        request, failure = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
        quota = error_details_pb2.QuotaFailure()
        if detail.Unpack(request):
            yield from ((v.field, v.description) for v in request.field_violations)
        elif detail.Unpack(failure):
            yield from ((v.subject, v.description) for v in failure.violations if v.subject)
        elif detail.Unpack(quota):
            yield from ((v.subject, v.description) for v in quota.violations if v.subject)


def _without_details(code: grpc.StatusCode, message: str) -> Refused | RemoteFault:
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"no answer within the deadline ({message})"
    kind = _WITHOUT_DETAILS.get(code)
    if kind is None:
        return RemoteFault(code, message)
    return kind(message, what_to_do="try again" if kind is errors.Unavailable else "")
