"""/metrics of a node without a control plane, and the page to all metrics."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memkv_nixl import metrics as client_metrics
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl.control import _metrics as control_metrics
from memkv_nixl.store import _node_metrics
from tests.integration.nodes import DEADLINE_S, Node, memkv
from tests.integration.scraping import documented, get, scrape

ANYWHERE = ("--metrics", "127.0.0.1:0")
WEAR = {"memkv_node_device_wear_ratio", "memkv_node_device_spare_ratio"}
WEAR |= {"memkv_node_drive_written_bytes_total", "memkv_node_drive_media_errors_total"}
RULED = {f"memkv_node_namespace_{name}" for name in ("used_bytes", "used_blocks", "quota_bytes")}
RULED |= {f"memkv_node_tenant_{name}" for name in ("used_bytes", "used_blocks", "quota_bytes")}
RULED |= {"memkv_node_namespace_blocks_gone_total"}
AGENTS = {"memkv_node_memkvd_starts_total", "memkv_node_registered"}
AGENTS |= {"memkv_node_moved_bytes_total", "memkv_node_copies_made_total"}
AGENTS |= {"memkv_node_moves_failed_total"}
RULES = {"memkv_node_namespace_copies_waiting"}  # of namespaces that want two copies


def test_the_page_has_every_metric_that_there_is(repo: Path) -> None:
    declared = {
        metric.name: (
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels) or "-",
            metric.help,
        )
        for module in (_node_metrics, control_metrics, client_metrics)
        for metric in module.METRICS
    }
    assert documented(repo) == declared


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "blocks", flags=ANYWHERE).start()
    yield node
    node.stop()


def move(address: str, space: str, blocks: int, length: int = 5000) -> None:
    """Puts blocks, gets them, asks for one that is not there, and for a hole."""
    client, name = Client([address]), namespace_id(space)
    keys = [b"%d" % i for i in range(blocks)]
    for call, values in (
        (client.put, [bytes(length)] * blocks),
        (client.get, [bytearray(length) for _ in keys]),
    ):
        request = call(name, keys, values)
        assert request.wait(DEADLINE_S * 1000)
        assert set(request.codes()) == {0}
    missing = client.get(name, [b"none"], [bytearray(1)])
    assert missing.wait(DEADLINE_S * 1000)
    hole = client.match(name, [keys[0], b"none", keys[1]])
    assert hole.wait(DEADLINE_S * 1000)
    client.close()


def test_a_node_says_what_it_did(node: Node, repo: Path) -> None:
    assert get(node.metrics, "/healthz") == (200, "ok\n")
    move(node.address, "llama", 4)
    page = scrape(node.metrics)
    rows = documented(repo)
    assert page.metrics.items() <= rows.items()
    absent = {name for name in rows if name.startswith("memkv_node_")} - page.metrics.keys()
    assert absent - WEAR - RULES == AGENTS | RULED

    assert page.value("memkv_node_up") == 1
    assert page.value("memkv_node_hits_total", tier="dram") == 4
    assert page.value("memkv_node_misses_total") == 1
    assert page.value("memkv_node_put_bytes_total") == 20_000
    assert page.value("memkv_node_get_bytes_total") == 20_000
    assert page.value("memkv_node_pinned_blocks") == 0
    assert page.value("memkv_node_put_seconds_count") == 4
    assert page.value("memkv_node_get_whole_seconds_count") == 4
    assert page.value("memkv_node_get_first_byte_seconds_count") == 4
    space = {"tenant": "1", "namespace": namespace_id("llama").hex()}
    wanted = {"hits": 4, "misses": 1, "holes": 1, "keys": 3, "found": 2, "puts": 4}
    for name, count in wanted.items():
        assert page.value(f"memkv_node_namespace_{name}_total", **space) == count


def test_namespaces_have_a_bound(node: Node) -> None:
    for i in range(70):
        move(node.address, f"space {i}", 2, 10)
    page = scrape(node.metrics)
    spaces = {
        dict(labels)["namespace"]
        for name, labels in page.samples
        if name == "memkv_node_namespace_hits_total"
    }
    assert len(spaces) == 65
    assert page.value("memkv_node_namespace_hits_total", tenant="other", namespace="other") == 12
    assert page.sum("memkv_node_namespace_hits_total") == 140


def test_a_memkvd_that_hangs_is_said(node: Node) -> None:
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGSTOP)
    try:
        assert scrape(node.metrics).value("memkv_node_up") == 0
        status, why = get(node.metrics, "/healthz")
        assert status == 503
        assert why.strip()
    finally:
        os.kill(node.process.pid, signal.SIGCONT)
    end = time.monotonic() + DEADLINE_S  # whoever asks it connects again in a moment
    while scrape(node.metrics).value("memkv_node_up") != 1:
        assert time.monotonic() < end


def test_the_page_ends_with_memkvd(tmp_path: Path) -> None:
    node = Node(tmp_path / "blocks", flags=ANYWHERE).start()
    with connected(node.metrics) as waiting:
        node.kill()
        assert hung_up(waiting), "who serves the page is gone, too"


def test_who_serves_the_page_may_die(node: Node) -> None:
    assert node.process is not None
    pid = node.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    with connected(node.metrics) as waiting:
        os.kill(int(child), signal.SIGKILL)
        assert hung_up(waiting)
    move(node.address, "llama", 2)


def hung_up(waiting: socket.socket) -> bool:
    """Waits until the other side is gone; how it is felt is the kernel's choice."""
    try:
        return waiting.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as waiting:
        yield waiting


def test_an_address_that_is_taken_is_refused_before_memkvd_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        device = ("--device", str(tmp_path / "blocks"), "--capacity", "1GiB")
        said = memkv("node", "serve", *device, "--metrics", where, "--json")
    assert said.returncode == 1
    assert "node.metrics" in json.loads(said.stdout)["error"]["message"]
    assert not (tmp_path / "blocks").exists()
