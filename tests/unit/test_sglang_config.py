"""`memkv config sglang` prints what SGLang, the backend and Dynamo's router take."""

from __future__ import annotations

import json
import shlex

import pytest

from memkv_nixl.cli import main
from memkv_nixl.cli._config_check import Setup
from memkv_nixl.cli._config_sglang import checks, extra_config
from memkv_nixl.kvbm._mooncake_events import check_endpoint
from memkv_nixl.kvbm._settings import tier_settings


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMKV_NODES", "MEMKV_CONFIG", "MEMKV_TOKEN_FILE", "MEMKV_SGLANG_MOONCAKE"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", "sglang", "--nodes", "a:1,b:2", *words]) == 0
    return capsys.readouterr().out


def test_the_shell_reads_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--salt", "it's", "--host-memory", "2GB"]
    document = json.loads(printed(capsys, *asked, "--json"))
    words = shlex.split(printed(capsys, *asked).replace("\\\n", ""))
    assert words[3:5] == ["--model-path", "MODEL"]
    assert words[5:] == document["flags"]
    extra = json.loads(words[-1])
    assert extra == document["extra_config"]
    assert (extra["interface_v1"], extra["hicache_storage_pass_prefix_keys"]) == (1, True)
    assert words[words.index("--hicache-size") + 1] == "2"
    tier = {name: extra[name] for name in extra if name not in extra_config({})}
    settings = tier_settings(tier, environment={})
    assert (settings.nodes, settings.salt) == (("a:1", "b:2"), "it's")


def test_under_dynamo_it_answers_to_the_name_that_the_router_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = json.loads(printed(capsys, "--dynamo", "10.0.0.5", "--json"))
    flags = document["flags"]
    assert flags[flags.index("--hicache-storage-backend") + 1] == "mooncake"
    assert document["environment"]["MEMKV_SGLANG_MOONCAKE"] == "1"
    assert "module_path" not in document["extra_config"]
    listens = document["extra_config"]["events_endpoint"].rpartition(":")[2]
    publishes = document["frontend"]["environment"]["DYN_MOONCAKE_KV_EVENTS_ENDPOINT"]
    assert publishes.startswith("tcp://10.0.0.5:")
    check_endpoint(publishes)
    relay = shlex.split(document["relay"])
    assert relay[relay.index("--listen") + 1].endswith(f":{listens}")
    assert relay[relay.index("--publish") + 1].endswith(f":{publishes.rpartition(':')[2]}")


@pytest.mark.parametrize(
    "words",
    [["--nodes", "nonsense"], ["--page-size", "0"], ["--dynamo", "a b"], ["--host-memory", "x"]],
)
def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["config", "sglang", "--nodes", "a:1", *words]) == 2
    assert capsys.readouterr().err.startswith("memkv: ")


def found(document: object, command: str = "", **environment: str) -> dict[str, str]:
    """What --check says, by what it looked at."""
    settings = tier_settings({"nodes": "a:1"}, environment={})
    setup = Setup(settings, document, shlex.split(command), environment)  # type: ignore[arg-type]
    return {check.name: check.state for check in checks(setup)}


def test_what_is_printed_is_right() -> None:
    said = found(extra_config({"nodes": "a:1"}), "--hicache-mem-layout page_first")
    assert [name for name, state in said.items() if state == "error"] == []
    said = found(
        extra_config({"nodes": "a:1"}, "tcp://relay:5556"),
        "--hicache-storage-backend mooncake",
        MEMKV_SGLANG_MOONCAKE="1",
    )
    assert [name for name, state in said.items() if state == "error"] == []
    assert said["events"] == "ok"


def test_what_would_not_start_is_found() -> None:
    said = found({"nodes": "a:1", "salty": "x", "module_path": "m"}, "--hicache-size many")
    for name in (
        *("tier.salty", "layout", "host pool", "extra config interface_v1"),
        *("extra config module_path", "extra config hicache_storage_pass_prefix_keys"),
    ):
        assert said[name] == "error", name
    assert found({}, "--hicache-storage-backend mooncake")["mooncake"] == "error"
    assert found(extra_config({"events_endpoint": "here"}))["events"] == "error"
    assert found(None)["extra config"] == "warning"
