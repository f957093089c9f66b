"""`memkv doctor`: what it finds, and that it lives through what it finds."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from memkv_nixl.cli._checks import _direct_io, _port
from memkv_nixl.store import Cluster
from tests.integration.nodes import memkv
from tests.nixl import venvs

NAMES = [
    "NIXL",
    "plugin",
    "python",
    "client",
    "memkvd",
    "io_uring",
    "O_DIRECT",
    "huge pages",
    "locked memory",
    "descriptors",
    "RDMA",
    "NVMe",
    "GPU",
    "port",
    "clock",
]


def doctor(*args: str, python: str | Path = sys.executable) -> tuple[int, dict[str, Any]]:
    ran = subprocess.run(
        [str(python), "-m", "memkv_nixl.cli", "doctor", "--json", *args],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def by_name(said: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in said["checks"]}


def test_every_check_has_a_line_and_what_is_wrong_a_mend(tmp_path: Path) -> None:
    status, said = doctor("--dir", str(tmp_path))
    assert [check["name"] for check in said["checks"]] == NAMES
    for check in said["checks"]:
        assert check["text"], check
        assert bool(check["mend"]) is (check["state"] != "ok"), check
    assert status == (0 if said["ok"] else 1)
    assert said["errors"] == sum(check["state"] == "error" for check in said["checks"])
    found = by_name(said)
    assert found["memkvd"]["text"].startswith("memkvd 0.")
    assert found["NIXL"]["state"] == "warning"  # this environment has none, and needs none
    assert list(tmp_path.iterdir()) == []


def test_with_nixl_the_plugin_is_loaded_and_found(newest_nixl: Path) -> None:
    _, said = doctor(python=newest_nixl)
    found = by_name(said)
    assert found["NIXL"]["state"] == "ok"
    assert f"nixl_cu12 {venvs.NEWEST} at" in found["NIXL"]["text"]
    assert found["interface"]["state"] == "ok"
    assert found["plugin"]["state"] == "ok"
    assert found["plugin found"]["state"] == "ok"
    assert "POSIX" in found["plugin found"]["text"]


def test_what_is_wrong_with_the_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check = _port(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "Address already in use" in check.text
    assert "all is well" in check.mend
    for listen, words in (
        ("203.0.113.1:9900", "Cannot assign requested address"),
        ("no-such-host.invalid:9900", "ame"),  # the resolver's words, not those of an errno
    ):
        check = _port(listen)
        assert check.state == "warning"
        assert words in check.text
        assert "Unknown error" not in check.text
        assert "all is well" not in check.mend
        assert "address of this machine" in check.mend


def test_a_folder_that_cannot_be_written_to_has_a_mend_of_its_own(tmp_path: Path) -> None:
    check = _direct_io(tmp_path / "none")
    assert "cannot be written to: No such file" in check.text
    assert "this user can write to" in check.mend


def test_nodes_are_asked(tmp_path: Path) -> None:
    with Cluster(2) as cluster:
        nodes = ",".join(cluster.addresses)
        _, said = doctor("--nodes", nodes)
        assert [check["state"] for check in said["checks"][-2:]] == ["ok", "ok"]
        cluster.kill_node(1)
        status, said = doctor("--nodes", nodes, "--timeout-ms", "2000")
    assert status == 1
    up, down = said["checks"][-2:]
    assert (up["state"], down["state"]) == ("ok", "error")
    assert down["name"] == f"node {cluster_address(nodes, 1)}"
    assert "memkvd running" in down["mend"]


def cluster_address(nodes: str, index: int) -> str:
    return nodes.split(",")[index]


def test_the_loaders_own_words_are_repeated(newest_nixl: Path, repo: Path, tmp_path: Path) -> None:
    """A plugin that cannot be loaded: NIXL would only say that it knows no such backend."""
    package = tmp_path / "memkv_nixl"
    package.mkdir()
    for path in (repo / "memkv_nixl").iterdir():
        if path.name not in ("_plugin", "__pycache__"):
            (package / path.name).symlink_to(path.resolve())
    (package / "_plugin").mkdir()
    broken = package / "_plugin/libplugin_MEMKV.so"
    source = tmp_path / "broken.cpp"
    source.write_text(
        'extern int nowhere(); extern "C" int nixl_plugin_init() { return nowhere(); }\n'
    )
    subprocess.run(["g++", "-shared", "-fPIC", "-o", broken, source], check=True)
    # Files of the package find one another by their own place, so these two are copies.
    for name in ("_nixl.py", "__init__.py"):
        text = (package / name).read_text(encoding="utf-8")
        (package / name).unlink()
        (package / name).write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [str(newest_nixl), "-m", "memkv_nixl.cli._checks_nixl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    checks = {check["name"]: check for check in map(json.loads, ran.stdout.splitlines())}
    assert checks["plugin"]["state"] == "error", ran.stderr
    assert "undefined symbol" in checks["plugin"]["text"]
    assert "nowhere" in checks["plugin"]["text"]


def test_for_a_person_each_line_stands_alone() -> None:
    said = memkv("doctor").stdout.decode()
    assert "checks:" in said.splitlines()[-1]
    assert any(line.startswith("ok       python") for line in said.splitlines())
