"""Keys: which block of the pool an object of LMCache's is.

LMCache names an object by the hash of its tokens, the model's name, the rank, a group and a salt.
A name says nothing of the weights, the precision or the configuration behind it, and the rank
nothing of how the ranks share the model. MemKVLMCacheConnector therefore adds a mark to the name,
the fingerprint of all of that; of a model without a mark nothing is kept, unless the server's own
setting `weights` vouches for it. What an object looks like (shapes and types) counts, too.

The chunk's hash is the group: what the ranks hold of one chunk lies on one node, because a chunk
of which a rank lacks its part is worth nothing. LMCache tells nobody which chunk comes before.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from memkv_nixl.kvbm._chains import Block

HASH_BYTES = 32
_MARK = re.compile(r"##memkv-([0-9a-f]{32})(?=##|$)")

Layout = tuple[tuple[tuple[int, ...], str], ...]
"""Of an object: shape and type of each of its parts."""


def marked(model: str, fingerprint: bytes) -> str:
    """A model's name with the mark that says what its blocks mean."""
    return f"{model}##memkv-{fingerprint.hex()}"


def meaning_of(model: str) -> str | None:
    """What a name says of the meaning of blocks, None where it has no mark.

    What stands before the mark is the place of the model, which means nothing.
    """
    mark = _MARK.search(model)
    return None if mark is None else model[mark.start() :]


def layout_of(shapes: Iterable[Iterable[int]], types: Iterable[Any]) -> Layout:
    """The layout of an object with these shapes and types."""
    sizes = (tuple(int(size) for size in shape) for shape in shapes)
    return tuple(zip(sizes, map(str, types), strict=True))


def is_serialized(layout: Layout) -> bool:
    """Whether it is that of a row of bytes, which LMCache's serialisers make of everything."""
    return [(len(shape), kind) for shape, kind in layout] == [(1, "torch.uint8")]


def block_of(key: Any, meaning: str, layout: Layout) -> Block:
    """The block that stands for an ObjectKey of LMCache's."""
    chunk: bytes = key.chunk_hash
    series = _series(meaning, key.kv_rank, key.object_group_id, key.cache_salt, layout)
    return Block(chunk + series, chunk, 0)


@functools.lru_cache(maxsize=4096)
def _series(meaning: str, rank: int, group: int, salt: str, layout: Layout) -> bytes:
    """A digest of all that is not the tokens."""
    said = json.dumps([meaning, rank, group, salt, layout], separators=(",", ":"))
    return hashlib.sha256(said.encode("ascii")).digest()
