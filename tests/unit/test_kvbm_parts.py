"""The parts of the tier that need neither NIXL nor an engine: chains, pace, breaker, orders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._breaker import Breaker
from memkv_nixl.kvbm._chains import Block, Chain, run_begins
from memkv_nixl.kvbm._orders import Order, pieces_of
from memkv_nixl.kvbm._pace import Pace
from memkv_nixl.kvbm._settings import TierSettings, tier_settings
from memkv_nixl.kvbm._vllm_requests import RequestState, leading
from memkv_nixl.plan import Rule


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def learnt(count: int, tokens: int = 16, group_blocks: int = 4, lead_blocks: int = 0) -> Chain:
    chain = Chain(tokens, group_blocks, lead_blocks)
    for i in range(count):
        chain.learn(b"%d" % i, tokens * (i + 1))
    return chain


def test_a_run_lies_under_the_name_of_its_first_block() -> None:
    chain = learnt(10)
    blocks = [chain.block(b"%d" % i, 16 * (i + 1)) for i in range(10)]
    assert [block.group for block in blocks if block] == [b"0"] * 4 + [b"4"] * 4 + [b"8"] * 2
    assert [block.depth for block in blocks if block] == list(range(10))


def test_first_blocks_lie_each_for_itself() -> None:
    chain = learnt(9, lead_blocks=2)
    groups = [block.group for i in range(9) if (block := chain.block(b"%d" % i, 16 * (i + 1)))]
    assert groups == [b"0", b"1"] + [b"2"] * 4 + [b"6"] * 3


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 16), st.integers(0, 20))
def test_whoever_has_a_key_finds_its_place(
    longer: int, shorter: int, group_blocks: int, lead_blocks: int
) -> None:
    """The writer's prompt may go on where the reader's ends, and the other way about."""
    writer = learnt(longer, 16, group_blocks, lead_blocks)
    reader = learnt(shorter, 16, group_blocks, lead_blocks)
    for i in range(min(longer, shorter)):
        assert writer.block(b"%d" % i, 16 * (i + 1)) == reader.block(b"%d" % i, 16 * (i + 1))


def test_a_part_of_a_block_is_nobodys_ancestor() -> None:
    chain = learnt(4)
    chain.learn(b"part", 16 * 4 + 5)  # the fifth block is not full yet
    assert chain.block(b"part", 16 * 4 + 5) == Block(b"part", b"part", 4)
    chain.learn(b"4", 16 * 5)
    chain.learn(b"5", 16 * 6)
    assert chain.block(b"5", 16 * 6) == Block(b"5", b"4", 5)


def test_a_part_among_the_first_lies_for_itself() -> None:
    chain = learnt(1, lead_blocks=3)
    chain.learn(b"part", 16 + 5)
    assert chain.block(b"part", 16 + 5) == Block(b"part", b"part", 1)


@given(st.integers(0, 60), st.integers(1, 16), st.sampled_from([0, 1, 5]))
def test_runs_are_those_that_a_replay_places(count: int, group: int, lead: int) -> None:
    """So `memkv replay` says what these settings do."""
    replayed = [run for run, blocks in Rule(group, lead=lead).runs(range(count)) for _ in blocks]
    assert replayed == [run_begins(place, group, lead) for place in range(count)]


def test_without_its_ancestor_a_key_has_no_place() -> None:
    chain = Chain(16, 4)
    chain.learn(b"2", 16 * 3)
    assert chain.block(b"2", 16 * 3) is None


def test_load_until_both_are_known_and_then_what_is_faster() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.loading_wins(1 << 30, 128)
    pace.began(1000)
    clock.now += 1
    pace.ended(1000, 1000)  # 1000 bytes/s
    assert pace.loading_wins(1 << 30, 128)
    pace.computed(1000)
    assert pace.loading_wins(500, 1000)
    assert not pace.loading_wins(2000, 1000)


def test_what_is_under_way_stands_in_the_way() -> None:
    clock = Clock()
    pace = Pace(clock, compute_tokens_per_s=1000)
    pace.began(1000)
    clock.now += 1
    pace.ended(1000, 1000)
    assert pace.loading_wins(900, 1000)
    pace.began(500)
    assert not pace.loading_wins(900, 1000)


def test_now_and_then_one_load_finds_out_anew() -> None:
    clock = Clock()
    pace = Pace(clock, compute_tokens_per_s=1000)
    pace.began(100)
    clock.now += 1
    pace.ended(100, 100)
    assert not pace.loading_wins(1000, 1000)
    clock.now += 6
    assert pace.loading_wins(1000, 1000)
    assert not pace.loading_wins(1000, 1000)


def test_small_loads_say_little_of_large_ones() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.began(1 << 30)
    clock.now += 1
    pace.ended(1 << 30, 1 << 30)
    for _ in range(100):  # a block each, which mostly waits
        pace.began(1 << 20)
        clock.now += 0.004
        pace.ended(1 << 20, 1 << 20)
    assert pace.bytes_per_s > 0.7 * (1 << 30)


def test_what_was_measured_long_ago_counts_no_more() -> None:
    clock = Clock()
    pace = Pace(clock, compute_tokens_per_s=1000)
    pace.began(1000)
    clock.now += 10
    pace.ended(1000, 0)  # the pool stood still
    assert not pace.loading_wins(1, 1000)
    clock.now += 6
    assert pace.loading_wins(1000, 1000)
    pace.began(1000)
    clock.now += 0.1
    pace.ended(1000, 1000)
    assert pace.bytes_per_s == pytest.approx(10_000)


def test_what_did_not_arrive_is_no_bandwidth() -> None:
    clock = Clock()
    pace = Pace(clock, compute_tokens_per_s=1000)
    pace.began(1000)
    clock.now += 1
    pace.ended(1000, 1000)
    for _ in range(20):
        pace.began(1000)
        clock.now += 1
        pace.ended(1000, 0)
    assert pace.bytes_per_s < 10


def test_the_breaker_asks_before_it_opens_and_seldom_then() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    assert breaker.probe_in() is None
    breaker.suspect()
    assert breaker.probe_in() == 0
    assert breaker.open  # in doubt nobody waits
    assert not breaker.gone
    breaker.probed(anybody=True)
    assert breaker.probe_in() is None
    assert not breaker.open
    assert breaker.times_opened == 0
    breaker.suspect()
    pauses = []
    for _ in range(8):
        breaker.probed(anybody=False)
        assert breaker.gone
        due = breaker.probe_in()
        assert due is not None
        pauses.append(due)
        clock.now += due
    assert pauses == [0.25, 0.5, 1, 2, 4, 4, 4, 4]
    breaker.probed(anybody=True)
    assert not breaker.open
    assert breaker.times_opened == 1


def order(sizes: list[int], accepted: int = -1) -> Order:
    extents = [Extent(0, size, None) for size in sizes]
    blocks = [Block(b"%d" % i, b"", i) for i in range(len(sizes))]
    return Order("WRITE", blocks, extents, 0.0, 1.0, accepted=accepted)


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 300), st.data())
def test_pieces_hold_every_accepted_block_once(
    sizes: list[int], bytes_max: int, data: st.DataObject
) -> None:
    accepted = data.draw(st.integers(0, len(sizes)))
    pieces = pieces_of(order(sizes, accepted), bytes_max)
    assert [i for piece in pieces for i in range(piece.first, piece.last)] == list(range(accepted))
    for piece in pieces:
        size = sum(sizes[piece.first : piece.last])
        assert size <= bytes_max or piece.last - piece.first == 1


def test_settings_come_from_the_json_and_the_environment() -> None:
    settings = tier_settings({"salt": "a"}, environment={"MEMKV_NODES": "n:1,m:2"})
    assert settings.nodes == ("n:1", "m:2")
    assert tier_settings({"nodes": "k:3"}, environment={"MEMKV_NODES": "n:1"}).nodes == ("k:3",)


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"nodes": "n:1", "fetch_deadline": 3}, "did you mean 'fetch_deadline_ms'?"),
        ({"nodes": "n:1", "group_blocks": 0}, "group_blocks: 0 is not between 1 and 64"),
        ({"nodes": "n:1", "group_blocks": "8"}, "is not a whole number"),
        ({"nodes": "n:1", "events": 1}, "is not true or false"),
        ({"nodes": "n:1", "lora": "maybe"}, "is neither of refuse, fixed"),
        ({}, "no store nodes are named"),
        ({"nodes": "nonsense"}, "is not an address"),
    ],
)
def test_wrong_settings_are_said(given_: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?")):
        tier_settings(given_, environment={})


class Context:
    """What a tier uses of vLLM's ReqContext; the real one is used in tests/engines."""

    def __init__(self, places: dict[bytes, int]) -> None:
        self.req_id = "r"
        self._offload_key_positions = places

    def get_offload_key_position(self, key: bytes) -> int | None:
        return self._offload_key_positions.get(key)


def key(place: int, group: int = 0) -> bytes:
    return b"%032d" % place + group.to_bytes(4, "big")


def request_of(places: dict[bytes, int]) -> RequestState:
    return RequestState(
        Context(places), lambda group: 128, TierSettings(nodes=("n:1",)).group_blocks
    )


def test_a_request_learns_its_keys_as_they_come() -> None:
    places = {key(0): 128, key(1): 256}
    request = request_of(places)
    assert request.block(key(1)) == Block(key(1), key(0), 1)
    assert request.block(key(2)) is None
    places[key(2)] = 384
    assert request.block(key(2)) == Block(key(2), key(0), 2)


def test_a_key_is_loaded_twice_at_most() -> None:
    request = request_of({key(0): 128})
    request.verdicts[key(0)] = True
    for _ in range(2):
        assert request.may_load(key(0))
        request.load_began([key(0)])
    assert not request.may_load(key(0))


def test_what_failed_is_computed() -> None:
    request = request_of({key(0): 128, key(1): 256})
    request.verdicts.update({key(0): True, key(1): True})
    request.load_failed([key(1)])
    assert request.may_load(key(0))
    assert not request.may_load(key(1))


def test_the_speed_is_never_more_than_it_was() -> None:
    request = request_of({})
    request.computed_to(1024, 1.0)
    assert request.tokens_per_s == 0  # nobody knows since when
    request.computing_from(128, 1.0)
    request.computed_to(1152, 2.0)
    assert request.tokens_per_s == 1024
    # Two stores that end together were not computed in the moment between them.
    request.computed_to(2176, 3.0)
    request.computed_to(3200, 3.001)
    assert request.tokens_per_s == pytest.approx(3072 / 2.001)
    request.computed_to(3328, 60.0)  # answers are generated, a token at a time
    assert request.tokens_per_s == pytest.approx(3072 / 2.001)
    request.load_began([])
    request.computed_to(9999, 61.0)
    assert request.tokens_per_s == pytest.approx(3072 / 2.001)


def test_only_what_stands_before_a_hole_counts() -> None:
    keys = [key(i) for i in range(4)]
    assert leading(keys, [True, True, False, True]) == {0: 2}
    assert leading(keys, [False, False, False, False]) == {}
    assert leading(keys, [False, False, True, True]) == {0: 2}  # a sliding window, from its end
    both = [*keys, key(0, 1), key(1, 1)]
    assert leading(both, [True, True, True, True, True, False]) == {0: 4, 1: 1}
