"""What the control plane costs, measured."""

from __future__ import annotations

import pytest

from memkv_nixl.bench._control import NUMBERS, measure

RULED = 300  # … and 64 namespaces with rules, their tenants, and copies that wait


@pytest.mark.parametrize("numbers", [NUMBERS, RULED])
def test_200_nodes_that_beat_every_second_cost_less_than_half_a_core(numbers: int) -> None:
    cost = measure(nodes=200, interval_s=1.0, seconds=5.0, numbers=numbers)
    print(cost)
    assert cost.beats_per_s > 150
    assert cost.cores < 0.5, cost
