"""What the TensorRT-LLM connector knows of each request: its tokens as a chain of keys, its blocks
on the GPU, and what is still to be loaded or stored."""

from __future__ import annotations

import array
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memkv_nixl.kvbm._chains import Block, run_begins

_ROOT = b"memkv.trtllm/1"
# What makes a request's blocks depend on more than its tokens.
_BESIDE_TOKENS = (
    "multimodal_hashes",
    "multimodal_positions",
    "multimodal_lengths",
    "multimodal_embedding",
    "py_multimodal_data",  # also there where TensorRT-LLM could not make hashes
    "mrope_rotary_cos_sin",
    "prompt_embedding_table",
    "input_token_extra_ids",
    "encoder_tokens",
    "encoder_input_features",
    "cross_attention_mask",
    "skip_cross_attn_blocks",
)
# Requests that only keep the engine busy.
_DUMMIES = ("is_dummy_request", "is_attention_dp_dummy", "is_cuda_graph_dummy", "is_dummy")
_SALTS = ("cache_salt", "cache_salt_id")


def root_of(request: Any, *, with_lora: bool) -> bytes | None:
    """What a request's chain begins with; None where its tokens do not say what its blocks hold."""
    if any(_is_there(getattr(request, name, None)) for name in _BESIDE_TOKENS):
        return None
    if any(getattr(request, name, False) for name in _DUMMIES):
        return None
    if not any(hasattr(request, name) for name in _SALTS):
        return None  # whether it is salted cannot be known
    lora = getattr(request, "lora_task_id", None)
    if lora is not None and not with_lora:
        return None
    said = {name: getattr(request, name, None) for name in _SALTS}
    text = json.dumps({**said, "lora": lora}, sort_keys=True)
    return hashlib.sha256(_ROOT + text.encode()).digest()


def _is_there(value: Any) -> bool:
    if value is None:
        return False
    return len(value) > 0 if hasattr(value, "__len__") else True


class TokenChain:
    """Keys of whole blocks: each is a digest of all tokens up to its end."""

    def __init__(
        self, root: bytes, tokens_per_block: int, group_blocks: int, lead_blocks: int = 0
    ) -> None:
        self._root = root
        self.tokens_per_block = tokens_per_block
        self._group_blocks = group_blocks
        self._lead_blocks = lead_blocks
        self._tokens: list[int] = []
        self._keys: list[bytes] = []

    def __len__(self) -> int:
        """Whole blocks."""
        return len(self._keys)

    def tell(self, first: int, tokens: Sequence[int]) -> bool:
        """The request's tokens from a place on; False where that contradicts what was told."""
        known = self._tokens[first : first + len(tokens)]
        if first > len(self._tokens) or list(tokens[: len(known)]) != known:
            return False
        self._tokens += tokens[len(known) :]
        size = self.tokens_per_block
        while (len(self._keys) + 1) * size <= len(self._tokens):
            place = len(self._keys)
            inside = array.array("q", self._tokens[place * size : (place + 1) * size])
            before = self._keys[-1] if self._keys else self._root
            self._keys.append(hashlib.sha256(before + inside.tobytes()).digest())
        return True

    def block(self, place: int) -> Block:
        """A whole block; runs of them lie together under the first one's name."""
        ancestor = run_begins(place, self._group_blocks, self._lead_blocks)
        return Block(self._keys[place], self._keys[ancestor], place)


class Geometry:
    """Whether a block has as many tokens as TensorRT-LLM's settings say.

    Some attention kernels change that number without a word, and then a block would be taken for
    its neighbour. So nothing is loaded or stored until a prompt of some blocks has shown it: so
    many tokens, so many blocks. A part of a prompt shows nothing, because the blocks of all of it
    are there with its first part already.
    """

    _PROOF_BLOCKS = 4

    def __init__(self, tokens_per_block: int) -> None:
        self._tokens_per_block = tokens_per_block
        self.proven = False
        self.wrong = False

    @property
    def holds(self) -> bool:
        """Whether it was shown, and never contradicted."""
        return self.proven and not self.wrong

    def see(self, tokens: int, blocks: int, *, whole: bool) -> None:
        """A request has so many blocks for so many tokens; one more may be for the next token.

        `whole`: these are all tokens of its prompt.
        """
        needed = -(-tokens // self._tokens_per_block)
        if blocks < needed:
            self.wrong = True
        elif whole and needed >= self._PROOF_BLOCKS and blocks <= needed + 1:
            self.proven = True


class Load(NamedTuple):
    """A block out of a staged row."""

    row: int
    block_id: int


class Save(NamedTuple):
    """A block to be staged, and its name in the pool."""

    block_id: int
    block: Block


@dataclass
class Orders:
    """What one step's worker is told; TensorRT-LLM carries it over as the step's metadata."""

    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)


class Promise(NamedTuple):
    """A block that the engine was told it need not compute: it lies in a row."""

    place: int
    row: int


@dataclass
class RequestState:
    """One request, from its first look-up to its end."""

    chain: TokenChain
    prompt: int  # tokens
    promised: list[Promise] = field(default_factory=list)
    told: int = 0  # tokens that steps have told
    block_ids: list[int] = field(default_factory=list)
    saved: int = 0  # blocks from the first on that are in the pool, or were offered to it
    trusted: bool = True

    def learn(self, data: Any) -> None:
        """What a step tells of it: tokens and blocks since the last one."""
        self.trusted = self.trusted and self.chain.tell(self.told, data.new_tokens)
        self.told += len(data.new_tokens)
        self.block_ids += data.new_block_ids

    def take_loads(self) -> list[Load]:
        """Where the promised blocks have to go. Raises LookupError where one has no place."""
        loads = []
        for place, row in self.promised:
            if place >= len(self.block_ids) or self.block_ids[place] < 0:
                raise LookupError(place)
            loads.append(Load(row, self.block_ids[place]))
        self.promised = []
        return loads

    def take_saves(self, data: Any) -> list[Save]:
        """Blocks that are whole when this step is over, and were not offered before.

        Never a token too many: of what was matched elsewhere, and of generated tokens, a step
        tells more than is computed, and these blocks come with the next one.
        """
        position = data.computed_position
        if position < self.prompt:
            position = min(position + data.num_scheduled_tokens, self.prompt)
        last = min(position // self.chain.tokens_per_block, len(self.chain), len(self.block_ids))
        first, self.saved = self.saved, max(self.saved, last)
        if not self.trusted:
            return []
        return [
            Save(self.block_ids[place], self.chain.block(place))
            for place in range(first, last)
            if self.block_ids[place] >= 0
        ]
