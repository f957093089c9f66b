"""What the agent takes: keys, groups, numbers, buffers; and which memory it registers."""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl._buffers import Extent, extent_of
from memkv_nixl._errors import UsageError
from memkv_nixl._memory import MemoryTable, Range
from memkv_nixl.agent._arguments import groups_of, keys_of, need_as_many, numbers_of


def bytes_at(extent: Extent) -> bytes:
    return ctypes.string_at(extent.address, extent.length)


def test_keys_are_text_or_bytes() -> None:
    assert keys_of(["ü", b"\x00", bytearray(b"x")]) == ["ü".encode(), b"\x00", b"x"]  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", ["one", b"one", [""], [b"x" * 513], [3], [None], ["\ud800"]])
def test_wrong_keys_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="key"):
        keys_of(wrong)


def test_one_for_all_or_one_for_each() -> None:
    assert groups_of(None, 2) == [b"", b""]
    assert groups_of("g", 2) == [b"g", b"g"]
    assert groups_of([b"g", "h"], 2) == [b"g", b"h"]
    assert numbers_of(7, 2, "depth") == [7, 7]
    assert numbers_of([1, 2], 2, "depth") == [1, 2]
    assert numbers_of(np.uint32(7), 2, "depth") == [7, 7]  # type: ignore[arg-type]
    assert numbers_of(np.arange(2), 2, "depth") == [0, 1]  # type: ignore[arg-type]


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(UsageError, match="1 given for 2 keys"):
        groups_of([b"g"], 2)
    with pytest.raises(UsageError, match="depth: 3 given for 2 keys"):
        numbers_of([1, 2, 3], 2, "depth")
    with pytest.raises(UsageError, match="2\\^32"):
        numbers_of(-1, 2, "depth")
    for wrong in (1.5, [1, 1.5], "12", None):
        with pytest.raises(UsageError, match="2\\^32"):
            numbers_of(wrong, 2, "depth")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 buffers given for 2 keys"):
        need_as_many([b"x"], 2)


@pytest.mark.parametrize(
    "buffer",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"x12345678y")[1:9],
        np.frombuffer(b"12345678", np.int32),
        np.frombuffer(b"12345678", np.float16).reshape(2, 2),
        (ctypes.c_char * 8).from_buffer_copy(b"12345678"),
        (ctypes.c_int32 * 2).from_buffer_copy(b"12345678"),
        memoryview(np.frombuffer(b"12345678", [("Of", "<i4"), ("T", "<i4")])),
    ],
    ids=lambda buffer: type(buffer).__name__,
)
def test_any_buffer_is_found_where_it_lies(buffer: Any) -> None:
    extent = extent_of(buffer, writable=False, what="buffers[0]")
    assert bytes_at(extent) == b"12345678"


def test_a_get_writes_into_the_callers_memory() -> None:
    target = bytearray(8)
    extent = extent_of(target, writable=True, what="buffers[0]")
    ctypes.memset(extent.address, 0x41, 8)
    assert target == b"A" * 8


@pytest.mark.parametrize(
    ("buffer", "sentence"),
    [
        (b"", "empty"),
        (np.zeros(0), "empty"),
        (b"read-only", "read-only"),
        (np.zeros((4, 4))[:, ::2], "C-contiguous"),
        (memoryview(bytearray(8))[::2], "not contiguous"),
        (np.array([None, "two"]), "Python objects"),
        (memoryview(np.array([None, "two"])), "Python objects"),
        ("text", "no buffer"),
        (None, "no buffer"),
    ],
)
def test_wrong_buffers_are_refused(buffer: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"buffers\\[3\\].*{sentence}"):
        extent_of(buffer, writable=True, what="buffers[3]")


class Registrar:
    """NIXL's side of a MemoryTable: what is registered, each range at most once."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []
        self.fail = False
        self.table = MemoryTable(self.register, self.deregister)

    def register(self, ranges: Sequence[Range]) -> None:
        if self.fail:
            raise MemoryError
        assert not set(ranges) & set(self.ranges)
        self.ranges += ranges

    def deregister(self, ranges: Sequence[Range]) -> None:
        for one in ranges:
            self.ranges.remove(one)


def extents(*ranges: Range) -> list[Extent]:
    return [Extent(address, length, None) for address, length in ranges]


def test_a_range_in_use_twice_is_registered_once() -> None:
    nixl = Registrar()
    first = nixl.table.acquire(extents((100, 10), (100, 10), (200, 5)))
    second = nixl.table.acquire(extents((100, 10)))
    assert sorted(nixl.ranges) == [(100, 10), (200, 5)]
    nixl.table.release(first)
    assert nixl.ranges == [(100, 10)]
    nixl.table.release(second)
    assert nixl.ranges == []


def test_what_lies_in_kept_memory_needs_no_registration() -> None:
    nixl = Registrar()
    nixl.table.keep(extents((1000, 100)))
    taken = nixl.table.acquire(extents((1000, 100), (1010, 5), (1099, 1), (1100, 2), (999, 1)))
    assert sorted(nixl.ranges) == [(999, 1), (1000, 100), (1100, 2)]
    assert nixl.table.forget(extents((1000, 100)))
    assert (1000, 100) in nixl.ranges  # blocks under way still need it
    nixl.table.release(taken)
    assert nixl.ranges == []


def test_where_ranges_lie_across_kept_memory_each_extent_gets_its_own() -> None:
    nixl = Registrar()
    before = nixl.table.acquire(extents((1010, 10)))
    nixl.table.keep(extents((1000, 100)))
    beside = nixl.table.acquire(extents((1050, 10), (1012, 2)))
    assert sorted(nixl.ranges) == [(1000, 100), (1010, 10), (1012, 2), (1050, 10)]
    nixl.table.release(before)
    assert (1012, 2) in nixl.ranges  # its own: what ended did not take it along
    nixl.table.release(beside)
    assert nixl.table.acquire(extents((1050, 10))) == [(1000, 100)]


def found_by_nixl(registered: list[Range], wanted: Range) -> bool:
    """NIXL's look-up: the first range that does not come before it, or the one before that."""
    ranges = sorted(registered)
    at = bisect.bisect_left(ranges, wanted)
    near = ranges[max(0, at - 1) : at + 1]
    return any(a <= wanted[0] and sum(wanted) <= a + n for a, n in near)


def test_only_kept_memory_can_be_forgotten() -> None:
    nixl = Registrar()
    nixl.table.keep(extents((1000, 100)))
    assert not nixl.table.forget(extents((1000, 50)))
    assert not nixl.table.forget(extents((1000, 100), (1000, 100)))
    assert nixl.ranges == [(1000, 100)]


def test_a_refused_registration_leaves_nothing() -> None:
    nixl = Registrar()
    nixl.fail = True
    with pytest.raises(MemoryError):
        nixl.table.acquire(extents((1, 1), (2, 1)))
    assert len(nixl.table) == 0


ranges = st.tuples(st.integers(0, 50), st.integers(1, 20))


@given(st.lists(ranges, max_size=5), st.lists(st.lists(ranges, max_size=4), max_size=8))
def test_every_extent_in_use_lies_in_a_registered_range(
    kept: list[Range], uses: list[list[Range]]
) -> None:
    nixl = Registrar()
    nixl.table.keep(extents(*kept))
    taken = []
    disjoint = not any(a != b and a[0] < sum(b) and b[0] < sum(a) for a in kept for b in kept)
    for use in uses:
        taken.append(nixl.table.acquire(extents(*use)))
        assert not disjoint or all(found_by_nixl(nixl.ranges, wanted) for wanted in use)
        for address, length in (one for done in uses[: len(taken)] for one in done):
            assert any(a <= address and address + length <= a + n for a, n in nixl.ranges)
    for one in taken:
        nixl.table.release(one)
    assert sorted(nixl.ranges) == sorted(set(kept))
    nixl.table.clear()
    assert nixl.ranges == []
