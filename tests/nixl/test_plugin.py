"""The plugin in unmodified NIXL agents from PyPI, against real nodes.

Each test runs its case (cases.py) in a process of its own, with the oldest and the newest NIXL, or
those that MEMKV_TEST_NIXL names ("all": every one that is known).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.nodes import Node
from tests.nixl.conftest import PLUGIN, Run

# The first test may have to make its environment; a case has a limit of its own.
pytestmark = pytest.mark.timeout(900)

Parameters = dict[str, str]

PLAIN = (
    "listed",
    "offsets",
    "missing_among_present",
    "posted_again",
    "four_thousand",
    "prepped_lists",
    "every_dialect",
    "released_in_flight",
    "several_agents_and_threads",
    "id_reused_after_deregistration",
    "registered_twice",
    "wrong_lengths",
    "forked",
    "estimates",
    "counted",
)


@pytest.mark.parametrize("case", PLAIN)
def test_case(run: Run, parameters: Parameters, case: str) -> None:
    run(case, parameters=parameters)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (32, 65_537), (3, 20 << 20)])
def test_another_process_reads_what_one_wrote(
    run: Run, parameters: Parameters, count: int, length: int
) -> None:
    run("writer", parameters=parameters, count=count, length=length)
    run("reader", parameters=parameters, count=count, length=length)


def test_a_frozen_node_does_not_hold_a_release(run: Run, node: Node) -> None:
    run(
        "cancelled_before_a_frozen_node",
        parameters={"nodes": node.address},
        pid=pid_of(node),
    )


def test_a_node_that_is_killed_costs_its_blocks_only(
    run: Run, parameters: Parameters, node: Node
) -> None:
    first = parameters["nodes"].split(",")[0]
    run(
        "killed_in_flight",
        parameters={**parameters, "nodes": f"{first},{node.address}"},
        pid=pid_of(node),
    )


def test_without_any_node_there_are_misses_at_once(run: Run) -> None:
    run("nobody_there", parameters={"nodes": "127.0.0.1:1"})


def test_a_process_exits_in_the_middle_of_a_transfer(run: Run, node: Node) -> None:
    run("exits_in_flight", parameters={"nodes": node.address}, pid=pid_of(node))


def test_wrong_parameters_are_refused_with_a_sentence(run: Run, parameters: Parameters) -> None:
    sentences = {
        "did you mean 'namespace'?": {"namespcae": "x"},
        "there is no such parameter; known are nodes": {"somewhere_else": "x"},
        "only where the backend is created by the name OBJ": {"bucket": "x"},
        "is no key dialect": {"key_dialect": "hex"},
        "this version speaks TCP only": {"transport": "rdma"},
        "in this version the client verifies": {"verify": "server"},
        "whole number of milliseconds": {"timeout_ms": "5s"},
        "query_timeout_ms: '0'": {"query_timeout_ms": "0"},
        "is no node address": {"nodes": "nowhere"},
        "is named twice": {"nodes": "a:1,a:1"},
        "is no namespace": {"namespace": "hex:12"},
    }
    said = run("refused_parameters", parameters=parameters, wrong=list(sentences.values()))
    for sentence in sentences:
        assert sentence in said


def test_a_second_key_on_a_device_id_is_refused_with_the_reason(
    run: Run, parameters: Parameters
) -> None:
    said = run("two_keys_on_one_device", parameters=parameters)
    assert "device id 7 cannot be registered for the key 'two'" in said
    assert "it is registered for 'one'" in said
    assert "metaInfo is empty" in said
    assert "a key of 513 bytes; the limit is 512" in said


def test_parameters_come_from_the_environment_and_the_file(
    run: Run, parameters: Parameters, tmp_path: Path
) -> None:
    config = tmp_path / "memkv.yaml"
    nodes = parameters["nodes"].split(",")
    config.write_text(
        f"# the pool\nnodes: [{', '.join(nodes)}]\nnamespace: from the file\ntimeout_ms: 1\n"
        "node:\n  device: /dev/nvme0n1\n  dram: 1GiB\n"
    )
    environment = {
        "MEMKV_CONFIG": str(config),
        "MEMKV_NAMESPACE": parameters["namespace"],
        "MEMKV_TIMEOUT_MS": "4321",
    }
    run("from_environment", environment=environment)


def test_the_command_line_finds_what_nixl_wrote(run: Run, parameters: Parameters) -> None:
    run("writer", parameters=parameters, count=1, length=1000)
    command = [sys.executable, "-m", "memkv_nixl.cli", "get", "key 0", "-"]
    command += ["--nodes", parameters["nodes"], "--namespace", parameters["namespace"]]
    got = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert got.returncode == 0, got.stderr
    assert len(got.stdout) == 1000


def test_the_plugin_exports_three_names_and_needs_little(plugin: Path) -> None:
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(plugin)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert names[2::3] == ["memkv_plugin_stat", "nixl_plugin_fini", "nixl_plugin_init"], PLUGIN
    needed = subprocess.run(
        ["readelf", "-dW", str(plugin)], capture_output=True, text=True, check=True
    ).stdout
    libraries = {
        line.split("[")[1].split("]")[0] for line in needed.splitlines() if "(NEEDED)" in line
    }
    assert {name.split(".so")[0] for name in libraries} <= {
        *("libstdc++", "libgcc_s", "libc", "libm", "ld-linux-x86-64", "ld-linux-aarch64"),
    }


def pid_of(node: Node) -> int:
    """The process of memkvd, which `memkv node serve` becomes."""
    assert node.process is not None
    return node.process.pid
