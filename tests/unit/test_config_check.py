"""`memkv config ENGINE --check`: what is wrong is named, with what to write."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl.cli import _config_check, _engine_config, main
from memkv_nixl.cli._check_vllm import hash_algorithm
from memkv_nixl.cli._checks import Check
from memkv_nixl.cli._config_check import hash_seed, installed, region
from memkv_nixl.cli._config_vllm import vllm_transfer_config

GOOD = vllm_transfer_config({"nodes": "127.0.0.1:1"}, 1 << 20)
Said = dict[str, dict[str, str]]
Checked = Callable[..., tuple[int, Said]]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine; NIXL's checks take seconds and have tests of their own."""
    for name in ("MEMKV_NODES", "MEMKV_CONFIG", "MEMKV_TOKEN_FILE", "MEMKV_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NIXL_PLUGIN_DIR", "NIXL_TELEMETRY_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setattr(
        _config_check, "check_nixl", lambda: iter([Check("NIXL", "warning", "none", "install it")])
    )


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Checked:
    """The exit code and the checks by name, for a JSON document."""

    def check(document: Any, *arguments: str, engine: str = "vllm") -> tuple[int, Said]:
        path = tmp_path / "document.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        asked = ["config", engine, "--check", "--json", "--transfer-config", str(path)]
        status = main([*asked, *arguments])
        said = json.loads(capsys.readouterr().out)
        for one in said["checks"]:
            assert bool(one["mend"]) is (one["state"] != "ok"), one
        return status, {one["name"]: one for one in said["checks"]}

    return check


def changed(**values: Any) -> dict[str, Any]:
    """The good document with settings of any depth changed; None takes one out."""
    document = copy.deepcopy(GOOD)
    extra = document["kv_connector_extra_config"]
    places = [document, extra, extra["secondary_tiers"][0]]
    for name, value in values.items():
        place = next((one for one in places if name in one), places[-1])
        if value is None:
            del place[name]
        else:
            place[name] = value
    return document


def test_what_config_prints_is_right_but_for_this_machine(checked: Checked) -> None:
    status, said = checked(GOOD)
    assert status == 1
    bad = {name for name, one in said.items() if one["state"] == "error"}
    assert bad == {"NIXL", "node 127.0.0.1:1"}
    assert said["hash seed"]["state"] == said["host memory"]["state"] == "ok"


@pytest.mark.parametrize(
    ("values", "line", "words"),
    [
        ({"kv_connector": "NixlConnector"}, "kv_connector", '"kv_connector": "OffloadingC'),
        ({"kv_role": "kv_producer"}, "kv_role", '"kv_role": "kv_both"'),
        ({"kv_load_failure_policy": None}, "kv_load_failure_policy", '"recompute"'),
        ({"spec_name": "CPUOffloadingSpec"}, "spec_name", '"TieringOffloadingSpec"'),
        ({"cpu_bytes_to_use": "64GiB"}, "host memory", '"cpu_bytes_to_use": 6'),
        ({"cpu_bytes_to_use": 1 << 60}, "host memory", "less than"),
        ({"secondary_tiers": []}, "secondary_tiers", '"MemKVTier"'),
        ({"module_path": "memkv"}, "module_path", '"memkv_nixl.kvbm.vllm"'),
        ({"nodes": None}, "tier", '"nodes"'),
        ({"nodes": "no port"}, "tier.nodes", "nodes"),
        ({"fetch_deadline": 5}, "tier.fetch_deadline", "leave it out"),
        ({"fetch_deadline_ms": "5"}, "tier.fetch_deadline_ms", "leave it out"),
    ],
)
def test_each_wrong_setting_is_named(
    checked: Checked, values: dict[str, Any], line: str, words: str
) -> None:
    status, said = checked(changed(**values))
    assert status == 1
    assert said[line]["state"] == "error"
    assert words in said[line]["mend"]


def test_a_multi_connector_has_it_inside(checked: Checked) -> None:
    inside = changed(kv_role="kv_x", kv_load_failure_policy=None)
    whole = {
        "kv_connector": "MultiConnector",
        "kv_connector_extra_config": {"connectors": [{"kv_connector": "NixlConnector"}, inside]},
    }
    _, said = checked(whole)
    assert said["kv_role"]["state"] == said["kv_load_failure_policy"]["state"] == "error"
    assert said["tier"]["state"] == "ok"
    _, said = checked({**whole, "kv_load_failure_policy": "recompute"})
    assert said["kv_load_failure_policy"]["state"] == "ok"


@pytest.mark.parametrize(
    ("engine", "more", "part"),
    [
        ("vllm", [], "kv_transfer_config"),
        ("dynamo", [], "kv_transfer_config"),
        ("dynamo", ["--disaggregated"], "kv_transfer_config"),
        ("sglang", [], "extra_config"),
    ],
)
def test_what_an_engines_config_prints_is_right(
    checked: Checked,
    capsys: pytest.CaptureFixture[str],
    engine: str,
    more: list[str],
    part: str,
) -> None:
    asked = ["config", engine, "--json", "--nodes", "127.0.0.1:1", "--host-memory", "1MiB", *more]
    assert main(asked) == 0
    _, said = checked(json.loads(capsys.readouterr().out)[part], engine=engine)
    bad = {name for name, one in said.items() if one["state"] == "error"}
    assert bad - {"node 127.0.0.1:1"} == {"NIXL"}


def test_vllms_own_tier_obj_needs_our_folder_and_a_namespace(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tier = {"type": "obj", "store_config": {"bucket": "kv", "endpoint_override": "x"}}
    document = changed(secondary_tiers=[tier])
    _, said = checked(document)
    assert "memkv plugins --as OBJ" in said["OBJ"]["mend"]
    assert "MEMKV_NAMESPACE" in said["namespace"]["mend"]
    assert said["telemetry"]["mend"] == "export NIXL_TELEMETRY_ENABLE=y"
    (tmp_path / "libplugin_OBJ.so").write_bytes(b"\x7fELF memkv_plugin_stat")
    monkeypatch.setenv("NIXL_PLUGIN_DIR", str(tmp_path))
    monkeypatch.setenv("MEMKV_NAMESPACE", "llama-rev1-tp2")
    monkeypatch.setenv("NIXL_TELEMETRY_ENABLE", "y")
    _, said = checked(document)
    assert said["telemetry"]["state"] == "ok"
    assert said["OBJ"]["state"] == said["namespace"]["state"] == "ok"
    (tmp_path / "libplugin_OBJ.so").write_bytes(b"\x7fELF NIXL's own")
    assert checked(document)[1]["OBJ"]["state"] == "error"


@pytest.mark.parametrize("text", ['{"kv_connector": ', "[1, 2]", "7"])
def test_what_is_no_configuration_is_said(checked: Checked, text: str) -> None:
    status, said = checked(text)
    assert status == 1
    assert "error" in {said.get(name, {}).get("state") for name in ("JSON", "kv_connector")}


def test_the_engines_own_command_line_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    line = shlex.join(["vllm", "serve", "M", "--kv-transfer-config", json.dumps(GOOD)])
    asked = ["config", "vllm", "--check", "--json", "--command"]
    assert main([*asked, line + " --prefix-caching-hash-algo=xxhash"]) == 1
    said = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert said["tier"]["state"] == "ok"
    assert said["hashes"]["state"] == "error"
    assert main([*asked, "vllm serve 'M"]) == 1
    assert "close the quotes" in capsys.readouterr().out


def test_for_a_person_the_mend_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "vllm", "--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("error    NIXL"))
    assert lines[first + 1].strip() == "mend: install it"
    assert lines[-1].endswith("warnings")


def test_without_check_it_prints_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "vllm", "--nodes", "a:1"]) == 0
    assert capsys.readouterr().out.startswith("export PYTHONHASHSEED=0")


def test_trtllms_file_is_read_as_yaml(
    checked: Checked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "trtllm", "--nodes", "127.0.0.1:1", "--weights", "r1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for name, value in printed["environment"].items():
        monkeypatch.setenv(name, value)
    _, said = checked(printed["file"], engine="trtllm")
    bad = {name for name, one in said.items() if one["state"] == "error"}
    assert bad <= {"NIXL", "node 127.0.0.1:1", "staging"}  # this machine may have less than that
    worse = printed["file"] + "\ntensor_parallel_size: 2\nkv_cache_config: {host_cache_size: 9}"
    _, said = checked(worse.replace("MemKVWorker", "Worker"), engine="trtllm")
    for line in ("connector_worker_class", "tensor_parallel_size", "host_cache_size"):
        assert said[line]["state"] == "error"
    assert checked("a: [", engine="trtllm")[1]["JSON"]["state"] == "error"
    monkeypatch.setenv("MEMKV_TRTLLM", "[]")
    assert checked(printed["file"], engine="trtllm")[1]["MEMKV_TRTLLM"]["state"] == "error"


def test_every_engine_has_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    engines = [module.__name__.rpartition("_config_")[2] for module in _engine_config._ENGINES]
    assert {"vllm", "dynamo", "lmcache", "sglang", "trtllm"} == set(engines)
    for engine in engines:
        assert main(["config", engine, "--check", "--json"]) == 1  # there is no NIXL here
        said = json.loads(capsys.readouterr().out)
        assert "NIXL" in {one["name"] for one in said["checks"]}


@pytest.mark.parametrize(
    ("seed", "state"), [(None, "warning"), ("random", "error"), ("0", "ok"), ("42", "ok")]
)
def test_hash_seeds(seed: str | None, state: str) -> None:
    assert hash_seed({} if seed is None else {"PYTHONHASHSEED": seed}).state == state


@pytest.mark.parametrize(
    ("said", "state"),
    [(None, "ok"), ("sha256", "ok"), ("sha256_cbor", "ok"), ("xxhash_cbor", "error")],
)
def test_hash_algorithms(said: str | None, state: str) -> None:
    assert hash_algorithm(said).state == state


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(version: str) -> str:
        monkeypatch.setattr(_config_check.importlib.metadata, "version", lambda _: version)
        return installed("vLLM", ("vllm",), ("0.31", "0.32", "0.5.6"), ("0.33",)).state

    for version in ("0.32.0+cpu", "0.31", "0.5.6+cu12"):
        assert state(version) == "ok"
    assert state("0.33.1") == "warning"
    for version in ("0.30.2", "1.0", "0.310", "0.5.60", "0.5"):
        assert state(version) == "error"


def test_a_container_may_hold_less_than_its_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(f"{3 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 20}\n")
    monkeypatch.setattr(_config_check, "_CGROUP", tmp_path / "memory.max")
    fits = region("host memory", 2 << 20, "size")
    assert fits.state == "ok"
    assert "this container has" in fits.text
    assert region("host memory", (2 << 20) + 1, "size").state == "error"
    (tmp_path / "memory.max").write_text("max\n")
    assert region("host memory", (2 << 20) + 1, "size").state == "ok"
