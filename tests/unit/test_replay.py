"""`memkv replay`: traces, simulated nodes, and the replay against a slow and obvious one."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memkv_nixl._errors import UsageError
from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place
from memkv_nixl.cli import main
from memkv_nixl.plan import Plan, Row, Rule, Trace, frontier, make_trace, read_trace, replay
from memkv_nixl.plan import _trace as trace_module
from memkv_nixl.plan._nodes import Node, SmallNode

MIB = 1 << 20


def line(at_ms: float, *ids: int) -> bytes:
    return json.dumps({"timestamp": at_ms, "input_length": 1, "hash_ids": ids}).encode() + b"\n"


def read(*lines: bytes) -> Trace:
    return read_trace(io.BytesIO(b"".join(lines)), "a trace")


def one_row(trace: Trace, plan: Plan, rule: Rule) -> Row:
    (row,) = replay(trace, plan, [rule])
    return row


# ---- traces


def test_a_trace_is_read_in_the_order_of_time() -> None:
    trace = read(line(2000, 7, 8), b"\n", line(500.5, 7, 9), line(2000, 5), line(3000))
    assert trace.times == [0.5005, 2.0, 2.0, 3.0]
    assert trace.requests == [(0, 2), (0, 1), (3,), ()]
    assert trace.depths == [0, 1, 1, 0]
    assert trace.asked == 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"{\n", "is no JSON"),
        (b"\xff\n", "is no JSON"),
        (b"[" * 100_000 + b"\n", "is no JSON"),
        (b"[1]\n", "is no object"),
        (b'{"hash_ids": [1]}\n', "timestamp is milliseconds, not None"),
        (b'{"timestamp": -1, "hash_ids": [1]}\n', "timestamp is milliseconds, not -1"),
        (b'{"timestamp": NaN, "hash_ids": [1]}\n', "timestamp is milliseconds, not nan"),
        (b'{"timestamp": true, "hash_ids": [1]}\n', "timestamp is milliseconds, not True"),
        (b'{"timestamp": 1}\n', "hash_ids is a list of whole numbers, not None"),
        (b'{"timestamp": 1, "hash_ids": ["a"]}\n', "hash_ids is a list of whole numbers"),
        (b'{"timestamp": 1, "hash_ids": [true]}\n', "hash_ids is a list of whole numbers"),
        (b'{"timestamp": 1, "hash_ids": [5, 6]}\n', "the block 6 of hash_ids follows another"),
        (b'{"timestamp": 1, "hash_ids": [6]}\n', "the block 6 of hash_ids follows another"),
        (b'{"timestamp": 1, "hash_ids": [1, 1]}\n', "the block 1 of hash_ids follows another"),
    ],
)
def test_a_wrong_line_is_named(text: bytes, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^a trace, line 3: {sentence}"):
        read(line(0, 1, 6), b"\n", text)


def test_a_trace_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "LINE_BYTES_MAX", 1000)
    with pytest.raises(UsageError, match="line 2: has more than 1000 bytes"):
        read(line(0, 1), b" " * 2000)
    monkeypatch.setattr(trace_module, "REQUEST_BLOCKS_MAX", 2)
    with pytest.raises(UsageError, match="line 1: hash_ids has more than 2 blocks"):
        read(line(0, 1, 2, 3))
    monkeypatch.setattr(trace_module, "TRACE_BLOCKS_MAX", 3)
    with pytest.raises(UsageError, match="line 2: more than 3 blocks"):
        read(line(0, 1, 2), line(0, 1, 2))


def test_a_trace_without_a_request_is_refused() -> None:
    with pytest.raises(UsageError, match="a trace: has no request"):
        read(b"\n")


def test_a_made_up_trace_is_its_seed() -> None:
    assert make_trace(300, 1) == make_trace(300, 1)
    assert make_trace(300, 1).requests != make_trace(300, 2).requests
    trace = make_trace(2000, 3)
    assert len(trace.requests) == 2000
    assert trace.times == sorted(trace.times)
    assert {chain[0] for chain in trace.requests} == {0}, "one first block is common to all"
    assert 0.2 < 1 - len(trace.depths) / trace.asked < 0.8, "some chats go on"


# ---- groups


def test_runs_of_a_prompt() -> None:
    def runs(rule: Rule, count: int) -> list[tuple[int, ...]]:
        found = list(rule.runs(range(count)))
        assert [group for group, _ in found] == [blocks[0] for _, blocks in found]
        return [blocks for _, blocks in found]

    assert runs(Rule(2), 5) == [(0, 1), (2, 3), (4,)]
    assert runs(Rule(None), 3) == [(0, 1, 2)]
    assert runs(Rule(2, lead=1), 4) == [(0,), (1, 2), (3,)]
    assert runs(Rule(None, lead=2), 4) == [(0,), (1,), (2, 3)]
    assert runs(Rule(4, lead=9), 2) == [(0,), (1,)]
    assert runs(Rule(None), 0) == []


# ---- the replay against a slow and obvious one


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Prompts of a random tree; a second between two of them."""
    chains: list[tuple[int, ...]] = [()]
    fresh = itertools.count()
    lines = []
    for at in range(draw(st.integers(4, 24))):
        chain = draw(st.sampled_from(chains))
        chain = chain[: draw(st.integers(0, len(chain)))]
        chain += tuple(itertools.islice(fresh, draw(st.integers(0, 6))))
        chains.append(chain)
        lines.append(line(at * 1000, *chain))
    return read(*lines)


def slow_replay(trace: Trace, plan: Plan, rule: Rule, dead: int | None) -> list[tuple[int, ...]]:
    """(asked, usable, holes) of each request, when this node is lost; None: none is."""
    ids = [node_id_of(f"node-{index}.memkv.test:9900") for index in range(plan.nodes)]
    loss = int(len(trace.requests) * plan.kill_at)
    held: dict[int, set[int]] = {index: set() for index in range(plan.nodes)}
    rows = []
    for index, chain in enumerate(trace.requests):
        if index == loss and dead is not None:
            held[dead] = set()
        lost = dead is not None and index >= loss
        noticed = lost and trace.times[index] > trace.times[loss] + plan.lost_after_s
        there = []
        for depth, block in enumerate(chain):
            start = depth
            if depth >= rule.lead:
                start = depth - (depth - rule.lead) % (rule.group or 10**6)
            nodes = [
                PlacementNode(node, 0 if noticed and at == dead else 7)
                for at, node in enumerate(ids)
            ]
            home = place(group_fingerprint(bytes(16), b"%d" % chain[start]), nodes)
            assert home is not None
            there.append(block in held[home])
            if not (lost and home == dead):
                held[home].add(block)
        usable = len(list(itertools.takewhile(bool, there)))
        rows.append((len(chain), usable, sum(there) - usable))
    return rows


def rate(rows: list[tuple[int, ...]], column: int) -> float | None:
    asked = sum(row[0] for row in rows)
    return sum(row[column] for row in rows) / asked if asked else None


def mean(rates: Iterator[float | None]) -> float | None:
    known = [one for one in rates if one is not None]
    return sum(known) / len(known) if known else None


@settings(max_examples=60, deadline=None)
@given(
    traces(),
    st.integers(2, 4),
    st.sampled_from([1, 2, 3, None]),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.sampled_from([0.0, 3.0, 1000.0]),
)
def test_it_gives_what_a_slow_and_obvious_replay_gives(
    trace: Trace, nodes: int, group: int | None, lead: int, kill_at: float, lost_after: float
) -> None:
    plan = Plan(nodes=nodes, kill_at=kill_at, lost_after_s=lost_after, window=0.25)
    rule = Rule(group, lead=lead)
    row = one_row(trace, plan, rule)
    count = len(trace.requests)
    loss, width = int(count * kill_at), max(1, int(count * 0.25))
    after = slice(loss, loss + width)
    end = slice(max(loss, count - width), count)
    whole = slow_replay(trace, plan, rule, None)
    worlds = [slow_replay(trace, plan, rule, dead) for dead in range(nodes)]

    def same(found: float | None, expected: float | None) -> None:
        assert found == (None if expected is None else pytest.approx(expected))

    same(row.before, rate(whole[max(0, loss - width) : loss], 1))
    same(row.after, mean(rate(world[after], 1) for world in worlds))
    rates = [rate(world[after], 1) for world in worlds]
    same(row.after_worst, min((one for one in rates if one is not None), default=None))
    same(row.after_without_loss, rate(whole[after], 1))
    same(row.end, mean(rate(world[end], 1) for world in worlds))
    same(row.end_without_loss, rate(whole[end], 1))
    same(row.holes, mean(rate(world[after], 2) for world in worlds))


def test_nodes_asked_and_how_much_faster_they_are_than_one() -> None:
    trace = read(line(0, *range(64)), line(1, *range(64)), line(2))
    one = one_row(trace, Plan(nodes=1, kill=0), Rule(1))
    single, whole = replay(trace, Plan(nodes=4), [Rule(1), Rule(None)])
    assert (one.nodes_asked, one.parallel) == (pytest.approx(2 / 3), 1)
    assert (whole.nodes_asked, whole.parallel) == (pytest.approx(2 / 3), 1)
    assert single.nodes_asked == pytest.approx(8 / 3)
    assert 2.5 < single.parallel <= 4


# ---- second copies


def test_a_group_that_many_read_survives_the_loss_of_its_node() -> None:
    trace = read(*(line(1000 * i, 1, 2, 3, 4) for i in range(40)))
    plan = Plan(nodes=3, hot_after=3, window=0.5, lost_after_s=5)
    once, twice = replay(trace, plan, [Rule(4), Rule(4, copies=2)])
    assert once.after_worst == pytest.approx(13 / 20), "a miss in 7 of 20 requests"
    assert (twice.after_worst, twice.after_without_loss) == (1, 1)
    assert (once.copied, twice.copied) == (0, 1)
    assert (once.busiest, once.fullest) == (3, 3)
    assert twice.busiest == pytest.approx(1.5, abs=0.1), "two copies share the reads"


def test_a_group_that_few_read_has_one_copy() -> None:
    trace = read(*(line(1000 * i, 1, 2, 3, 4) for i in range(4)))
    assert one_row(trace, Plan(nodes=3, hot_after=4), Rule(4, copies=2)).copied == 0
    assert one_row(trace, Plan(nodes=3, hot_after=3), Rule(4, copies=2)).copied == 1


# ---- why the first blocks lie alone


def test_a_first_block_that_all_have_draws_runs_onto_one_node_unless_it_lies_alone() -> None:
    trace = make_trace(3000, 1)
    plan = Plan(nodes=8, window=0.2)
    runs, alone = replay(trace, plan, [Rule(16), Rule(16, lead=1)])
    assert runs.fullest > 3
    assert alone.fullest < 1.2
    assert alone.after_worst is not None
    assert runs.after_worst is not None
    assert alone.after_worst > 1.5 * runs.after_worst


# ---- nodes that fill


def test_a_node_with_much_room_is_one_that_never_fills() -> None:
    trace = make_trace(500, 1)
    never = Plan(nodes=3)
    much = Plan(nodes=3, capacity=64 << 40)
    rules = [Rule(4), Rule(4, copies=2)]
    assert list(replay(trace, never, rules)) == list(replay(trace, much, rules))


def test_a_small_node_holds_no_more_than_it_has_and_what_was_asked_for_longest() -> None:
    blocks = 3000
    node = SmallNode(512 * MIB, 4 * MIB, [0] * blocks)  # 4 segments of 31 blocks
    favourites = (0, 1, 2)
    for block in range(blocks):
        node.put([block])
        assert node.find(favourites) == (3, 3) or block < 2
        assert len(node.held) <= 512 // 4
    assert len(node.held) >= 2 * 31
    assert {blocks - 1, blocks - 50} <= node.held
    assert node.find([0, 5, 1]) == (1, 2)


def test_of_too_many_that_were_asked_for_the_shallower_stay() -> None:
    depths = [1 if block % 2 else 9 for block in range(31)] + [0] * 100
    node = SmallNode(512 * MIB, 4 * MIB, depths)
    node.put(range(31))
    node.find(range(31))
    node.put(range(31, 31 + 63))  # the fourth segment is begun, and the first one is taken back
    kept = sorted(block for block in node.held if block < 31)
    assert kept == [1, 3, 5], "12 % of a segment's 31 blocks, of those of depth 1"
    other = node.copy()
    other.put(range(100, 120))
    assert 110 in other.held
    assert 110 not in node.held


def test_a_frontier_says_what_rewrites_give_and_cost() -> None:
    """The prompt that comes again and again stays only where it may move to the tail."""
    hot = [1, 2, 3]
    lines = []
    for i in range(400):
        lines.append(line(2 * i, *hot))
        lines.append(line(2 * i + 1, 1_000 + i))
    trace = read(*lines)
    plan = Plan(nodes=1, kill=0, capacity=512 * MIB, block_bytes=8 * MIB, window=1.0, kill_at=0.0)
    without, some = frontier(trace, plan, [Rule(16)], [0, 12])
    assert without.rewrite_percent == 0
    assert without.usable < some.usable < 1
    assert some.usable == one_row(trace, plan, Rule(16)).end
    assert some.served_per_written == pytest.approx(
        some.usable * trace.asked / (some.written * len(trace.depths))
    )
    assert some.written > 1, "what moves is written again"
    with pytest.raises(UsageError, match="--frontier: name the nodes' --capacity"):
        next(frontier(trace, Plan(nodes=1, kill=0), [Rule(16)], [0]))
    with pytest.raises(UsageError, match="--frontier: 101 is no percentage"):
        next(frontier(trace, plan, [Rule(16)], [101]))


def test_the_command_prints_a_frontier(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["replay", "--make", "50", "--capacity", "8GiB", "--group-sizes", "16"]
    assert main([*words, "--frontier", "0,12", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [(point["group"], point["rewrite_percent"]) for point in points] == [(16, 0), (16, 12)]
    assert main([*words, "--frontier", "0,12"]) == 0
    said = capsys.readouterr().out
    assert "SERVED/WRITTEN" in said
    assert "12%" in said


@pytest.mark.parametrize("capacity", [0, 2 * 128 * MIB, 383 * MIB])
def test_a_node_too_small_for_its_log_is_refused(capacity: int) -> None:
    with pytest.raises(UsageError, match="too small"):
        SmallNode(capacity, 4 * MIB, [0])


def test_blocks_larger_than_a_segment_are_refused() -> None:
    with pytest.raises(UsageError, match="too small for blocks of 128"):
        SmallNode(1024 * MIB, 128 * MIB, [0])


def test_a_gap_ends_what_leads() -> None:
    node = Node()
    node.put([1, 2, 4])
    assert node.find([1, 2, 3, 4]) == (2, 3)
    assert node.find([3, 4]) == (0, 1)
    assert node.find([1, 4]) == (2, 2)
    assert node.find([]) == (0, 0)


# ---- what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 0},
        {"nodes": 1025},
        {"nodes": 2, "kill": 2},
        {"nodes": 2, "kill": -1},
        {"nodes": 2, "kill_at": 1.5},
        {"nodes": 2, "window": float("nan")},
        {"nodes": 2, "lost_after_s": -1},
        {"nodes": 2, "lost_after_s": float("nan")},
        {"nodes": 2, "choices": 0},
        {"nodes": 2, "choices": 4097},
        {"nodes": 2, "hot_after": 0},
        {"nodes": 2, "block_bytes": 0},
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        Plan(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"group": 0}, {"group": 1, "copies": 3}, {"group": 1, "lead": -1}]
)
def test_a_rule_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        Rule(**wrong)


# ---- the command


def test_the_command_says_it_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(b"".join(line(1000 * i, 0, i % 9 + 1) for i in range(100)))
    flags = ["--nodes", "4", "--kill", "1", "--group-sizes", "1,whole", "--copies", "1,2", "--json"]
    assert main(["replay", str(file), *flags, "--lost-after", "inf"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["trace"] == {
        "name": str(file),
        "requests": 100,
        "seconds": 99,
        "blocks": 200,
        "distinct": 10,
    }
    assert said["plan"]["lost_after_s"] is None
    rows = [(row["group"], row["copies"]) for row in said["rows"]]
    assert rows == [(1, 1), ("whole", 1), (1, 2), ("whole", 2)]
    assert said["rows"][0]["before"] == 1

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["replay", "-", *flags, "--lost-after", "inf"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == said["rows"]


def test_the_command_says_it_to_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--make", "200", "--lead", "1", "--capacity", "16GiB"]) == 0
    out = capsys.readouterr().out
    assert "200 made-up requests, seed 1" in out
    assert "16.0 GiB each" in out
    assert "the first 1 of a prompt alone" in out
    assert "HOLES: after the loss" in out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "github.com/kvcache-ai/Mooncake"),
        (["t", "--make", "5"], "name one trace"),
        (["no-such-file"], "No such file"),
        (["--make", "0"], "make one or more"),
        (["--make", "5", "--group-sizes", "1,x"], "--group-sizes"),
        (["--make", "5", "--copies", ""], "--copies"),
        (["--make", "5", "--copies", "3"], "--copies"),
        (["--make", "5", "--group-sizes", "0"], "--group-sizes"),
        (["--make", "5", "--lead", "-1"], "--lead"),
        (["--make", "5", "--kill", "8"], "--kill"),
        (["--make", "5", "--capacity", "1MiB"], "too small"),
    ],
)
def test_what_the_command_refuses(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", *flags]) == 2
    assert sentence in capsys.readouterr().err
