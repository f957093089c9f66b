"""`memkv config lmcache` prints what the LMCache server, its adapter and the connector take."""

from __future__ import annotations

import json
import shlex

import pytest

from memkv_nixl.cli import main
from memkv_nixl.kvbm._lmcache_settings import adapter_settings

ASKED = ["config", "lmcache", "--nodes", "a:1,b:2", "--host-memory", "1.5GiB", "--salt", "it's"]


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMKV_NODES", "MEMKV_CONFIG", "MEMKV_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_the_shell_reads_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(ASKED) == 0
    printed = capsys.readouterr().out.replace("\\\n", "")  # as a shell joins lines
    exports, server, serve = printed.strip().splitlines()
    assert exports == "export PYTHONHASHSEED=0"
    assert shlex.split(server) == ["lmcache", "server", *document["server_flags"]]
    assert shlex.split(serve) == ["vllm", "serve", "MODEL", *document["flags"]]
    assert json.loads(document["server_flags"][-1]) == document["l2_adapter"]
    assert json.loads(document["flags"][-1]) == document["kv_transfer_config"]


def test_the_adapter_takes_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--weights", "v2", "--port", "6000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    settings = adapter_settings(document["l2_adapter"]["adapter_params"], environment={})
    assert (settings.nodes, settings.salt) == (("a:1", "b:2"), "it's")
    assert settings.weights == ""  # the server's would vouch for every model
    flags = dict(zip(*[iter(document["server_flags"])] * 2, strict=True))
    assert (flags["--l1-size-gb"], flags["--port"]) == ("1.5", "6000")
    extra = document["kv_transfer_config"]["kv_connector_extra_config"]
    assert (extra["lmcache.mp.port"], extra["memkv.weights"]) == (6000, "v2")


@pytest.mark.parametrize("nodes", [[], ["--nodes", "nonsense"]])
def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str], nodes: list[str]) -> None:
    assert main(["config", "lmcache", *nodes]) == 2
    assert capsys.readouterr().err.startswith("memkv: ")


def states(capsys: pytest.CaptureFixture[str], line: str) -> dict[str, str]:
    """What --check says of a command line, by the name of the check."""
    main(["config", "lmcache", "--check", "--command", line, "--json"])
    checked = json.loads(capsys.readouterr().out)["checks"]
    return {one["name"]: one["state"] for one in checked}


def test_what_is_printed_passes_its_own_check(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ASKED, "--json"])
    document = json.loads(capsys.readouterr().out)
    server = states(capsys, shlex.join(["lmcache", "server", *document["server_flags"]]))
    assert [server[name] for name in ("class_name", "hashes", "tier")] == ["ok"] * 3
    assert "serde" not in server
    serve = states(capsys, shlex.join(["vllm", "serve", "M", *document["flags"]]))
    assert serve["kv_connector"] == "ok"
    assert serve["kv_load_failure_policy"] == "ok"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "fs"}, "type"),
        ({"class_name": "Other"}, "class_name"),
        ({"serde": {"type": "fp8"}}, "serde"),
        ({"adapter_params": {"nodes": "a:1", "lora": "fixed"}}, "tier.lora"),
    ],
)
def test_a_server_that_would_not_share_is_named(
    capsys: pytest.CaptureFixture[str], change: dict[str, object], named: str
) -> None:
    main([*ASKED, "--json"])
    adapter = {**json.loads(capsys.readouterr().out)["l2_adapter"], **change}
    line = shlex.join(["lmcache", "server", "--l2-adapter", json.dumps(adapter)])
    assert states(capsys, line)[named] == "error"


def test_hashes_that_may_collide_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    main([*ASKED, "--json"])
    flags = json.loads(capsys.readouterr().out)["server_flags"]
    flags[flags.index("blake3")] = "builtin"
    assert states(capsys, shlex.join(["lmcache", "server", *flags]))["hashes"] == "error"


def test_lmcaches_own_connector_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    transfer = json.dumps({"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"})
    found = states(capsys, shlex.join(["vllm", "serve", "M", "--kv-transfer-config", transfer]))
    assert found["kv_connector"] == found["kv_load_failure_policy"] == "error"
