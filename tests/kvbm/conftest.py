"""The tier with the newest NIXL, in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_nixl.store import Cluster
from tests.agent.conftest import CaseRunner
from tests.nixl import venvs


@pytest.fixture(scope="module")
def cases(repo: Path) -> Iterator[CaseRunner]:
    with Cluster(3, capacity="1GiB", die_with_parent=True) as cluster:
        python = venvs.ensure(venvs.NEWEST)
        runner = CaseRunner(python, repo, cluster.addresses, "tests.kvbm.cases")
        yield runner
        runner.stop()
