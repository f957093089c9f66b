"""The text format, the HTTP beside it, and a drive's page."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from memkv_nixl import metrics
from memkv_nixl._errors import UnreachableError
from memkv_nixl._metrics import Durations, Metric, Page
from memkv_nixl._metrics_http import (
    CONNECTIONS_MAX,
    REQUEST_BYTES_MAX,
    MetricsServer,
    listen,
)
from memkv_nixl.store._node_metrics import node_page
from memkv_nixl.store._wear import Wear, parse_smart, read_wear
from tests.integration.scraping import get, parsed, scrape


def test_golden() -> None:
    page = Page()
    odd = Metric("a_total", "counter", 'Odd "help"\\ of\ntwo lines', ("x", "y"))
    page.add(odd, 3, 'q"u\\o', "new\nline")
    took = Durations((0.5, 1.0))
    for seconds in (0.25, 0.5, 0.75, 4.0):
        took.count(seconds)
    page.add_durations(Metric("b_seconds", "histogram", "Took"), took)
    page.add(odd, 4, "", "ü")
    page.add(Metric("c", "gauge", "A part"), 0.125)
    text = page.text()
    assert text == (
        '# HELP a_total Odd "help"\\\\ of\\ntwo lines\n'
        "# TYPE a_total counter\n"
        'a_total{x="q\\"u\\\\o",y="new\\nline"} 3\n'
        'a_total{x="",y="ü"} 4\n'
        "# HELP b_seconds Took\n"
        "# TYPE b_seconds histogram\n"
        'b_seconds_bucket{le="0.5"} 2\n'
        'b_seconds_bucket{le="1"} 3\n'
        'b_seconds_bucket{le="+Inf"} 4\n'
        "b_seconds_sum 5.5\n"
        "b_seconds_count 4\n"
        "# HELP c A part\n"
        "# TYPE c gauge\n"
        "c 0.125\n"
    )
    read = parsed(text)
    assert read.value("a_total", x='q"u\\o', y="new\nline") == 3
    assert read.metrics["a_total"][2] == odd.help


def test_a_nodes_page_has_every_number_of_stat(repo: Path) -> None:
    text = (repo / "docs/reference/stat.md").read_text(encoding="utf-8")
    lines = {"histogram": "sum=1 16=1", "counters": "hits=1", "text": "words"}
    said = {
        name: lines.get(unit.strip(), 7)
        for name, unit in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE)
    }
    nothing = node_page({})
    absent = {name for name, value in said.items() if node_page({name: value}) == nothing}
    # An identity, a size that never changes, and sums of what is there.
    assert absent == {"node", "segment_bytes", "puts", "gets"}
    assert len(said) > 90


def test_a_label_that_is_missing_is_a_bug() -> None:
    with pytest.raises(ValueError):
        Page().add(Metric("a", "gauge", "A", ("x",)), 1)


# ---- HTTP


async def fine() -> str:
    return "a 1\n"


async def broken() -> str:
    raise ZeroDivisionError


async def well() -> str:
    return ""


async def ill() -> str:
    return "the disk is full"


def served(
    story: Callable[[str], Awaitable[None]],
    page: Callable[[], Awaitable[str]] = fine,
    trouble: Callable[[], Awaitable[str]] = well,
) -> None:
    async def run() -> None:
        server = MetricsServer(listen("127.0.0.1:0", "here"), page, trouble)
        address = await server.start()
        try:
            await asyncio.wait_for(story(address), 30)
        finally:
            await server.close()

    asyncio.run(run())


async def said(address: str, request: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def test_what_is_answered() -> None:
    async def story(address: str) -> None:
        good = await said(address, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert good.startswith(b"HTTP/1.1 200 OK\r\n")
        assert good.endswith(b"\r\n\r\na 1\n")
        assert b"Content-Length: 4\r\n" in good
        head = await said(address, b"HEAD /metrics HTTP/1.0\r\n\r\n")
        assert head == good.removesuffix(b"a 1\n")
        for request, status in (
            (b"GET / HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
            (b"hello\r\n\r\n", b"400"),
            (b"GET /metrics SPDY\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\nX: " + bytes(REQUEST_BYTES_MAX) + b"\r\n\r\n", b"400"),
        ):
            assert (await said(address, request)).startswith(b"HTTP/1.1 " + status), request

    served(story)


def test_trouble_is_said() -> None:
    async def story(address: str) -> None:
        healthz = await said(address, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert healthz.startswith(b"HTTP/1.1 503 ")
        assert healthz.endswith(b"the disk is full\n")
        assert (await said(address, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500 ")

    served(story, broken, ill)


def test_connections_have_a_bound() -> None:
    async def story(address: str) -> None:
        host, _, port = address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS_MAX)]
        assert await tried(address) == b""
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        while not (await tried(address)).startswith(b"HTTP/1.1 200"):
            pass

    async def tried(address: str) -> bytes:
        try:
            return await said(address, b"GET /metrics HTTP/1.1\r\n\r\n")
        except OSError:
            return b""

    served(story)


def test_who_sends_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memkv_nixl._metrics_http.DEADLINE_S", 0.05)

    async def story(address: str) -> None:
        assert await said(address, b"GET /metr") == b""

    served(story)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"node\.metrics: .* cannot be listened on"):
            listen(address, "node.metrics")


# ---- a client's page where NIXL has not loaded the plugin


def test_it_can_be_served_from_within_an_event_loop() -> None:
    async def engine() -> None:
        with metrics.serve("127.0.0.1:0") as serving:
            page = await asyncio.to_thread(scrape, serving.address)
            assert page.value("memkv_client_loaded") == 0

    asyncio.run(engine())


def test_a_process_serves_its_clients_page() -> None:
    with metrics.serve("127.0.0.1:0") as serving:
        assert scrape(serving.address).value("memkv_client_loaded") == 0
        assert get(serving.address, "/healthz") == (200, "ok\n")
    serving.close()
    with pytest.raises(OSError):
        get(serving.address)


# ---- a drive


def test_a_drives_page_is_read() -> None:
    page = bytearray(512)
    page[3], page[5] = 97, 104  # percent: spare left, used (it may go beyond 100)
    page[48:64] = (3_000_000).to_bytes(16, "little")
    page[160:176] = (2).to_bytes(16, "little")
    assert parse_smart(bytes(page)) == Wear(1.04, 0.97, 1_536_000_000_000, 2)


def test_a_device_that_says_nothing_has_no_wear(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_wear("/dev/null") is None
    assert read_wear(str(tmp_path / "nowhere")) is None
