"""Makes tests/golden/wire/*.hex: one frame each, and one whole conversation.

Run from the project's root: `python -m tests.golden.make_wire`. It is written from
docs/formats/wire.md alone and shares no line with the C++ side, so that the two hold each other.
Each line of a file is a field: its bytes in hex, then what it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from memkv_nixl import _placement

FOLDER = Path(__file__).with_name("wire")

TYPES = [
    *("HELLO", "CHALLENGE", "AUTH", "WELCOME", "REFUSE", "MATCH", "MATCH_REPLY", "PUT", "GRANT"),
    *("COMMIT", "PUT_DONE", "GET", "GET_BLOCK", "DATA", "CANCEL", "DROP", "DROP_REPLY", "STAT"),
    *("STAT_REPLY", "MAP", "MAP_REPLY", "REPORT", "LIST", "LIST_REPLY", "MARK", "MARK_REPLY"),
]
TCP = 1
OPEN = 1
ALL_ITEMS = 0xFFFFFFFF
OK, EXISTS, NOT_FOUND, BUSY, INVALID, TOO_LARGE = 0, 1, 2, 4, 8, 9
ABSENT, FLASH, DRAM = 0, 1, 2

Field = tuple[bytes, str]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def u8(value: int, what: str) -> Field:
    return struct.pack("<B", value), f"u8 {what} = {value}"


def u16(value: int, what: str) -> Field:
    return struct.pack("<H", value), f"u16 {what} = {value}"


def u32(value: int, what: str) -> Field:
    return struct.pack("<I", value), f"u32 {what} = {value}"


def u32x(value: int, what: str) -> Field:
    return struct.pack("<I", value), f"u32 {what} = {value:#010x}"


def u64(value: int, what: str) -> Field:
    return struct.pack("<Q", value), f"u64 {what} = {value}"


def u64x(value: int, what: str) -> Field:
    return struct.pack("<Q", value), f"u64 {what} = {value:#018x}"


def zeros(count: int) -> Field:
    return bytes(count), "zeros"


def raw(data: bytes, what: str) -> Field:
    return data, what


def run(data: bytes, what: str) -> list[Field]:
    return [u16(len(data), f"{what}: bytes"), *([(data, what)] if data else [])]


def space(first: int = 0x10, generation: int = 3) -> list[Field]:
    name = bytes(range(first, first + 16))
    return [raw(name, "namespace"), u32(generation, "drop generation")]


def crcs(numbers: Iterable[int]) -> list[Field]:
    listed = list(numbers)
    return [u32(len(listed), "CRCs"), *(u32x(n, f"CRC {i}") for i, n in enumerate(listed))]


def frame(name: str, request: int, body: list[Field], payload: bytes = b"") -> list[Field]:
    """The header, the body and the payload."""
    content = b"".join(data for data, _ in body)
    head: list[Field] = [
        raw(b"MKV1", "magic"),
        u8(TYPES.index(name) + 1, f"{name}: type"),
        zeros(3),
        u64(request, "request"),
        u32(len(content), "body bytes"),
        u32(len(payload), "payload bytes"),
        u32x(crc32c(content), "body CRC"),
    ]
    head.append(u32x(crc32c(b"".join(data for data, _ in head)), "header CRC"))
    return [*head, *body, *([raw(payload, "payload")] if payload else [])]


def put_item(length: int, group: _placement.Fingerprint, key: bytes, **traits: int) -> list[Field]:
    return [
        u32(length, "length"),
        u64x(group.high, "group, high"),
        u64x(group.low, "group, low"),
        u32(traits.get("depth", 0), "depth"),
        u32(traits.get("recompute_cost", 0), "recompute cost, us"),
        u32(traits.get("age", 0), "age, s"),
        *run(key, "key"),
    ]


def get_item(offset: int, length: int, key: bytes) -> list[Field]:
    return [u32(offset, "offset"), u32(length, "length"), *run(key, "key")]


def found(where: int, length: int, copied: int = 0) -> list[Field]:
    return [u8(where, "where"), u8(copied, "copied"), zeros(2), u32(length, "length")]


def get_block(code: int, length: int, numbers: list[int], **fields: int) -> list[Field]:
    return [
        u32(fields["epoch"], "epoch"),
        u32(fields["item"], "item"),
        u8(code, "code"),
        u8(fields.get("copied", 0), "copied"),
        zeros(6),
        u64(fields.get("incarnation", 0), "incarnation"),
        u32(length, "block length"),
        u32(fields.get("first_unit", 0), "first unit"),
        *crcs(numbers),
    ]


def put_done(epoch: int, item: int, code: int, incarnation: int) -> list[Field]:
    return [
        u32(epoch, "epoch"),
        u32(item, "item"),
        u8(code, "code"),
        zeros(7),
        u64(incarnation, "incarnation"),
    ]


def welcome(software: bytes) -> list[Field]:
    return [
        u64x(0x0123456789ABCDEF, "node"),
        u64(7, "boot"),
        u32(5, "epoch"),
        u32(TCP, "transports"),
        u32(4096, "batch max"),
        u32(16384, "items max"),
        u32(256, "requests max"),
        u32(64 << 20, "block bytes max"),
        u64(128 << 20, "put bytes granted max"),
        *run(software, "software"),
    ]


def connection_frames() -> dict[str, list[Field]]:
    nonce = bytes(range(32))
    sentence = b"no room for another 256 requests; wait for answers"
    return {
        "hello": frame(
            "HELLO",
            0,
            [
                u16(1, "version min"),
                u16(1, "version max"),
                u32(TCP, "transports"),
                u64x(0x1122334455667788, "session"),
                *run(b"vllm-0", "name"),
            ],
        ),
        "challenge": frame(
            "CHALLENGE",
            0,
            [u16(1, "version"), zeros(2), u32(OPEN, "auth"), raw(nonce, "nonce")],
        ),
        "auth": frame("AUTH", 0, [*run(b"token-of-t1", "token"), *run(b"\xaa\xbb\xcc", "proof")]),
        "auth_open": frame("AUTH", 0, [*run(b"", "token"), *run(b"", "proof")]),
        "welcome": frame("WELCOME", 0, welcome(b"memkvd 0.1.0")),
        "refuse": frame("REFUSE", 9, [u8(BUSY, "code"), zeros(1), *run(sentence, "text")]),
        "refuse_bare": frame("REFUSE", 0, [u8(TOO_LARGE, "code"), zeros(1), *run(b"", "text")]),
    }


def block_frames() -> dict[str, list[Field]]:
    first = _placement.Fingerprint(0x1111111111111111, 0x2222222222222222)
    second = _placement.Fingerprint(0x3333333333333333, 0x4444444444444444)
    puts = [
        *put_item(5, first, b"alpha", depth=2, recompute_cost=900, age=3600),
        *put_item(64 << 20, second, b"\x00\xff"),
    ]
    gets = [*get_item(0, 5, b"alpha"), *get_item(65536, (64 << 20) - 65536, b"\x00\xff")]
    units = [0xDEADBEEF, 1]
    return {
        "put": frame("PUT", 2, [*space(), u32(2, "blocks"), *puts]),
        "grant": frame("GRANT", 2, [u32(1, "item")]),
        "commit": frame("COMMIT", 2, [u32(0, "item"), *crcs([0x9A71BB4C])]),
        "put_done": frame("PUT_DONE", 2, put_done(5, 0, OK, 77)),
        "put_done_exists": frame("PUT_DONE", 2, put_done(5, 4095, EXISTS, 0)),
        "get": frame("GET", 3, [*space(), u32(2, "blocks"), *gets]),
        "get_block": frame(
            "GET_BLOCK",
            3,
            get_block(OK, 200_000, units, epoch=5, item=1, incarnation=77, first_unit=2, copied=1),
        ),
        "get_block_missing": frame("GET_BLOCK", 3, get_block(NOT_FOUND, 0, [], epoch=5, item=0)),
        "get_block_short": frame("GET_BLOCK", 3, get_block(INVALID, 4, [], epoch=5, item=0)),
        "data": frame("DATA", 3, [u32(1, "item"), u32(131072, "offset")], b"\x01\x02\x03\x04\x05"),
        "cancel": frame("CANCEL", 3, [u32(1, "item")]),
        "cancel_all": frame("CANCEL", 3, [u32(ALL_ITEMS, "item")]),
        "report": frame(
            "REPORT", 3, [*space(), zeros(4), u64(77, "incarnation"), *run(b"k", "key")]
        ),
    }


def map_node(
    node: int, weights: tuple[int, ...], domain: int, address: bytes, draining: int = 0
) -> list[Field]:
    weight, *formers = weights
    return [
        u64x(node, "node"),
        u32(weight, "weight"),
        *(u32(former, "former weight") for former in formers),
        u64x(domain, "domain"),
        u8(draining, "draining"),
        *run(address, "address"),
    ]


def listed(incarnation: int, length: int, key: bytes, **fields: int) -> list[Field]:
    group = _placement.Fingerprint(0x1111111111111111, 0x2222222222222222)
    return [
        *space(),
        u64(incarnation, "incarnation"),
        u32(length, "length"),
        u64x(group.high, "group, high"),
        u64x(group.low, "group, low"),
        u32(fields.get("depth", 0), "depth"),
        u32(fields.get("recompute_cost", 0), "recompute cost, us"),
        u32(fields.get("age", 0), "age, s"),
        u8(fields.get("reads", 0), "reads"),
        u8(fields.get("mark", 0), "mark"),
        zeros(2),
        *run(key, "key"),
    ]


def other_frames() -> dict[str, list[Field]]:
    keys = [*run(b"alpha", "key"), *run(b"\x00\xff", "key"), *run(b"c" * 3, "key")]
    answers = [*found(ABSENT, 0), *found(FLASH, 5), *found(DRAM, 64 << 20, copied=1)]
    nodes = [
        *map_node(
            0x0123456789ABCDEF, (100, 100, 70, 0), _placement.node_id_of("rack-7"), b"10.0.0.7:7440"
        ),
        *map_node(2, (0, 50, 50, 0), 0, b"[fd00::1]:7440", draining=1),
    ]
    blocks = [
        *listed(77, 5, b"alpha", depth=2, recompute_cost=900, age=3600, reads=9, mark=1),
        *listed(78, 64 << 20, b"\x00\xff"),
    ]
    asked = [
        u64(0x100000002, "cursor"),
        u32(1024, "count"),
        u8(8, "reads min"),
        u8(1, "mark not"),
        u8(2, "copies min"),
        u8(1, "DRAM only"),
    ]
    return {
        "match": frame("MATCH", 4, [*space(), u32(250, "hold, ms"), u32(3, "keys"), *keys]),
        "match_reply": frame(
            "MATCH_REPLY",
            4,
            [u32(5, "epoch"), u32(1500, "queue delay, us"), u32(3, "keys"), *answers],
        ),
        "drop": frame("DROP", 5, [*space(), u32(3, "keys"), *keys]),
        "drop_reply": frame(
            "DROP_REPLY",
            5,
            [
                u32(5, "epoch"),
                u32(3, "keys"),
                u8(OK, "code"),
                u8(NOT_FOUND, "code"),
                u8(BUSY, "code"),
            ],
        ),
        "stat": frame("STAT", 6, []),
        "stat_reply": frame("STAT_REPLY", 6, [raw(b"boot 7\nblocks 12\n", "text")]),
        "map": frame("MAP", 7, []),
        "map_reply": frame("MAP_REPLY", 7, [u32(5, "epoch"), u32(2, "nodes"), *nodes]),
        "map_reply_empty": frame("MAP_REPLY", 7, [u32(0, "epoch"), u32(0, "nodes")]),
        "list": frame("LIST", 8, asked),
        "list_reply": frame(
            "LIST_REPLY", 8, [u32(5, "epoch"), u64(0x100000003, "next"), u32(2, "blocks"), *blocks]
        ),
        "list_reply_empty": frame(
            "LIST_REPLY", 8, [u32(5, "epoch"), u64(0, "next"), u32(0, "blocks")]
        ),
        "mark": frame(
            "MARK",
            9,
            [*space(), u8(1, "mark"), zeros(3), u64(77, "incarnation"), *run(b"k", "key")],
        ),
        "mark_reply": frame("MARK_REPLY", 9, [u32(5, "epoch"), u8(NOT_FOUND, "code"), zeros(3)]),
    }


def example_frames() -> dict[str, list[Field]]:
    """The worked example of docs/formats/wire.md: a block of 5 bytes is put and got."""
    key, value = b"k1", b"hello"
    name = bytes(range(0x10, 0x20))
    group = _placement.group_fingerprint(name, key)
    crc = crc32c(value)
    done = get_block(OK, 5, [crc], epoch=5, item=0, incarnation=77)
    return {
        "example_put": [
            *frame("PUT", 1, [*space(), u32(1, "blocks"), *put_item(5, group, key)]),
            *frame("GRANT", 1, [u32(0, "item")]),
            *frame("DATA", 1, [u32(0, "item"), u32(0, "offset")], value),
            *frame("COMMIT", 1, [u32(0, "item"), *crcs([crc])]),
            *frame("PUT_DONE", 1, put_done(5, 0, OK, 77)),
        ],
        "example_get": [
            *frame("GET", 2, [*space(), u32(1, "blocks"), *get_item(1, 3, key)]),
            *frame("GET_BLOCK", 2, done),
            *frame("DATA", 2, [u32(0, "item"), u32(0, "offset")], value),
        ],
    }


def render(name: str, fields: list[Field]) -> str:
    lines = [f"# {name}: made by tests/golden/make_wire.py"]
    for data, what in fields:
        rows = [data[at : at + 16].hex(" ") for at in range(0, len(data), 16)]
        if what == "magic":
            lines.append("")
        lines.append(f"{rows[0]:<48}# {what}")
        lines += rows[1:]
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """The text of each file, by its name."""
    frames = connection_frames() | block_frames() | other_frames() | example_frames()
    return {f"{name}.hex": render(name, fields) for name, fields in frames.items()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
