"""What the control plane costs, measured."""

from __future__ import annotations

from memkv_nixl.bench._control import measure


def test_200_nodes_that_beat_every_second_cost_less_than_half_a_core() -> None:
    cost = measure(nodes=200, interval_s=1.0, seconds=5.0)
    assert cost.beats_per_s > 150
    assert cost.cores < 0.5, cost
