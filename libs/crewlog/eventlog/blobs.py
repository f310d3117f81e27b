"""Blobs as files named by their hash: `<directory>/ab/abcdef...`.

A blob is written aside, synced, renamed, and its folder is synced: it is there whole, or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

from crewlog.eventlog.limits import SHA256_BYTES, check_blob
from crewlog.eventlog.port import BlobCorrupt, BlobMissing

DIRECTORY_MODE = 0o700


class FileBlobs:
    """A BlobStore in a directory, which several processes may share. What was damaged is replaced by the next `put`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)

    async def put(self, content: bytes) -> bytes:
        check_blob(content)
        return await asyncio.to_thread(self._put, content)

    async def get(self, sha256: bytes) -> bytes:
        if len(sha256) != SHA256_BYTES:
            raise BlobMissing(f"{sha256.hex()[:80]} is not the hash of a blob")
        return await asyncio.to_thread(self._get, sha256)

    def _put(self, content: bytes) -> bytes:
        sha256 = hashlib.sha256(content).digest()
        path = self._path(sha256)
        if not _holds(path, content):
            self._make_folder(path.parent)
            _write(path, content)
        _sync_directory(path.parent)
        return sha256

    def _get(self, sha256: bytes) -> bytes:
        try:
            content = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(sha256.hex()) from None
        if hashlib.sha256(content).digest() != sha256:
            raise BlobCorrupt(str(self._path(sha256)))
        return content

    def _path(self, sha256: bytes) -> Path:
        name = sha256.hex()
        return self._directory / name[:2] / name

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            _sync_directory(self._directory)


def _holds(path: Path, content: bytes) -> bool:
    """Another process may have renamed it and not yet synced the folder: who asks has to do that."""
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes) -> None:
    fd, aside = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(aside, path)  # noqa: PTH105
    except BaseException:
        os.unlink(aside)  # noqa: PTH108
        raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
