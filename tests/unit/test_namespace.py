"""Namespaces: one spelling, one fingerprint (docs/formats/namespace.md)."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import namespace_id
from memkv_nixl.agent import Namespace

FULL = Namespace(
    model="meta-llama/Llama-3.1-70B",
    dtype="bfloat16",
    layout="NHD",
    tokens_per_block=16,
    tp=8,
    tp_rank=3,
)
# Golden: whoever changes one of these loses every block that anybody has stored.
GOLDEN = {
    "hex:000102030405060708090a0b0c0d0e0F": "000102030405060708090a0b0c0d0e0f",
    "llama-70b": "1b49e97661f042bd4ee36d239bea2486",
    Namespace(model="m"): "a748f6fb169e05ace95e030bb535b1e5",
    FULL: "5aba6de64f2c98fcbc9ca615833e8910",
    Namespace(model="a%b\nc", salt="ü"): "b3c97a7bf018469d708a508fa00d3f15",
}

texts = st.text(max_size=20)
counts = st.integers(1, 64)
namespaces = st.builds(
    Namespace,
    model=st.text(min_size=1, max_size=20),
    revision=texts,
    dtype=texts,
    quantization=texts,
    layout=texts,
    tokens_per_block=st.integers(0, 1024),
    tp=counts,
    pp=counts,
    cp=counts,
    engine=texts,
    salt=texts,
    generation=st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize(("space", "wanted"), GOLDEN.items(), ids=str)
def test_golden_fingerprints(space: Namespace | str, wanted: str) -> None:
    made = namespace_id(space) if isinstance(space, str) else space.fingerprint
    assert made.hex() == wanted


def test_the_page_says_how() -> None:
    assert FULL.canonical == (
        "memkv.namespace/1\nmodel=meta-llama/Llama-3.1-70B\ndtype=bfloat16\nlayout=NHD\n"
        "tokens_per_block=16\ntp=8\ntp_rank=3"
    )
    digest = hashlib.blake2b(FULL.canonical.encode(), digest_size=16, person=b"memkv.namespace")
    assert FULL.fingerprint == digest.digest()


@given(namespaces, namespaces)
def test_equal_exactly_when_the_spelling_is(one: Namespace, other: Namespace) -> None:
    assert (one == other) is (one.canonical == other.canonical)
    assert (one == other) is (one.fingerprint == other.fingerprint)


@given(namespaces)
def test_every_field_counts(space: Namespace) -> None:
    for field in dataclasses.fields(space):
        value = getattr(space, field.name)
        size = {"tp_rank": "tp", "pp_rank": "pp", "cp_rank": "cp"}.get(field.name)
        if size:
            other = dataclasses.replace(space, **{size: value + 2, field.name: value + 1})
        elif isinstance(value, str):
            other = dataclasses.replace(space, **{field.name: value + "x"})
        else:
            other = dataclasses.replace(space, **{field.name: (value + 1) % 2**32})
        assert other != space
        assert other.fingerprint != space.fingerprint


def test_no_value_can_pretend_to_be_another_line() -> None:
    assert Namespace(model="m\ndtype=x").fingerprint != Namespace(model="m", dtype="x").fingerprint
    assert Namespace(model="m%0Ax").fingerprint != Namespace(model="m\nx").fingerprint


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="no Unicode text"):
        _ = Namespace(model="\ud800").fingerprint


def test_repr_can_be_typed_again() -> None:
    assert repr(Namespace(model="m", tp=2, tp_rank=1)) == "Namespace(model='m', tp=2, tp_rank=1)"
    assert eval(repr(FULL)) == FULL


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": ""}, "model is empty"),
        ({"model": 3}, "must be text"),
        ({"model": "m", "tp": 0}, "tp is 0"),
        ({"model": "m", "tp": 2, "tp_rank": 2}, "it is 0 to 1"),
        ({"model": "m", "tokens_per_block": -1}, "tokens_per_block is -1"),
        ({"model": "m", "tokens_per_block": True}, "whole number"),
        ({"model": "m", "generation": 2**32}, "generation"),
    ],
)
def test_wrong_fields_are_named(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Namespace(**wrong)  # type: ignore[arg-type]
