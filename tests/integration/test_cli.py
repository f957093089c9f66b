"""The command line against real nodes: what a user types, sees and scripts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.nodes import Node, memkv


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two nodes, as --nodes names them."""
    folder = tmp_path_factory.mktemp("pool")
    nodes = [Node(folder / f"node{i}.dat").start() for i in range(2)]
    yield ",".join(node.address for node in nodes)
    for node in nodes:
        node.stop()


def random_file(path: Path, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("size", [1, 4096, 65537, (4 << 20) + 3, 64 << 20])
def test_put_and_get_give_the_same_bytes(pool: str, tmp_path: Path, size: int) -> None:
    data = random_file(tmp_path / "in", size)
    put = memkv("put", "--nodes", pool, f"key-{size}", str(tmp_path / "in"))
    assert put.returncode == 0, put.stderr
    got = memkv("get", "--nodes", pool, f"key-{size}", str(tmp_path / "out"))
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "out").read_bytes() == data


def test_standard_input_and_output(pool: str) -> None:
    assert memkv("put", "--nodes", pool, "piped", "-", stdin=b"abc").returncode == 0
    got = memkv("get", "--nodes", pool, "piped", "-")
    assert (got.returncode, got.stdout) == (0, b"abc")


def test_json_of_every_command(pool: str, tmp_path: Path) -> None:
    random_file(tmp_path / "in", 5000)
    put = json.loads(memkv("put", "--json", "--nodes", pool, "j", str(tmp_path / "in")).stdout)
    assert (put["status"], put["bytes"]) == ("ok", 5000)
    again = json.loads(memkv("put", "--json", "--nodes", pool, "j", str(tmp_path / "in")).stdout)
    assert again["status"] == "exists"
    get = json.loads(memkv("get", "--json", "--nodes", pool, "j", str(tmp_path / "out")).stdout)
    assert (get["status"], get["bytes"]) == ("ok", 5000)
    match = memkv("match", "--json", "--nodes", pool, "j", "absent")
    assert match.returncode == 3
    blocks = json.loads(match.stdout)["blocks"]
    assert [(row["where"], row["bytes"]) for row in blocks] == [("dram", 5000), ("absent", 0)]
    drop = json.loads(memkv("drop", "--json", "--nodes", pool, "j").stdout)
    assert drop["blocks"] == [{"key": "j", "status": "ok"}]
    status = json.loads(memkv("status", "--json", "--nodes", pool).stdout)
    assert [row["reachable"] for row in status["nodes"]] == [True, True]
    assert sum(row["stats"]["puts"] for row in status["nodes"]) >= 1


def told(*args: str) -> tuple[int, list[str]]:
    """The exit code, and the lines for a person."""
    ran = memkv(*args)
    return ran.returncode, ran.stdout.decode().splitlines()


def test_what_a_person_reads_of_blocks(pool: str, tmp_path: Path) -> None:
    data = random_file(tmp_path / "in", 5000)
    at, out = ("--nodes", pool), str(tmp_path / "out")
    code, (line,) = told("put", *at, "told", str(tmp_path / "in"))
    assert code == 0
    assert re.fullmatch(r"told: 4\.9 KiB, put in \d+\.\d ms", line), line
    assert told("put", *at, "told", str(tmp_path / "in")) == (
        0,
        ["told: 4.9 KiB, is there already"],
    )
    code, (line,) = told("get", *at, "told", out)
    assert code == 0
    assert re.fullmatch(r"told: 4\.9 KiB in \d+\.\d ms", line), line
    assert Path(out).read_bytes() == data
    assert told("match", *at, "told", "not-put") == (
        3,
        ["KEY      WHERE   SIZE", "told     dram    4.9 KiB", "not-put  absent  -"],
    )
    assert told("drop", *at, "told", "not-put") == (3, ["told: ok", "not-put: not_found"])


def test_what_a_person_reads_of_nodes(tmp_path: Path) -> None:
    node = Node(tmp_path / "node.dat").start()
    dead = "127.0.0.1:1"
    try:
        fresh = told("status", "--nodes", node.address)
        assert memkv("put", "--nodes", node.address, "k", "-", stdin=b"x" * 4096).returncode == 0
        assert memkv("get", "--nodes", node.address, "k", "-").returncode == 0
        code, lines = told("status", "--nodes", f"{node.address},{dead}", "--timeout-ms", "2000")
    finally:
        node.stop()
    head, here, gone, why = lines
    heads = ["NODE", "STATE", "BLOCKS", "FLASH", "DRAM", "HITS"]
    assert code == 1
    assert cells(head) == heads
    serving = [node.address, "serving", "1", "4.0 KiB of 1.0 GiB", "256.0 MiB"]
    assert cells(here) == [*serving, "100.0% of 1"]
    assert cells(gone) == [dead, "unreachable", "-", "-", "-", "-"]
    assert why.startswith(f"{dead}: ")
    assert "refused" in why
    assert fresh[0] == 0
    assert list(map(cells, fresh[1])) == [
        heads,
        [node.address, "serving", "0", "0 B of 1.0 GiB", "256.0 MiB", "no gets yet"],
    ]


def cells(line: str) -> list[str]:
    return re.split(r"  +", line)


def test_a_missing_block_is_exit_code_3(pool: str, tmp_path: Path) -> None:
    got = memkv("get", "--nodes", pool, "never-put", str(tmp_path / "out"))
    assert got.returncode == 3
    assert b"not there" in got.stderr
    assert not (tmp_path / "out").exists()
    assert memkv("drop", "--nodes", pool, "never-put").returncode == 3


def test_another_length_is_a_conflict(pool: str) -> None:
    assert memkv("put", "--nodes", pool, "fixed", "-", stdin=b"four").returncode == 0
    other = memkv("put", "--nodes", pool, "fixed", "-", stdin=b"seven..")
    assert other.returncode == 1
    assert b"another length" in other.stderr


def test_namespaces_do_not_see_each_other(pool: str) -> None:
    args = ["--nodes", pool, "--namespace"]
    assert memkv("put", *args, "model-a", "shared-key", "-", stdin=b"a").returncode == 0
    assert memkv("get", *args, "model-b", "shared-key", "-").returncode == 3
    assert memkv("put", *args, "model-b", "shared-key", "-", stdin=b"b").returncode == 0
    assert memkv("get", *args, "model-a", "shared-key", "-").stdout == b"a"


def test_a_drop_generation_is_named_by_flag_or_environment(pool: str) -> None:
    at = ("--nodes", pool, "--namespace", "dropped")
    first = ("--drop-generation", "1")
    assert memkv("put", *at, *first, "k", "-", stdin=b"of the first").returncode == 0
    assert memkv("get", *at, "k", "-").returncode == 3
    assert memkv("match", *at, "k").returncode == 3
    assert memkv("match", *at, *first, "k").returncode == 0
    assert memkv("put", *at, "k", "-", stdin=b"another").returncode == 0
    got = memkv("get", *at, "k", "-", MEMKV_DROP_GENERATION="1")
    assert got.stdout == b"of the first"
    assert memkv("drop", *at, *first, "k").returncode == 0
    assert memkv("get", *at, "k", "-").stdout == b"another"


def test_groups_lie_on_one_node_and_are_found_by_group(pool: str) -> None:
    args = ["--nodes", pool, "--namespace", "grouped", "--group", "prefix-1"]
    keys = [f"g{i}" for i in range(16)]
    for key in keys:
        assert memkv("put", *args, key, "-", stdin=key.encode()).returncode == 0
    assert memkv("match", *args, *keys).returncode == 0
    # Without the group some are looked for on the other node.
    assert memkv("match", "--nodes", pool, "--namespace", "grouped", *keys).returncode == 3


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["put", "k", "-"], "no store nodes are named"),
        (["put", "--nodes", "nowhere", "k", "-"], "write HOST:PORT"),
        (["put", "--nodes", "127.0.0.1:1,127.0.0.1:1", "k", "-"], "named twice"),
        (["put", "--nodes", "127.0.0.1:1", "k", "/no/such/file"], "cannot be read"),
        (["get", "--nodes", "127.0.0.1:1", "--hex", "xyz", "-"], "hexadecimal"),
        (["match", "--nodes", "127.0.0.1:1", "--timeout-ms", "0", "k"], "timeout_ms"),
        (["get", "--nodes", "127.0.0.1:1", "--drop-generation", "-1", "k", "-"], "drop_generation"),
        (["node", "serve"], "no device is named"),
        (["node", "serve", "--device", "x", "--capacity", "many"], "write one such as"),
    ],
)
def test_wrong_usage_is_named(args: list[str], sentence: str) -> None:
    ran = memkv(*args, stdin=b"x")
    assert ran.returncode == 2
    assert sentence in ran.stderr.decode()


@pytest.mark.parametrize(("key", "code"), [("", "invalid"), ("k" * 513, "too_large")])
def test_keys_of_a_wrong_length_are_refused(pool: str, key: str, code: str) -> None:
    ran = memkv("put", "--json", "--nodes", pool, key, "-", stdin=b"x")
    assert ran.returncode == 2
    assert json.loads(ran.stdout)["error"]["code"] == code


def test_an_empty_block_is_refused(pool: str) -> None:
    ran = memkv("put", "--nodes", pool, "empty", "-", stdin=b"")
    assert ran.returncode == 2
    assert b"at least one byte" in ran.stderr


def test_an_unreachable_node_is_an_error_within_the_deadline() -> None:
    ran = memkv("get", "--nodes", "127.0.0.1:1", "--timeout-ms", "500", "k", "-")
    assert ran.returncode == 1
    assert b"127.0.0.1:1" in ran.stderr
    status = memkv("status", "--json", "--nodes", "127.0.0.1:1", "--timeout-ms", "500")
    assert status.returncode == 1
    assert json.loads(status.stdout)["nodes"][0]["reachable"] is False


def test_file_environment_and_flags_in_rising_order(pool: str, tmp_path: Path) -> None:
    config = tmp_path / "memkv.yaml"
    config.write_text("nodes: [127.0.0.1:1]\nnamespace: from-file\ntimeout_ms: 700\n")
    base = ["--config", str(config)]
    assert memkv("get", *base, "k", "-").returncode == 1  # the file's node is nobody
    put = memkv("put", *base, "k", "-", stdin=b"x", MEMKV_NODES=pool)
    assert put.returncode == 0, put.stderr
    assert memkv("get", "--nodes", pool, "--namespace", "from-file", "k", "-").stdout == b"x"
    other = memkv("get", *base, "--namespace", "flag", "k", "-", MEMKV_NODES=pool)
    assert other.returncode == 3


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    config = tmp_path / "memkv.yaml"
    config.write_text("namspace: llama\n")
    ran = memkv("status", "--config", str(config))
    assert ran.returncode == 2
    assert b"did you mean 'namespace'" in ran.stderr


def test_blocks_survive_a_restart_and_a_kill(tmp_path: Path) -> None:
    node = Node(tmp_path / "node.dat").start()
    data = random_file(tmp_path / "in", 3 << 20)
    try:
        assert memkv("put", "--nodes", node.address, "kept", str(tmp_path / "in")).returncode == 0
        node.stop()
        node.start()
        got = memkv("get", "--nodes", node.address, "kept", "-")
        assert (got.returncode, got.stdout) == (0, data)
        node.kill()
        node.start()
        got = memkv("get", "--nodes", node.address, "kept", "-")
        assert (got.returncode, got.stdout) == (0, data)
    finally:
        node.kill()
