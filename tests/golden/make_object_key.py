"""Makes tests/golden/object_key.json, which holds all who write or read object keys together.

Run from the project's root: `python -m tests.golden.make_object_key`. What it follows is
docs/formats/object-key.md. Bytes are written as hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from memkv_nixl._namespace import namespace_id

FILE = Path(__file__).with_name("object_key.json")

RULES = {
    "keys": "[dialect, device id, metaInfo, key; empty where it is refused]",
    "records": "[key, group, depth, recompute cost, record]",
    "refused records": "records that a reader refuses",
    "digests": "[personalisation, length n, BLAKE2b-128 of the bytes i mod 251 for i < n]",
    "spaces": "[namespace, dialect, id]",
}

NAMES = ["default", "llama-70b", "ä", "hex:000102030405060708090a0b0c0d0e0f", "x" * 300]
LENGTHS = [0, 1, 2, 63, 64, 127, 128, 129, 255, 256, 257, 1000]


def record(key: bytes, group: bytes, depth: int = 0, cost: int = 0) -> bytes:
    head = struct.pack("<4sBBHHHII", b"MKVK", 1, 0, len(key), len(group), 0, depth, cost)
    return head + key + group


def digest(data: bytes, person: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16, person=person).hexdigest()


def space(name: str, dialect: str) -> str:
    plain = namespace_id(name)
    if dialect in ("raw", "full"):
        return plain.hex()
    return digest(plain + dialect.encode(), b"memkv.dialect")


def keys() -> list[list[str]]:
    device = 0x0102030405060708
    named: list[tuple[str, int, bytes, bytes]] = [
        ("raw", 1, b"\x00\xffkey", b"\x00\xffkey"),
        ("raw", 1, b"", b""),
        ("raw", 1, b"k" * 512, b"k" * 512),
        ("raw", 1, b"k" * 513, b""),
        ("obj", 1, b"key", b"key"),
        ("obj", 0, b"", b"0"),
        ("obj", 2**64 - 1, b"", b"18446744073709551615"),
        ("obj", 1, b"k" * 513, b""),
        ("cmx", device, b"", bytes([8, 7, 6, 5, 4, 3, 2, 1])),
        ("cmx", 1, b"00", b"\x00"),
        ("cmx", 1, b"0aFf", b"\x0a\xff"),
        ("cmx", 1, b"00112233445566778899aabbccddeeff", bytes(range(0, 256, 17))),
        ("cmx", 1, b"0", b""),
        ("cmx", 1, b"0x10", b""),
        ("cmx", 1, b"+1", b""),
        ("cmx", 1, b" 1", b""),
        ("cmx", 1, b"zz", b""),
        ("cmx", 1, b"00" * 17, b""),
        ("full", 1, record(b"hello", b"chain", 3, 250), b"hello"),
        ("full", 1, record(b"\xff" * 512, b"g" * 512), b"\xff" * 512),
        ("full", 1, b"", b""),
        ("full", 1, b"hello", b""),
    ]
    return [[dialect, str(at), info.hex(), key.hex()] for dialect, at, info, key in named]


def refused_records() -> list[str]:
    good = record(b"hello", b"chain", 3, 250)
    changed = [
        good[:-1],
        good + b"\x00",
        good[:19],
        b"mkvk" + good[4:],
        good[:4] + b"\x02" + good[5:],
        good[:5] + b"\x01" + good[6:],
        good[:10] + b"\x01" + good[11:],
        good[:11] + b"\x01" + good[12:],
        record(b"", b"group"),
        record(b"k" * 513, b""),
        record(b"k", b"g" * 513),
    ]
    return [bytes_.hex() for bytes_ in changed]


def main() -> None:
    named = [(b"hello", b"chain", 3, 250), (b"k", b"", 0, 0), (b"\xff" * 512, b"\x00" * 512, 7, 8)]
    named.append((b"x", b"y", 2**32 - 1, 2**32 - 2))
    golden = {
        "rules": RULES,
        "keys": keys(),
        "records": [[k.hex(), g.hex(), d, c, record(k, g, d, c).hex()] for k, g, d, c in named],
        "refused records": refused_records(),
        "digests": [
            [person, n, digest(bytes(i % 251 for i in range(n)), person.encode())]
            for person in ("memkv.namespace", "sixteen letters!", "")
            for n in LENGTHS
        ],
        "spaces": [
            [name, dialect, space(name, dialect)]
            for name in NAMES
            for dialect in ("raw", "obj", "cmx", "full")
        ],
    }
    text = json.dumps(golden, indent=1, ensure_ascii=False)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
