"""`memkv config vllm` prints what vLLM and the tier take."""

from __future__ import annotations

import json
import shlex

import pytest

from memkv_nixl.cli import main
from memkv_nixl.kvbm._settings import tier_settings


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMKV_NODES", "MEMKV_CONFIG", "MEMKV_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_the_shell_reads_the_json_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["config", "vllm", "--nodes", "a:1,b:2", "--salt", "it's", "--host-memory", "1GiB"]
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(asked) == 0
    printed = capsys.readouterr().out
    exports = [line for line in printed.splitlines() if line.startswith("export ")]
    assert exports == [f"export {name}={value}" for name, value in document["environment"].items()]
    command = printed.split("\n", len(exports))[-1]
    words = shlex.split(command.replace("\\\n", ""))  # as a shell joins lines
    assert words == ["vllm", "serve", "MODEL", *document["flags"]]
    transfer = json.loads(document["flags"][-1])
    assert transfer == document["kv_transfer_config"]
    extra = transfer["kv_connector_extra_config"]
    assert extra["cpu_bytes_to_use"] == 1 << 30
    (tier,) = extra["secondary_tiers"]
    assert (tier.pop("type"), tier.pop("module_path")) == ("MemKVTier", "memkv_nixl.kvbm.vllm")
    settings = tier_settings(tier, environment={})
    assert settings.nodes == ("a:1", "b:2")
    assert settings.salt == "it's"


def test_nodes_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKV_NODES", "c:3")
    assert main(["config", "vllm", "--json", "--events"]) == 0
    transfer = json.loads(capsys.readouterr().out)["kv_transfer_config"]
    extra = transfer["kv_connector_extra_config"]
    assert extra["secondary_tiers"][0]["nodes"] == "c:3"
    assert extra["self_describing_kv_events"] is True


@pytest.mark.parametrize("nodes", [[], ["--nodes", "nonsense"]])
def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str], nodes: list[str]) -> None:
    assert main(["config", "vllm", *nodes]) == 2
    assert capsys.readouterr().err.startswith("memkv: ")
