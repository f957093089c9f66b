"""How far a drain is: what its passes find, leave and try again."""

from __future__ import annotations

from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.store._drain import MARK_OF_REFUSAL, Drain


def map_of(epoch: int, *weights: int) -> map_pb2.ClusterMap:
    nodes = [map_pb2.MapNode(node_id=i, weight=weight) for i, weight in enumerate(weights)]
    return map_pb2.ClusterMap(history=7, epoch=epoch, nodes=nodes)


MAP = map_of(5, 0, 100)


class Clock:
    """Time that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def clean_pass(drain: Drain, left: str = "", map_: map_pb2.ClusterMap = MAP) -> None:
    """A pass that finds nothing new, and a block that was refused before."""
    drain.begin_pass(map_)
    drain.last_listing = True
    if left and drain.tries(MARK_OF_REFUSAL[left]):
        drain.refused(left, MARK_OF_REFUSAL[left])
    elif left:
        drain.leaves([MARK_OF_REFUSAL[left]])
    drain.end_pass()


def test_one_clean_pass_is_not_enough() -> None:
    drain = Drain()
    clean_pass(drain)
    assert not drain.drained_by(MAP)
    clean_pass(drain)
    assert drain.drained_by(MAP)
    assert not drain.drained_by(map_of(6, 0, 50)), "by another map blocks belong elsewhere"
    assert drain.drained_by(map_of(6, 0, 100)), "this one has blocks where the former had them"


def test_it_is_taken_back_when_a_block_comes_after_the_last_pass() -> None:
    drain = Drain()
    clean_pass(drain)
    clean_pass(drain)
    drain.begin_pass(MAP)
    drain.saw(1)
    drain.end_pass()
    assert not drain.drained_by(MAP)


def test_a_pass_that_was_cut_short_counts_for_nothing() -> None:
    drain = Drain()
    clean_pass(drain)
    drain.begin_pass(MAP)
    assert not drain.drained_by(MAP)


def test_what_was_refused_is_tried_again_and_then_left_behind() -> None:
    clock = Clock()
    drain = Drain(clock)
    drain.begin_pass(MAP)
    drain.last_listing = True
    assert drain.tries(0)
    drain.saw(2)
    drain.refused("no_space", 0)
    drain.refused("conflict", 0)
    drain.end_pass()
    assert drain.left_behind(MAP) == {}, "it is not over yet"
    tried = []
    for _ in range(4):
        drain.begin_pass(MAP)
        tried.append(drain.tries(MARK_OF_REFUSAL["no_space"]))
        if tried[-1]:
            drain.refused("conflict", MARK_OF_REFUSAL["conflict"])  # the other one was taken
        else:
            drain.leaves([MARK_OF_REFUSAL["conflict"]])
        drain.end_pass()
    assert tried == [True, False, False, False]
    assert drain.left_behind(MAP) == {"conflict": 1}
    assert not drain.drained_by(MAP)
    clock.now += 601
    drain.begin_pass(MAP)
    assert drain.tries(MARK_OF_REFUSAL["conflict"])
    drain.end_pass()
    assert drain.drained_by(MAP), "it was taken at last"


def test_what_was_refused_counts_once() -> None:
    """It is listed once more for each of the listings of a pass."""
    drain = Drain()
    for _ in range(3):
        drain.begin_pass(MAP)
        for last in (False, False, True):
            drain.last_listing = last
            mark = MARK_OF_REFUSAL["no_space"]
            if drain.tries(mark):
                drain.refused("no_space", mark)
            else:
                drain.leaves([mark])
        drain.end_pass()
    assert drain.left_behind(MAP) == {"no_space": 1}


def test_marks_of_another_map_and_of_a_new_daemon_are_not_trusted() -> None:
    drain = Drain()
    mark = drain.begin_pass(MAP)
    drain.swept.add("")
    assert drain.begin_pass(MAP) == mark
    assert drain.swept
    assert drain.begin_pass(map_of(6, 0, 100)) == mark
    assert drain.swept
    assert drain.begin_pass(map_of(7, 0, 50)) != mark
    assert not drain.swept
    drain.swept.add("")
    drain.again()
    assert not drain.swept
    marks = {drain.begin_pass(map_of(epoch, epoch)) for epoch in range(1000)}
    assert marks == set(range(6, 256)), "a mark is one byte, and neither a copy's nor a refusal's"
