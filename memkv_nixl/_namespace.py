"""Namespaces: one meaning of bytes, as the 16 bytes that go into every block's identity.

`docs/formats/namespace.md` is the page.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass

from memkv_nixl._errors import ConfigError

_SPELLED = re.compile(r"hex:([0-9a-fA-F]{32})")
_HEAD = "memkv.namespace/1"
_COUNTS = {"tokens_per_block": 0, "tp": 1, "pp": 1, "cp": 1}  # and the least each may be
_RANKS = {"tp_rank": "tp", "pp_rank": "pp", "cp_rank": "cp"}
_GENERATION_MAX = 2**32 - 1


def namespace_id(name: str) -> bytes:
    """The 16 bytes of a namespace: `hex:` and 32 digits spell them, any other text is a name."""
    if not name:
        raise ConfigError("namespace: the name is empty; write one, say llama-70b")
    if spelled := _SPELLED.fullmatch(name):
        return bytes.fromhex(spelled[1])
    try:
        text = name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"namespace: {name!r} is no Unicode text: {error.reason}") from error
    return hashlib.blake2b(text, digest_size=16, person=b"memkv.namespace").digest()


def dialect_id(namespace: bytes, dialect: str) -> bytes:
    """The 16 bytes of a namespace whose keys are spelled so (docs/formats/object-key.md)."""
    if dialect in ("raw", "full"):
        return namespace
    return hashlib.blake2b(
        namespace + dialect.encode(), digest_size=16, person=b"memkv.dialect"
    ).digest()


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """One meaning of bytes: two namespaces are equal exactly when their blocks may be mixed.

    Name everything that changes what a block's bytes mean; what is left out counts as its default.
    Whoever is in doubt puts it in: a namespace too many costs misses, one too few costs wrong
    answers.
    """

    model: str
    """The model as everybody spells it, say "meta-llama/Llama-3.1-70B"."""
    revision: str = ""
    """Which weights: a commit or a digest of them."""
    dtype: str = ""
    """Of the cache, say "bfloat16" or "fp8_e4m3"."""
    quantization: str = ""
    """How the cache is quantised beyond its dtype, and with which scales."""
    layout: str = ""
    """How a block's bytes are arranged, say "NHD" or "HND"; never inferred from a shape."""
    tokens_per_block: int = 0
    """Tokens of one block; 0 is unsaid."""
    tp: int = 1
    """Tensor-parallel size."""
    tp_rank: int = 0
    """Which of the `tp` shares."""
    pp: int = 1
    """Pipeline-parallel size."""
    pp_rank: int = 0
    """Which of the `pp` shares."""
    cp: int = 1
    """Context-parallel size."""
    cp_rank: int = 0
    """Which of the `cp` shares."""
    engine: str = ""
    """The engine and the version of its layout, say "vllm/3"."""
    salt: str = ""
    """Anything that keeps two uses apart."""
    generation: int = 0
    """Advance it to forget everything that was stored under the others."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check(field.name, getattr(self, field.name), str(field.type))

    def _check(self, name: str, value: object, kind: str) -> None:
        if kind == "str":
            if not isinstance(value, str):
                raise ConfigError(f"namespace: {name} is {value!r}; it must be text")
            if name == "model" and not value:
                raise ConfigError("namespace: model is empty; write the model's name")
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"namespace: {name} is {value!r}; it must be a whole number")
        if name in _RANKS:
            of = _RANKS[name]
            size = getattr(self, of)
            if not 0 <= value < size:
                raise ConfigError(
                    f"namespace: {name} is {value}; with {of}={size} it is 0 to {size - 1}"
                )
        elif value < _COUNTS.get(name, 0) or value > _GENERATION_MAX:
            raise ConfigError(
                f"namespace: {name} is {value}; it must be {_COUNTS.get(name, 0)} "
                f"to {_GENERATION_MAX}"
            )

    @property
    def canonical(self) -> str:
        """The one spelling of this namespace, which its fingerprint is taken of."""
        lines = [_HEAD]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                lines.append(f"{field.name}={_escaped(value)}")
        return "\n".join(lines)

    @property
    def fingerprint(self) -> bytes:
        """The 16 bytes that go into the identity of every block."""
        return namespace_id(self.canonical)

    def __repr__(self) -> str:
        said = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"Namespace({', '.join(said)})"

    def __str__(self) -> str:
        """For logs: the model and the fingerprint."""
        return f"{self.model}:{self.fingerprint.hex()}"


def _escaped(value: str | int) -> str:
    return str(value).replace("%", "%25").replace("\n", "%0A")
