"""Bodies: what is small stands in the entry, what is large becomes a blob before the entry names it."""

from __future__ import annotations

from crewlog.eventlog.port import INLINE_BYTES_MAX, BlobStore
from crewlog.v1.body_pb2 import BlobRef, Body


async def store(blobs: BlobStore, content: bytes) -> Body:
    """A body that may be put into an event. Raises TooLarge as the blob store does."""
    if len(content) <= INLINE_BYTES_MAX:
        return Body(inline=content)
    return Body(blob=BlobRef(sha256=await blobs.put(content), size_bytes=len(content)))


async def load(blobs: BlobStore, body: Body) -> bytes:
    """The content. Raises BlobMissing or BlobCorrupt."""
    return await blobs.get(body.blob.sha256) if body.HasField("blob") else body.inline
