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


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the project."""
    return Path(__file__).resolve().parent.parent
