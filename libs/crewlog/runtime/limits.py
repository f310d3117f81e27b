"""Limits of messages and calls; docs/limits.md lists them for users."""

from __future__ import annotations

REQUEST_BYTES_MAX = 8 * 1024 * 1024
ANSWER_BYTES_MAX = 72 * 1024 * 1024
METADATA_BYTES_MAX = 64 * 1024

CALL_SECONDS_DEFAULT = 30.0
CALL_SECONDS_MAX = 60.0

# A process that is frozen keeps its connections: this is how soon its callers turn to another one.
KEEPALIVE_SECONDS = 5
KEEPALIVE_TIMEOUT_SECONDS = 5
PING_INTERVAL_SECONDS_MIN = 2
RECONNECT_MILLIS_MIN = 50
RECONNECT_MILLIS_MAX = 500
RESOLVE_AGAIN_MILLIS = 1_000

MESSAGE_CHARACTERS_MAX = 2_000
WHAT_TO_DO_CHARACTERS_MAX = 1_000
VIOLATIONS_MAX = 32
VIOLATION_CHARACTERS_MAX = 300

SHARED_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    # Pings that measure the bandwidth count as well: while one has no answer, no other is sent.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
