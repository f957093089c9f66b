"""`memkv config dynamo --check` finds nothing in what `memkv config dynamo` prints, and what is
wrong in anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from memkv_nixl._config import Settings
from memkv_nixl.cli import main
from memkv_nixl.cli._check_dynamo import CHECKED_FLAG, checks
from memkv_nixl.cli._checks import Check
from memkv_nixl.cli._config_check import Setup

# Of this machine, and of no settings.
ELSEWHERE = ("Dynamo", "vLLM", "host memory", "locked memory", "nodes")
HOST = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "10.0.0.1"}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The command of a worker."""

    def command(role: str, *more: str) -> list[str]:
        asked = ["config", "dynamo", "--json", "--nodes", "a:1", "--host-memory", "1MiB", *more]
        assert main(asked) == 0
        flags: list[str] = json.loads(capsys.readouterr().out)["workers"][role]["flags"]
        return flags

    return command


def said(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Check]:
    """The checks that are about the settings, by name."""
    document = json.loads(command[command.index(CHECKED_FLAG) + 1])
    setup = Setup(Settings(), document, command, environment or {})
    found = {check.name: check for check in checks(setup)}
    for check in found.values():
        assert bool(check.mend) is (check.state != "ok"), check
    return {name: one for name, one in found.items() if not name.startswith(("node ", *ELSEWHERE))}


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("agg", []),
        ("prefill", ["--disaggregated"]),
        ("decode", ["--disaggregated"]),
    ],
)
def test_what_is_printed_is_right(
    printed: Callable[..., list[str]], role: str, more: list[str]
) -> None:
    found = said(printed(role, *more), HOST)
    assert {name for name, check in found.items() if check.state != "ok"} == set()
    assert {"hash seed", "shutdown", "events"} <= set(found)
    assert ("connectors" in found) is (role != "agg")


def without(flag: str) -> Callable[[list[str]], list[str]]:
    def take(command: list[str]) -> list[str]:
        place = command.index(flag)
        return command[:place] + command[place + 2 :]

    return take


def with_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[list[str]], list[str]]:
    def write(command: list[str]) -> list[str]:
        place = command.index(CHECKED_FLAG) + 1
        document = json.loads(command[place])
        change(document)
        return [*command[:place], json.dumps(document), *command[place + 1 :]]

    return write


def connectors(document: dict[str, Any]) -> list[Any]:
    listed: list[Any] = document["kv_connector_extra_config"]["connectors"]
    return listed


@pytest.mark.parametrize(
    ("role", "spoil", "name", "state"),
    [
        ("agg", without("--shutdown-timeout"), "shutdown", "warning"),
        ("agg", without("--kv-events-config"), "events", "warning"),
        (
            "agg",
            with_json(
                lambda one: one["kv_connector_extra_config"].pop("self_describing_kv_events")
            ),
            "events",
            "error",
        ),
        ("prefill", with_json(lambda one: connectors(one).pop(0)), "connectors", "error"),
        ("prefill", with_json(lambda one: connectors(one).reverse()), "connectors", "error"),
    ],
)
def test_what_is_wrong_is_found(
    printed: Callable[..., list[str]],
    role: str,
    spoil: Callable[[list[str]], list[str]],
    name: str,
    state: str,
) -> None:
    command = printed(role, *([] if role == "agg" else ["--disaggregated"]))
    found = said(spoil(command), HOST)
    assert {one for one, check in found.items() if check.state != "ok"} == {name}
    assert found[name].state == state


def test_a_worker_that_nobody_reaches_is_found(printed: Callable[..., list[str]]) -> None:
    found = said(printed("decode", "--disaggregated"))
    assert {one for one, check in found.items() if check.state != "ok"} == {"side channel"}
