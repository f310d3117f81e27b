"""What every BlobStore does, and what files do besides."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from crewlog.domain.errors import TooLarge
from crewlog.eventlog.blobs import FileBlobs
from crewlog.eventlog.memory import MemoryBlobs
from crewlog.eventlog.port import BLOB_BYTES_MAX, BlobCorrupt, BlobMissing, BlobStore

NOWHERE = hashlib.sha256(b"never stored").digest()


@pytest.fixture(params=["memory", "files"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryBlobs() if request.param == "memory" else FileBlobs(tmp_path / "blobs")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 1_000])
async def test_a_blob_comes_back_by_its_hash(blobs: BlobStore, content: bytes) -> None:
    sha256 = await blobs.put(content)
    assert sha256 == hashlib.sha256(content).digest()
    assert await blobs.get(sha256) == content


async def test_the_same_content_twice_is_one_blob(blobs: BlobStore) -> None:
    assert await blobs.put(b"same") == await blobs.put(b"same")
    assert len(set(await asyncio.gather(*(blobs.put(b"at once") for _ in range(20))))) == 1
    assert await blobs.get(await blobs.put(b"at once")) == b"at once"


@pytest.mark.parametrize("sha256", [NOWHERE, b"", b"short", NOWHERE + b"longer"])
async def test_an_unknown_hash_is_missing(blobs: BlobStore, sha256: bytes) -> None:
    await blobs.put(b"another")
    with pytest.raises(BlobMissing):
        await blobs.get(sha256)


async def test_the_largest_blob_is_stored_and_a_larger_one_refused(blobs: BlobStore) -> None:
    content = bytes(BLOB_BYTES_MAX)
    assert len(await blobs.get(await blobs.put(content))) == BLOB_BYTES_MAX
    with pytest.raises(TooLarge):
        await blobs.put(content + b"x")


async def test_files_are_there_for_the_next_process(directory: Path) -> None:
    sha256 = await FileBlobs(directory).put(b"kept")
    assert await FileBlobs(directory).get(sha256) == b"kept"
    assert [path.name for path in files_of(directory)] == [sha256.hex()]


@pytest.mark.parametrize("damage", [b"", b"kepT", b"kept and more"])
async def test_damage_is_found_and_mended_by_the_next_put(directory: Path, damage: bytes) -> None:
    blobs = FileBlobs(directory)
    sha256 = await blobs.put(b"kept")
    files_of(directory)[0].write_bytes(damage)
    with pytest.raises(BlobCorrupt):
        await blobs.get(sha256)
    await blobs.put(b"kept")
    assert await blobs.get(sha256) == b"kept"


async def test_files_are_for_their_owner_alone(directory: Path) -> None:
    await FileBlobs(directory).put(b"private")
    assert all(path.stat().st_mode & 0o077 == 0 for path in (directory, *directory.rglob("*")))


async def test_a_put_that_fails_leaves_nothing(directory: Path) -> None:
    blobs = FileBlobs(directory)
    sha256 = hashlib.sha256(b"content").digest()
    folder = directory / sha256.hex()[:2]
    (folder / sha256.hex()).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        await blobs.put(b"content")
    assert files_of(directory) == []
