"""A price file: what the models in it cost, in TOML. It is taken whole or refused, with the field that is wrong.

[models."claude-sonnet-5-5"]
input_usd_micros_per_mtok = 2_000_000
output_usd_micros_per_mtok = 10_000_000
cache_read_usd_micros_per_mtok = 100_000
cache_write_usd_micros_per_mtok = 2_500_000
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

from crewlog.domain.errors import InvalidCommand
from crewlog.v1.budget_pb2 import Price

KEYS = tuple(f"{name}_usd_micros_per_mtok" for name in ("input", "output", "cache_read", "cache_write"))
BYTES_MAX = 1024 * 1024
PRICE_MAX = 10**12
"""A million dollars per million tokens: above it is a slip of the pen."""

_MODEL_CHARACTERS_MAX = 128
_DIGEST_CHARACTERS = 16
_SHOWN_CHARACTERS_MAX = 80
_HELP = f"Give for each model, under [models.NAME], the whole numbers {', '.join(KEYS)}."


def load(path: Path) -> Mapping[str, Price]:
    """The prices by model. Their source is the file's name and hash. Raises InvalidCommand."""
    content = _read(path)
    table = _table(_parsed(path, content), str(path))
    _only_known(table, ("models",), str(path))
    source = f"file {path.name} sha256:{hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]}"
    models = _table(table.get("models", {}), f"{path}: models")
    return {model: _price(path, model, source, found) for model, found in models.items()}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > BYTES_MAX:
        raise _unreadable(path, f"it is larger than {BYTES_MAX} bytes")
    return content


def _parsed(path: Path, content: bytes) -> object:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits is a ValueError, deep nesting the other
        raise _unreadable(path, error) from error


def _price(path: Path, model: str, source: str, found: object) -> Price:
    where = f"{path}: models.{_name(path, model)}"
    table = _table(found, where)
    _only_known(table, KEYS, where)
    return Price(model=model, source=source, **{key: _amount(table.get(key), f"{where}.{key}") for key in KEYS})


def _name(path: Path, model: str) -> str:
    if not model or len(model) > _MODEL_CHARACTERS_MAX or not model.isprintable() or " " in model:
        raise _refusal(f"{path}: models.{_shown(model)} is not the name of a model")
    return model


def _amount(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= PRICE_MAX:
        raise _refusal(f"{where} must be a whole number of micro-dollars from 0 to {PRICE_MAX}, not {_shown(value)}")
    return value


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _refusal(f"{where} must be a table, not {_shown(value)}")
    return value


def _only_known(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise _refusal(f"{where} has the unknown field {_shown(unknown[0])}")


def _unreadable(path: Path, why: object) -> InvalidCommand:
    return _refusal(f"the price file {path} cannot be read: {why}")


def _refusal(message: str) -> InvalidCommand:
    return InvalidCommand(message, what_to_do=_HELP)


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_CHARACTERS_MAX]
