"""What `memkv config dynamo --check` looks at, on a worker: Dynamo, and what its vLLM is given."""

from __future__ import annotations

from collections.abc import Iterator

from memkv_nixl.cli import _check_vllm
from memkv_nixl.cli._checks import Check
from memkv_nixl.cli._config_check import Setup, installed

CHECKED_FLAG = _check_vllm.CHECKED_FLAG  # dynamo.vllm hands it on
TESTED = ("1.6",)


def checks(setup: Setup) -> Iterator[Check]:
    """Dynamo's version, and everything that is checked of vLLM."""
    yield installed("Dynamo", ("ai-dynamo",), TESTED)
    yield from _check_vllm.checks(setup)
