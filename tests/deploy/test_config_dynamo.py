"""`memkv config dynamo` prints what Dynamo, vLLM, Kubernetes and the tier take."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from memkv_nixl.cli import main
from memkv_nixl.kvbm._settings import tier_settings
from tests.deploy.schema import findings

FOLDER = Path(__file__).resolve().parent.parent.parent / "deploy/dynamo"
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


def test_pods_mount_the_secret_that_the_tier_reads_its_token_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = printed(capsys, "--token-secret", "memkv-acme")
    (tier,) = document["kv_transfer_config"]["kv_connector_extra_config"]["secondary_tiers"]
    pod = document["pod"]
    assert pod["volumes"][1]["secret"] == {"secretName": "memkv-acme"}
    mount = pod["volumeMounts"][1]
    assert mount["name"] == pod["volumes"][1]["name"]
    assert tier["token_file"] == f"{mount['mountPath']}/token"
    assert "subPath" not in mount  # a renewed Secret would never come in
    without = printed(capsys)
    assert len(without["pod"]["volumes"]) == len(without["pod"]["volumeMounts"]) == 1
    # It stands in a worker of a whole deployment as Kubernetes takes it.
    (graph,) = [
        one
        for one in yaml.safe_load_all((FOLDER / "aggregated.yaml").read_text())
        if one["kind"] == "DynamoGraphDeployment"
    ]
    spec = graph["spec"]["components"][1]["podTemplate"]["spec"]
    spec["volumes"] += pod["volumes"][1:]
    spec["containers"][0]["volumeMounts"] += pod["volumeMounts"][1:]
    assert findings(graph) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--pool-credit", "1.5"], "pool-credit: 1.5 is not between 0 and 1"),
        (["--events-port", "0"], "events-port: 0 is not between 1 and 65535"),
        (["--nodes", "nonsense"], "nonsense"),
        (["--token-secret", "s", "--token-file", "f"], "leave token-file out"),
    ],
)
def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], wrong: list[str], words: str
) -> None:
    assert main([*ASKED, *wrong]) == 2
    assert words in capsys.readouterr().err
