"""What cases of the agent are made of: nodes, blocks, and what goes wrong at a wanted moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memkv_nixl._nixl import load_nixl
from memkv_nixl.agent import Namespace, Status, TransferAgent
from memkv_nixl.store import Cluster

OK = Status.OK
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


@dataclass
class Given:
    """What the test gave: nodes that all cases share, and a namespace of this case's own."""

    nodes: tuple[str, ...] = ()
    space: Namespace = field(default_factory=lambda: Namespace(model="cases"))


GIVEN = Given()


def shared_agent() -> TransferAgent:
    """An agent on the shared nodes."""
    return TransferAgent(GIVEN.nodes, GIVEN.space)


@contextmanager
def own_nodes(count: int, **arguments: Any) -> Iterator[tuple[TransferAgent, Cluster]]:
    """Nodes that the case may hurt, and an agent on them."""
    with (
        Cluster(count, die_with_parent=True) as cluster,
        TransferAgent(cluster.addresses, GIVEN.space, **arguments) as agent,
    ):
        yield agent, cluster


@contextmanager
def halted(cluster: Cluster, index: int = 0) -> Iterator[None]:
    """A node that holds still, so that what it was asked for cannot be over."""
    pid = cluster.nodes[index].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def refused(kind: type[Exception], sentence: str) -> Iterator[None]:
    """pytest.raises, where there is no pytest."""
    try:
        yield
    except kind as error:
        assert sentence in f"{getattr(error, 'code', '')}: {error}", error  # noqa: PT017
    else:
        raise AssertionError(f"not refused with {kind.__name__}: {sentence}")


def block(seed: int, size: int = 100_000) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def names(count: int) -> list[bytes]:
    return [b"key-%d" % i for i in range(count)]


class InterruptedCallError(Exception):
    """What the signal handler of a case raises."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """A signal whose handler raises, as that of Ctrl-C does."""

    def handler(*_: object) -> None:
        raise InterruptedCallError

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class UnreleasedHandle:
    """A request's handle that NIXL, by one of its own errors, does not let go of."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def release(self) -> None:
        raise load_nixl().errors[0]("refused by the case")
