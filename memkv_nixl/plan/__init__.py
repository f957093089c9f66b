"""What a pool would do, before there is one: a trace of requests replayed over simulated nodes."""

from memkv_nixl.plan._replay import Plan, Row, Rule, replay
from memkv_nixl.plan._trace import Trace, make_trace, read_trace

__all__ = ["Plan", "Row", "Rule", "Trace", "make_trace", "read_trace", "replay"]
