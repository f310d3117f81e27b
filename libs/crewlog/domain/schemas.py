"""Schemas."""

from __future__ import annotations

import json

from crewlog.domain.errors import InvalidCommand


def check_schema(text: str) -> None:
    import jsonschema_rs

    try:
        jsonschema_rs.validator_for(json.loads(text))
    except ValueError as e:
        raise InvalidCommand(str(e), violations={"schema": str(e)[:200]}) from None


def violations_of(schema_json: str, value_json: str) -> list[str]:
    import jsonschema_rs

    v = jsonschema_rs.validator_for(json.loads(schema_json))
    return [e.message for e in v.iter_errors(json.loads(value_json))][:10]
