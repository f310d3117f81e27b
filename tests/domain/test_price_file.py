"""A price file is taken whole, or refused with the field that is wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.models import price_file
from crewlog.models.prices import DEFAULT_MODEL, PriceList

GOOD = """
[models.house-model]
input_usd_micros_per_mtok = 1_000
output_usd_micros_per_mtok = 2_000
cache_read_usd_micros_per_mtok = 100
cache_write_usd_micros_per_mtok = 1_250
"""
FREE = GOOD.replace("1_000", "0").replace("2_000", "0").replace("100", "0").replace("1_250", "0")


def write(directory: Path, content: str | bytes) -> Path:
    path = directory / "prices.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_file_overrides_and_adds(tmp_path: Path) -> None:
    overriding = GOOD + GOOD.replace("house-model", DEFAULT_MODEL)
    found = PriceList.load(write(tmp_path, overriding))
    for model in ("house-model", DEFAULT_MODEL):
        price = found.price_of(model, input_tokens=10**6)
        assert (price.model, price.input_usd_micros_per_mtok, price.output_usd_micros_per_mtok) == (model, 1_000, 2_000)
        assert price.source == f"file prices.toml sha256:{hashlib.sha256(overriding.encode()).hexdigest()[:16]}"
    assert found.price_of("claude-opus-5-5").source.startswith("genai-prices ")


def test_without_a_file_there_are_the_list_prices() -> None:
    assert PriceList.load(None).price_of(DEFAULT_MODEL).source.startswith("genai-prices ")
    with pytest.raises(InvalidCommand, match="no price"):
        PriceList.load(None).price_of("house-model")


def test_a_model_may_be_free_and_a_file_empty(tmp_path: Path) -> None:
    assert PriceList.load(write(tmp_path, FREE)).price_of("house-model").output_usd_micros_per_mtok == 0
    assert not price_file.load(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (GOOD.replace("1_000", "-1"), "input_usd_micros_per_mtok.*not -1"),
        (GOOD.replace("1_000", "nan"), "whole number.*not nan"),
        (GOOD.replace("1_000", "inf"), "whole number.*not inf"),
        (GOOD.replace("1_000", "0.5"), "whole number.*not 0.5"),
        (GOOD.replace("1_000", "3.0"), "whole number.*not 3.0"),
        (GOOD.replace("1_000", "true"), "whole number.*not True"),
        (GOOD.replace("1_000", "'3'"), "whole number.*not '3'"),
        (GOOD.replace("1_000", "2026-01-01"), "whole number.*not datetime"),
        (GOOD.replace("1_000", str(price_file.PRICE_MAX + 1)), "whole number"),
        (GOOD.replace("1_000", "9" * 100), "whole number"),
        (GOOD.replace("1_000", "9" * 5_000), "cannot be read"),
        (GOOD.replace("output_", "out_"), "unknown field 'out_usd"),
        (GOOD.replace("cache_read_usd_micros_per_mtok = 100", ""), "cache_read.*not None"),
        (GOOD + GOOD, "cannot be read.*house-model"),
        (GOOD + "input_usd_micros_per_mtok = 2", "cannot be read: Cannot overwrite a value"),
        (GOOD.replace("house-model", '""'), "'' is not the name of a model"),
        (GOOD.replace("house-model", '"a b"'), "'a b' is not the name of a model"),
        (GOOD.replace("house-model", "x" * 10_000), "is not the name of a model"),
        (GOOD + "[currency]", "unknown field 'currency'"),
        ("[prices]", "unknown field 'prices'"),
        ("models = 3", "must be a table"),
        ("[models]\nx = 3", "models.x must be a table"),
        ("[[models]]", "must be a table"),
        ("x = " + "[" * 100_000, "cannot be read"),
        ("not toml", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"#" * (price_file.BYTES_MAX + 1), "cannot be read: it is larger than"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, content: str | bytes, why: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InvalidCommand, match=why) as refused:
        PriceList.load(path)
    assert str(path) in refused.value.message
    assert len(refused.value.message) < len(str(path)) + 400
    assert "input_usd_micros_per_mtok" in refused.value.what_to_do


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidCommand, match="cannot be read"):
        PriceList.load(tmp_path / name)
