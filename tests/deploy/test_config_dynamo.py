"""`memkv config dynamo` prints what Dynamo, vLLM, Kubernetes and the tier take."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml

from memkv_nixl.cli import main
from memkv_nixl.kvbm._settings import tier_settings

ASKED = ["config", "dynamo", "--nodes", "a:1,b:2", "--salt", "it's", "--host-memory", "1GiB"]


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMKV_NODES", "MEMKV_CONFIG", "MEMKV_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main([*ASKED, "--json", *more]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def commands(text: str) -> list[list[str]]:
    """The commands that a shell would start."""
    lines = text.partition("\n\n")[0].replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("export ")]


@pytest.mark.parametrize("more", [[], ["--disaggregated"], ["--router-mode", "round-robin"]])
def test_the_shell_and_kubernetes_read_what_was_meant(
    capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    document = printed(capsys, *more)
    assert main([*ASKED, *more]) == 0
    text = capsys.readouterr().out
    wanted = [["python3", "-m", "dynamo.frontend", *document["frontend"]["flags"]]]
    for worker in document["workers"].values():
        start = ["python3", "-m", "dynamo.vllm", "--model", "MODEL"]
        wanted.append([*start, *worker["flags"]])
        place = worker["flags"].index("--kv-transfer-config")
        assert json.loads(worker["flags"][place + 1]) == document["kv_transfer_config"]
    assert commands(text) == wanted
    config_map = yaml.safe_load(text.partition("\n\n")[2])
    assert config_map == document["config_map"]
    files = {name: json.loads(content) for name, content in config_map["data"].items()}
    assert files["kv-transfer-config.json"] == document["kv_transfer_config"]
    assert files.get("kv-events-config.json") == document["kv_events_config"]


def test_the_tier_takes_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    extra = printed(capsys)["kv_transfer_config"]["kv_connector_extra_config"]
    (tier,) = extra["secondary_tiers"]
    assert (tier.pop("type"), tier.pop("module_path")) == ("MemKVTier", "memkv_nixl.kvbm.vllm")
    settings = tier_settings(tier, environment={})
    assert (settings.nodes, settings.salt) == (("a:1", "b:2"), "it's")
    assert extra["self_describing_kv_events"] is True  # or the router drops the events


def test_disaggregated_workers_have_nixl_first_and_the_tier_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = printed(capsys)["kv_transfer_config"]
    document = printed(capsys, "--disaggregated")
    both = document["kv_transfer_config"]
    assert both["kv_connector"] == "MultiConnector"
    assert both["kv_load_failure_policy"] == "recompute"  # vLLM reads it here alone
    nixl, tier = both["kv_connector_extra_config"]["connectors"]
    assert nixl["kv_connector"] == "NixlConnector"
    assert tier["kv_connector_extra_config"] == alone["kv_connector_extra_config"]
    flags = {role: worker["flags"] for role, worker in document["workers"].items()}
    assert "--kv-events-config" in flags["prefill"]  # the router asks prefill workers only
    assert "--kv-events-config" not in flags["decode"]


def test_the_pool_has_the_credit_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    flags = printed(capsys, "--pool-credit", "0.6")["frontend"]["flags"]
    assert flags[flags.index("--router-disk-cache-hit-weight") + 1] == "0.6"


def test_shared_memory_holds_the_region(capsys: pytest.CaptureFixture[str]) -> None:
    pod = printed(capsys, "--host-memory", "1500MiB")["pod"]
    assert pod["sharedMemorySize"] == "10Gi"  # of 1.5 and 8


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--pool-credit", "1.5"], "pool-credit: 1.5 is not between 0 and 1"),
        (["--events-port", "0"], "events-port: 0 is not between 1 and 65535"),
        (["--nodes", "nonsense"], "nonsense"),
    ],
)
def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], wrong: list[str], words: str
) -> None:
    assert main([*ASKED, *wrong]) == 2
    assert words in capsys.readouterr().err
