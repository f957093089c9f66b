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
