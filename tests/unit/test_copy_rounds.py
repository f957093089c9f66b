"""When a node's agent looks after the copies that rules want."""

from __future__ import annotations

from memkv_nixl._copies import one_failure
from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.store._copy_rounds import CopyRounds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def map_of(*weights: int, copies: int = 2) -> map_pb2.ClusterMap:
    rules = map_pb2.NamespaceRules(copies=copies)
    return map_pb2.ClusterMap(
        nodes=[map_pb2.MapNode(node_id=i, weight=weight) for i, weight in enumerate(weights)],
        namespaces=[map_pb2.NamespaceRule(tenant=1, id=bytes(16), rules=rules)],
    )


def looked_at_all(rounds: CopyRounds) -> bool:
    (first, *_) = rounds.looks
    assert first.copies_min == 2
    return first.mark_not == 0


def test_without_such_a_rule_there_is_nothing_to_look_at() -> None:
    assert not CopyRounds().begins(map_of(1, 1, copies=1), 7, {})
    assert CopyRounds().begins(map_of(1, 1), 7, {})


def test_all_blocks_are_looked_at_once_for_each_set_of_nodes() -> None:
    rounds = CopyRounds(Clock())
    for weights in ((1, 1), (1, 0), (1, 1)):
        assert rounds.begins(map_of(*weights), 0, {})
        assert looked_at_all(rounds)
        rounds.ended(whole=False, failed=False)
        assert rounds.begins(map_of(*weights), 0, {}), "it was not whole"
        rounds.ended(whole=True, failed=False)
        assert not rounds.begins(map_of(*weights), 0, {})
    assert rounds.begins(map_of(1, 1), 3, {})
    assert not looked_at_all(rounds)
    assert [look.dram for look in rounds.looks] == [True, False]


def test_a_node_that_started_anew_is_asked_for_all() -> None:
    rounds = CopyRounds(Clock())
    assert rounds.begins(map_of(1, 1), 0, {"a": 3})
    rounds.ended(whole=True, failed=False)
    assert not rounds.begins(map_of(1, 1), 0, {"a": 3, "b": 9})
    assert not rounds.begins(map_of(1, 1), 0, {})
    assert rounds.begins(map_of(1, 1), 0, {"a": 4})
    assert looked_at_all(rounds)


def test_what_fails_is_tried_less_and_less_often_until_the_nodes_change() -> None:
    clock = Clock()
    rounds = CopyRounds(clock)
    pauses = []
    for _ in range(6):
        assert rounds.begins(map_of(1, 1), 1, {})
        rounds.ended(whole=True, failed=True)
        begun = clock.now
        while not rounds.begins(map_of(1, 1), 1, {}):
            clock.now += 1
        pauses.append(clock.now - begun)
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert looked_at_all(rounds), "nobody answered for those that have the mark"
    rounds.ended(whole=True, failed=True)
    assert rounds.begins(map_of(1, 2), 1, {})
    rounds.ended(whole=True, failed=False)
    assert rounds.begins(map_of(1, 2), 1, {}), "no pause behind a pass that went well"


def test_one_failure_is_said() -> None:
    assert one_failure([]) == ""
    assert one_failure([("a:1", ""), ("b:1", "")]) == ""
    assert one_failure([("a:1", "x"), ("b:1", "y")]) == ""
    assert one_failure([("a:1", "x"), ("b:1", "")]) == ""
    assert "'x'" in one_failure([("a:1", "x"), ("b:1", "x")])
    assert "a:1 is the only node" in one_failure([("a:1", "x")])
