"""What a pool would do, before there is one: a trace of requests replayed over simulated nodes."""

from memkv_nixl.plan._replay import Plan, Point, Row, Rule, frontier, replay
from memkv_nixl.plan._trace import Trace, make_trace, read_trace

__all__ = [
    "Plan",
    "Point",
    "Row",
    "Rule",
    "Trace",
    "frontier",
    "make_trace",
    "read_trace",
    "replay",
]
