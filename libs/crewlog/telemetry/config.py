"""Where spans go, from the usual variables of OpenTelemetry. The exporter reads the other OTEL_ variables by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping


def wants_traces(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a collector is named and tracing is not switched off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))
