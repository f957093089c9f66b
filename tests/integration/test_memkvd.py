"""memkvd as a person meets it: what it refuses, in which words, and how it starts and stops.

Blocks in and out are tested elsewhere; here nobody speaks the protocol, but to a raw device.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client, Request

SIZES = ("--capacity", "64MiB", "--segment-bytes", "8MiB", "--dram", "64MiB")
DEADLINE_S = 30


@pytest.fixture(scope="session")
def memkvd(repo: Path) -> Path:
    """The daemon that was built last."""
    places = ["memkv_nixl/_bin/memkvd", "build/release/memkvd", "build/dev/memkvd"]
    built = [path for place in places if os.access(path := repo / place, os.X_OK)]
    named = os.environ.get("MEMKV_TEST_MEMKVD")
    if named:
        return Path(named)
    if not built:
        pytest.skip(f"no memkvd in {', '.join(places)}: run ./dev build")
    return max(built, key=lambda path: path.stat().st_mtime)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(memkvd: Path) -> Run:
    """Runs memkvd to its end."""

    def go(*flags: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [memkvd, *map(str, flags)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    return go


class Serving:
    """A memkvd that serves."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, object]) -> None:
        self.process = process
        self.ready = ready
        self.address = str(ready["address"])

    def connect(self) -> socket.socket:
        host, port = self.address.rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=DEADLINE_S)

    def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """Its exit code and everything it said, after these signals."""
        for number in signals:
            self.process.send_signal(number)
        errors = self.process.communicate(timeout=DEADLINE_S)[1]
        return self.process.returncode, errors


Serve = Callable[..., Serving]


@pytest.fixture
def serve(memkvd: Path) -> Iterator[Serve]:
    """Starts memkvd and waits until it says that it serves."""
    running: list[subprocess.Popen[str]] = []

    def go(*flags: object) -> Serving:
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [memkvd, *map(str, flags), "--listen", "127.0.0.1:0", "--ready-fd", str(writing)],
            pass_fds=[writing],
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        os.close(writing)
        with os.fdopen(reading) as ready:
            line = ready.read()
        assert line, process.communicate(timeout=DEADLINE_S)[1]
        assert line.count("\n") == 1
        return Serving(process, json.loads(line))

    yield go
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def words_in(text: str) -> Iterator[Callable[..., None]]:
    def has(*words: str) -> None:
        for word in words:
            assert word in text, f"{word!r} is missing in: {text}"

    yield has


def refuses(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    with words_in(result.stderr) as has:
        has(*words)


# ---- the command line


def test_help_and_version(run: Run) -> None:
    helped = run("--help")
    assert helped.returncode == 0
    assert helped.stderr == ""
    with words_in(helped.stdout) as has:
        has("usage: memkvd --device PATH", "--capacity SIZE", "examples:")
    version = run("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("memkvd ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--device is missing", "--capacity 10GiB"]),
        (["--devise", "x"], ["--devise is not a flag", "did you mean --device?"]),
        (["--device", "x", "--capacity", "ten"], ["--capacity", "'ten' is not a size", "10GiB"]),
        (["--device", "x", "--capacity", "100MiB"], ["--capacity", "too small", "513MiB"]),
        (["--device", "x", "--listen", "0.0.0.0:9900"], ["beyond loopback", "--insecure"]),
        (["--device", "x", "--listen", "0.0.0.0:9900", "--insecure"], ["--advertise HOST:PORT"]),
        (["--flags-file", "/no/such.flags"], ["'/no/such.flags' cannot be read"]),
    ],
)
def test_wrong_flags_end_with_2(run: Run, flags: list[str], words: list[str]) -> None:
    refuses(run(*flags), 2, *words, "--help")


def test_a_flags_file_is_read_and_its_wrong_line_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "node.flags"
    file.write_text(f"device {tmp_path / 'data'}\ncapacity lots\n")
    refuses(run("--flags-file", file), 2, f"{file}:2: --capacity", "'lots'")


# ---- the device


def test_devices_that_are_none_end_with_1(run: Run, tmp_path: Path) -> None:
    refuses(run("--device", tmp_path), 1, "directory", f"{tmp_path}/memkv.data")
    refuses(run("--device", tmp_path / "data"), 1, "does not exist", "--capacity")
    refuses(run("--device", tmp_path / "no" / "data", *SIZES), 1, "directory does not exist")
    refuses(run("--device", "/dev/null", *SIZES), 1, "neither a file nor a block device")
    refuses(run("--device", tmp_path / "data", "--capacity", "900TiB"), 1, "free", "--capacity")
    assert list(tmp_path.iterdir()) == [], "what was made for nothing is taken away"


def test_a_device_that_is_too_small(run: Run, tmp_path: Path) -> None:
    small = tmp_path / "data"
    with small.open("wb") as file:
        file.truncate(1 << 20)
    refuses(run("--device", small, "--dram", "256MiB"), 1, "small")


def test_a_device_is_never_shrunk(run: Run, serve: Serve, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert serve("--device", data, *SIZES).end(signal.SIGTERM)[0] == 0
    smaller = ("--capacity", "48MiB", "--segment-bytes", "8MiB", "--dram", "64MiB")
    refuses(run("--device", data, *smaller), 1, "never shrunk", "64 MiB")
    assert data.stat().st_size == 64 << 20


def test_a_device_that_holds_something_else(run: Run, serve: Serve, tmp_path: Path) -> None:
    data = tmp_path / "data"
    content = b"the only copy of a thesis\n" * 100_000
    data.write_bytes(content)
    result = run("--device", data, *SIZES)
    refuses(result, 1, str(data), "--format")
    assert data.read_bytes() == content, "refused means untouched"
    assert serve("--device", data, *SIZES, "--format").end(signal.SIGTERM)[0] == 0
    assert serve("--device", data, *SIZES).end(signal.SIGTERM)[0] == 0, "now it is ours"


def test_two_daemons_on_one_device(run: Run, serve: Serve, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = serve("--device", data, *SIZES)
    refuses(
        run("--device", data, *SIZES, "--listen", "127.0.0.1:0"), 1, str(data), "another process"
    )
    assert first.process.poll() is None
    assert first.end(signal.SIGTERM)[0] == 0
    assert serve("--device", data, *SIZES).end(signal.SIGTERM)[0] == 0


# ---- a raw block device


def output_of(*command: object) -> str:
    """What a tool of the system's says; skips, with its words, where it may not do so here."""
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        pytest.skip(f"{' '.join(map(str, command))}: {ran.stderr.strip()}")
    return ran.stdout.strip()


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Path]:
    """A block device of 64 MiB: a loop device over a file."""
    if shutil.which("losetup") is None:
        pytest.skip("there is no losetup here (Debian: mount)")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    device = output_of("losetup", "--find", "--show", disk)
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


RAW = ("--segment-bytes", "8MiB", "--dram", "64MiB")
SPACE = namespace_id("raw")


def code_of(request: Request) -> str:
    assert request.wait(DEADLINE_S * 1000)
    (code,) = request.codes()
    return CODES[code]


def got(node: Serving, length: int) -> bytes:
    client, target = Client([node.address]), bytearray(length)
    assert code_of(client.get(SPACE, [b"key"], [target])) == "ok"
    client.close()
    return bytes(target)


def test_a_raw_device_keeps_its_blocks(serve: Serve, raw: Path) -> None:
    block = random.Random(1).randbytes((3 << 20) + 1)
    node = serve("--device", raw, *RAW)
    client = Client([node.address])
    assert code_of(client.put(SPACE, [b"key"], [block])) == "ok"
    client.close()
    code, said = node.end(signal.SIGTERM)
    assert code == 0, said
    assert "64 MiB" in said, "without --capacity all of it is used"
    node = serve("--device", raw, *RAW)
    assert got(node, len(block)) == block
    assert node.end(signal.SIGTERM)[0] == 0


def test_two_daemons_on_one_raw_device(run: Run, serve: Serve, raw: Path) -> None:
    first = serve("--device", raw, *RAW)
    second = run("--device", raw, *RAW, "--listen", "127.0.0.1:0")
    refuses(second, 1, str(raw), "in use", "another process holds it")
    assert first.end(signal.SIGTERM)[0] == 0


def test_a_raw_device_that_is_held_otherwise(run: Run, raw: Path) -> None:
    """As RAID and LVM hold theirs."""
    holder = os.open(raw, os.O_RDWR | os.O_EXCL)
    refuses(run("--device", raw, *RAW, "--format"), 1, str(raw), "part of a RAID or LVM")
    assert os.pread(holder, 1 << 20, 0) == bytes(1 << 20), "refused means untouched"
    os.close(holder)


def test_a_raw_device_that_is_mounted(run: Run, raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    output_of("mkfs.ext2", "-q", raw)
    output_of("mount", raw, folder)
    try:
        (folder / "thesis").write_text("the only copy")
        refuses(run("--device", raw, *RAW, "--format"), 1, str(raw), "it is mounted")
        assert (folder / "thesis").read_text() == "the only copy"
    finally:
        subprocess.run(["umount", folder], check=True)
    refuses(run("--device", raw, *RAW), 1, str(raw), "--format")


def test_a_raw_device_is_not_larger_than_it_is(run: Run, raw: Path) -> None:
    more = run("--device", raw, *RAW, "--capacity", "72MiB")
    refuses(more, 1, str(raw), "has only 64 MiB", "72 MiB", "leave --capacity out")
    with raw.open("rb") as device:
        assert device.read(1 << 20) == bytes(1 << 20), "refused means untouched"


# ---- serving and stopping


def test_it_says_when_it_serves_and_what(serve: Serve, tmp_path: Path) -> None:
    node = serve("--device", tmp_path / "data", *SIZES)
    assert node.ready["pid"] == node.process.pid
    node.connect().close()
    code, said = node.end(signal.SIGTERM)
    assert code == 0
    with words_in(said) as has:
        has(str(tmp_path / "data"), "64 MiB", node.address, "0 blocks recovered", "stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    node = serve("--device", tmp_path / "data", *SIZES)
    with node.connect() as idle:
        code, said = node.end(number)
        assert code == 0, said
        received = b""
        while piece := idle.recv(4096):
            received += piece
    # The peer that had said nothing is told why: one REFUSE frame.
    assert received[:5] == b"MKV1\x05"


def test_a_port_in_use_is_refused(run: Run, serve: Serve, tmp_path: Path) -> None:
    first = serve("--device", tmp_path / "one", *SIZES)
    second = run("--device", tmp_path / "two", *SIZES, "--listen", first.address)
    refuses(second, 1, first.address)


@pytest.mark.parametrize("flags", [("--log-json",), ("--log-format", "json")])
def test_logs_as_json(serve: Serve, tmp_path: Path, flags: tuple[str, ...]) -> None:
    node = serve("--device", tmp_path / 'data "x"', *SIZES, *flags)
    with node.connect() as peer:
        peer.sendall(bytes(64))  # no frame
        while peer.recv(4096):
            pass
    code, said = node.end(signal.SIGTERM)
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert all(list(line) == ["time", "level", "what", "node", "fields"] for line in lines)
    assert any('data "x"' in line["what"] for line in lines)
    (serves,) = (line for line in lines if line["what"].startswith("serves on"))
    assert serves["node"] == node.address
    assert serves["fields"]["listen"] == node.address
    assert serves["fields"]["blocks"] == "0"
    (gone,) = (line for line in lines if line["fields"].get("code") == "protocol")
    assert gone["level"] == "warning"
    assert gone["fields"]["peer"] in gone["what"]


def test_hands_serve_and_stop_too(serve: Serve, tmp_path: Path) -> None:
    node = serve("--device", tmp_path / "data", *SIZES, "--hands", "3")
    node.connect().close()
    assert node.end(signal.SIGTERM)[0] == 0
