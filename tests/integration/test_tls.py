"""TLS between clients and a real memkvd: what a user sets, and what somebody on the way sees."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memkv_nixl._errors import CODES, UnreachableError
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from tests.control.peer import Peer
from tests.integration.authority import Authority
from tests.integration.nodes import DEADLINE_S, Node, memkv

SPACE = namespace_id("tls")
WAIT_MS = 20_000
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@contextmanager
def serving(folder: Path, *flags: str, address: str = f"{HOST}:0") -> Iterator[Node]:
    node = Node(folder / "node.dat", flags=flags, address=address).start()
    try:
        yield node
    finally:
        node.stop()


def shown(certificate: Path, key: Path) -> tuple[str, ...]:
    return ("--data-tls-cert", str(certificate), "--data-tls-key", str(key))


@pytest.fixture(scope="module")
def node(folder: Path, authority: Authority) -> Iterator[Node]:
    """A node with a certificate."""
    with serving(folder, *shown(*authority.issue("node", HOST))) as node:
        yield node


def put_and_get(client: Client, block: bytes) -> str:
    """The word of the put, or of the get where that went well."""
    key = b"key-" + block[:8]
    put = client.put(SPACE, [key], [block])
    assert put.wait(WAIT_MS)
    word = CODES[put.codes()[0]]
    if word not in ("ok", "exists"):
        return word
    target = bytearray(len(block))
    got = client.get(SPACE, [key], [target])
    assert got.wait(WAIT_MS)
    assert CODES[got.codes()[0]] != "ok" or target == block
    return CODES[got.codes()[0]]


def why(client: Client) -> str:
    """Asks, and gives the sentence of the refusal."""
    with pytest.raises(UnreachableError):
        client.stat(0, WAIT_MS)
    return str(client.health()[0]["last_error"])


# ---- what is set


def test_a_ca_on_the_command_line_in_the_environment_and_in_the_file(
    node: Node, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"block" * 100_000)
    ca = str(authority.file)
    put = memkv("put", "--nodes", node.address, "--tls-ca", ca, "k", str(tmp_path / "in"))
    assert put.returncode == 0, put.stderr
    got = memkv("get", "--nodes", node.address, "k", "-", MEMKV_TLS_CA=ca)
    assert (got.returncode, got.stdout) == (0, b"block" * 100_000)
    settings = {"nodes": [node.address], "tls_ca": ca}
    (tmp_path / "settings.yaml").write_text(json.dumps(settings))
    match = memkv("match", "--config", str(tmp_path / "settings.yaml"), "k")
    assert match.returncode == 0, match.stderr


def test_doctor_says_what_is_wrong_and_status_answers(
    node: Node, authority: Authority, folder: Path
) -> None:
    other = Authority(folder, "other")
    for flags, words in (
        ((), "speaks TLS only"),
        (("--tls-ca", str(other.file)), "a CA that is not trusted"),
        (("--tls-ca", str(folder / "none")), "is not there"),
        (
            ("--tls-ca", str(authority.file), "--tls-server-name", "elsewhere"),
            "does not name the host",
        ),
    ):
        doctor = memkv("doctor", "--json", "--nodes", node.address, *flags)
        checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
        check = checks[f"node {node.address}"]
        assert check["state"] == "error"
        assert words in check["text"], check
    status = memkv("status", "--nodes", node.address, "--tls-ca", str(authority.file))
    assert status.returncode == 0, status.stderr


def test_a_certificate_that_is_past_its_time_is_a_miss(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(tmp_path, *shown(*authority.issue("old", HOST, past=True))) as node:
        client = Client([node.address], tls_ca=str(authority.file))
        assert put_and_get(client, b"x" * 100) == "unreachable"
        assert "past its time" in why(client)
        client.close()


def test_a_node_may_ask_its_clients_for_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    asks = ("--data-tls-client-ca", str(authority.file))
    certificate, key = authority.issue("client")
    with serving(tmp_path, *shown(*authority.issue("node", HOST)), *asks) as node:
        stranger = Client([node.address], tls_ca=str(authority.file))
        assert "wants a certificate of its clients" in why(stranger)
        stranger.close()
        client = Client(
            [node.address],
            tls_ca=str(authority.file),
            tls_cert=str(certificate),
            tls_key=str(key),
        )
        assert put_and_get(client, b"y" * 100_000) == "ok"
        client.close()


def test_certificates_are_replaced_while_it_serves(tmp_path: Path) -> None:
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    with serving(tmp_path, *shown(*before.issue("node", HOST))) as node:
        old = Client([node.address], tls_ca=str(before.file))
        assert put_and_get(old, b"1" * 1000) == "ok"
        after.issue("node", HOST)
        new = Client([node.address], tls_ca=str(after.file))
        assert put_and_get(new, b"2" * 1000) == "ok"
        assert put_and_get(old, b"3" * 1000) == "ok"  # it is connected already
        (tmp_path / "node.crt").write_text("no certificate\n")
        newest = Client([node.address], tls_ca=str(after.file))
        assert put_and_get(newest, b"4" * 1000) == "ok"
        for client in (old, new, newest):
            client.close()


def test_beyond_loopback_it_takes_a_certificate_or_insecure(
    tmp_path: Path, authority: Authority
) -> None:
    everywhere, known = "0.0.0.0:0", ("--advertise", f"{HOST}:9900")
    with pytest.raises(AssertionError, match=r"--tls-cert.*--insecure"):
        Node(tmp_path / "node.dat", flags=known, address=everywhere).start()
    certified = shown(*authority.issue("wide", HOST))
    with serving(tmp_path, *certified, *known, address=everywhere) as node:
        reached = f"{HOST}:{node.address.rpartition(':')[2]}"
        client = Client([reached], tls_ca=str(authority.file))
        assert put_and_get(client, b"z" * 1000) == "ok"
        client.close()


def test_metrics_are_read_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certified = shown(*authority.issue("node", HOST))
    flags = (*certified, "--data-tls-ca", str(authority.file), "--metrics", f"{HOST}:0")
    with serving(tmp_path, *flags) as node:
        page = urllib.request.urlopen(f"http://{node.metrics}/metrics", timeout=DEADLINE_S)
        assert "memkv_node_up 1" in page.read().decode()


# ---- what is seen


def test_another_tls_speaks_with_it_beside_ours(node: Node, authority: Authority) -> None:
    """Python's own OpenSSL, in one process with the client's."""
    context = ssl.create_default_context(cafile=str(authority.file))
    client = Client([node.address], tls_ca=str(authority.file))
    with Peer(node.address, tls=context) as peer:
        peer.auth()
        assert peer.put(SPACE, b"by peer", b"p" * 60_000) == "ok"
        assert put_and_get(client, b"by client" * 10_000) == "ok"
        target = bytearray(60_000)
        got = client.get(SPACE, [b"by peer"], [target])
        assert got.wait(WAIT_MS)
        assert target == b"p" * 60_000
    client.close()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="protocol version"):
        Peer(node.address, tls=context)


@pytest.mark.parametrize("name", ["_native", "memkvd", "libplugin_MEMKV"])
def test_no_symbol_of_openssl_leaves_a_binary_or_comes_from_elsewhere(
    repo: Path, name: str
) -> None:
    places = [*repo.glob("memkv_nixl/_native*.so"), repo / "memkv_nixl/_bin/memkvd"]
    places.append(repo / "build/release/libplugin_MEMKV.so")
    (path,) = [place for place in places if place.name.startswith(name)]
    if not path.exists():
        pytest.skip(f"{path} is not built")
    listed = subprocess.run(["nm", "-D", str(path)], capture_output=True, text=True, check=True)
    foreign = re.compile(r"\b(SSL|TLS|EVP|BIO|X509|ERR|CRYPTO|OPENSSL)_\w+")
    assert foreign.findall(listed.stdout) == []


class Between:
    """Somebody between client and node, who passes on what comes and keeps it."""

    def __init__(self, address: str) -> None:
        self._target = address
        self._listening = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listening.getsockname()[1]}"
        self.seen = bytearray()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            host, port = self._target.rsplit(":", 1)
            far = socket.create_connection((host, int(port)))
            self._sockets += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                self.seen += piece
                target.sendall(piece)
        except OSError:
            return

    def close(self) -> None:
        for one in (self._listening, *self._sockets):
            one.close()


def test_what_goes_over_the_network_shows_nothing_of_a_block(
    node: Node, authority: Authority, tmp_path: Path
) -> None:
    block = b"what nobody else should read; " * 10_000
    parts = (block[:30], b"key-what nob", b"MKV1")
    with serving(tmp_path) as plain:
        for address, ca, sees in (
            (plain.address, "", True),
            (node.address, str(authority.file), False),
        ):
            between = Between(address)
            client = Client([between.address], tls_ca=ca)
            assert put_and_get(client, block) == "ok"
            client.close()
            assert len(between.seen) > 2 * len(block)
            assert [part in between.seen for part in parts] == [sees] * len(parts)
            between.close()


def test_who_shakes_hands_for_ever_is_cut_off(node: Node) -> None:
    host, port = node.address.rsplit(":", 1)
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=0.1) as stranger:
        stranger.sendall(bytes([0x16, 3, 1, 2, 0]))
        ended = False
        while not ended:
            assert time.monotonic() - began < DEADLINE_S
            try:
                stranger.sendall(b"\x01")  # a handshake of 512 bytes, one every tenth of a second
                ended = not stranger.recv(100)
            except TimeoutError:
                continue
            except OSError:
                ended = True
    assert 1.5 < time.monotonic() - began < 10
