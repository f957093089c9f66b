"""What all Python tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A property that fails prints how to run exactly that case again. No deadline: the time of one
# example says nothing on a shared machine, and pytest-timeout holds the test as a whole.
settings.register_profile("memkv", deadline=None, print_blob=True)
settings.load_profile("memkv")

# What our commands do on a hang-up is tested; under nohup their children would ignore it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Files that take long begin first: what is done side by side ends when its last file does.
LONGEST = (
    "faults/test_faults.py",
    "control/test_tenants_machine.py",
    "control/test_moving.py",
    "control/test_copies.py",
    "control/test_drains.py",
    "agent/test_transfer_agent.py",
    "nixl/test_plugin.py",
    "integration/test_kill.py",
    "control/test_token_commands.py",
    "control/test_node_agent.py",
    "control/test_rules.py",
    "integration/test_cli.py",
    "control/test_replicas.py",
    "nixl/test_obj.py",
    "control/test_etcd.py",
    "control/test_observe.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they came."""
    tests = Path(__file__).resolve().parent
    rank = {tests / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the project."""
    return Path(__file__).resolve().parent.parent
