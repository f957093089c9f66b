"""Tokens: the bytes of docs/formats/token.md, and nothing else, are believed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl.control._cluster import Key
from memkv_nixl.control._tokens import Right, Token, new_key, read, sign

PRIVATE = b"\x11" * 32
KEY = Key(
    b"\x33" * 16,
    Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw(),
    PRIVATE,
)
TOKEN = Token(
    tenant=5,
    key_id=KEY.id,
    id=b"\x44" * 16,
    issued_s=1_700_000_000,
    expires_s=1_700_003_600,
    rights=Right.READ | Right.WRITE,
    holder=b"\x22" * 32,
    namespaces=(b"\x55" * 16,),
)


def test_golden_bytes(repo: Path) -> None:
    """The page's were made by other code than ours (Ed25519 signs alike each time)."""
    page = (repo / "docs/formats/token.md").read_text("utf-8").split("## Golden bytes")[1]
    golden = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f ]+)$", page, re.MULTILINE)))
    assert sign(TOKEN, KEY) == golden
    assert read(golden, KEY.public) == TOKEN


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 7).map(Right),
    st.lists(st.binary(min_size=16, max_size=16), max_size=64),
)
def test_what_is_signed_is_read(tenant: int, rights: Right, spaces: list[bytes]) -> None:
    token = Token(tenant, KEY.id, b"i" * 16, 1, 2, rights, b"h" * 32, tuple(spaces))
    signed = sign(token, KEY)
    assert read(signed, KEY.public) == token
    assert 162 <= len(signed) <= 1186


@given(st.data())
def test_no_changed_token_is_believed(data: st.DataObject) -> None:
    signed = bytearray(sign(TOKEN, KEY))
    at = data.draw(st.integers(0, len(signed) - 1))
    signed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="did not sign"):
        read(bytes(signed), KEY.public)


@pytest.mark.parametrize("cut", [1, 63, 64, 65, 176, 178])
def test_no_shorter_or_longer_token_is_believed(cut: int) -> None:
    signed = sign(TOKEN, KEY)
    for text in (signed[:-cut], signed[cut:], signed + bytes(cut)):
        with pytest.raises(ValueError, match="did not sign"):
            read(text, KEY.public)


def test_another_key_signs_nothing_for_this_one() -> None:
    other = new_key()
    assert len({other.id, other.public, other.private}) == 3
    with pytest.raises(ValueError, match="did not sign"):
        read(sign(TOKEN, other), KEY.public)


@pytest.mark.parametrize(
    "body", [b"", b"MKT1" + bytes(90), b"MKT2" + bytes(94), b"MKT1" + bytes(95)]
)
def test_what_is_signed_and_no_token_is_refused(body: bytes) -> None:
    signature = Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(b"memkv.token/1" + body)
    with pytest.raises(ValueError, match=r"too short|no token"):
        read(body + signature, KEY.public)
