"""The Dockerfile, what it copies, and the scripts that the images bring. No image is built here."""

from __future__ import annotations

import fnmatch
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from memkv_nixl._config import load_settings
from tests.control.certificates import certificates
from tests.deploy.chart import DEPLOY, VALUES, render
from tests.deploy.pool import SCRIPTS, environment, ran, served

ROOT = DEPLOY.parent
DOCKERFILE = SCRIPTS / "Dockerfile"
TEXT = DOCKERFILE.read_text().replace("\\\n", " ")
LABEL = "topology.kubernetes.io/zone"


def stages() -> dict[str, str]:
    """The text of each stage, by its name."""
    parts = re.split(r"^FROM \S+ AS (\w+)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def linted(path: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint has no wheel for this CPU")
    return subprocess.run([hadolint, path], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    found = linted(DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text(TEXT.replace("WORKDIR /source", "WORKDIR source"))
    assert "DL3000" in linted(spoilt).stdout


# ---- what goes to the builder


def ignored(path: str) -> bool:
    """As .dockerignore says: the last line that fits a path or a folder above it decides."""
    result = False
    parts = path.split("/")
    above = ["/".join(parts[:i]) for i in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        kept, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        any_depth = pattern.removeprefix("**/")
        for one in above:
            whole = fnmatch.fnmatchcase(one, pattern) and pattern.count("/") == one.count("/")
            last = any_depth != pattern and fnmatch.fnmatchcase(one.rpartition("/")[2], any_depth)
            if whole or last:
                result = not kept
    return result


def copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+)$", TEXT, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_what_is_copied_goes_to_the_builder() -> None:
    assert len(copied()) > 10
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_nothing_else_goes_to_the_builder() -> None:
    for path in (
        ".git/config",
        ".venv/bin/python",
        "build/release/memkvd",
        "deploy/compose.yaml",
        "memkv_nixl/_bin/memkvd",
        "memkv_nixl/_native.cpython-311-x86_64-linux-gnu.so",
        "memkv_nixl/control/__pycache__/_server.cpython-311.pyc",
        "tests/conftest.py",
    ):
        assert ignored(path), path
    assert not ignored("memkv_nixl/_native.pyi")
    assert not ignored("memkv_nixl/proto/memkv/v1/map.proto")


# ---- the images and the chart


def test_the_images_run_as_the_chart_runs_them() -> None:
    release, found = render(VALUES["first-day"]), stages()
    for target, pod in (("node", "memkv"), ("control", "memkv-control")):
        assert re.search(r"^USER 65532:65532$", found[target], re.MULTILINE)
        assert release.pod(pod)["spec"]["securityContext"]["runAsUser"] == 65532
        ports = [str(port["containerPort"]) for port in release.main(pod)["ports"]]
        assert len(ports) == 2
        assert f"EXPOSE {' '.join(ports)}\n" in found[target]
    probe = release.main("memkv")["readinessProbe"]["exec"]["command"]
    assert f"CMD {json.dumps(probe)}" in found["node"]


def test_the_scripts_that_are_started_are_brought() -> None:
    found = stages()
    brought = {
        target: set(re.findall(r"deploy/docker/([\w-]+)", found[target]))
        for target in ("node", "control")
    }
    assert brought["node"] | brought["control"] == {
        path.name for path in SCRIPTS.iterdir() if path.name != "Dockerfile"
    }
    for name in brought["node"] | brought["control"]:
        assert os.access(SCRIPTS / name, os.X_OK)
    release = render(VALUES["production"])
    words = [one["command"][0] for one in release.pod("memkv")["spec"]["initContainers"]]
    assert [word for word in words if word.startswith("memkv-")] == ["memkv-node-domain"]
    assert 'ENTRYPOINT ["memkv-node"]' in found["node"]
    assert {"memkv-node", "memkv-node-domain"} == brought["node"]
    probe = release.main("memkv-control")["livenessProbe"]["exec"]["command"]
    assert {probe[0]} == brought["control"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", SCRIPTS / "memkv-node"], check=True)


# ---- the scripts


def test_the_log_stays_a_file_where_stderr_cannot_be_opened_again(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        started = subprocess.run(
            [SCRIPTS / "memkv-node", "--help"],
            env=environment(MEMKV_NODE_AGENT_DIR=str(tmp_path / "socket")),
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
        )
    assert b"--agent-dir" in started.stdout
    assert list((tmp_path / "socket").iterdir()) == []
    ran(str(SCRIPTS / "memkv-node"), "--help", MEMKV_NODE_AGENT_DIR=str(tmp_path / "pipe"))
    assert (tmp_path / "pipe/memkvd.log").readlink() == Path("/dev/stderr")


def test_the_probe_tells_what_serves(tmp_path: Path) -> None:
    """Plain, with certificates, with a certificate for somebody else, and of nobody."""
    pem = certificates(tmp_path)
    for name, part in (("tls.crt", "tls_cert"), ("tls.key", "tls_key"), ("ca.crt", "tls_ca")):
        (tmp_path / name).write_bytes(pem[part])
    tls = [f"--{part.replace('_', '-')}={tmp_path / part}.pem" for part in pem]

    def probe(address: str, *name: str) -> int:
        return ran(
            *(sys.executable, str(SCRIPTS / "memkv-control-probe"), *name),
            PROBE_ADDRESS=address,
            PROBE_TLS_DIR=str(tmp_path),
        ).returncode

    plane = ["memkv", "control", "serve", "--listen=127.0.0.1:0", f"--state={tmp_path / 'state'}"]
    with served(*plane) as control:
        assert probe(control.address) == 0
    assert probe(control.address) == 1
    with served(*plane, *tls) as control:
        assert probe(control.address, "127.0.0.1") == 0
        assert probe(control.address, "memkv-control.pool.svc") == 1
        assert probe(control.address) == 1


@contextmanager
def fake_api_server(folder: Path, labels: dict[str, str]) -> Iterator[dict[str, str]]:
    """Stands in for Kubernetes: it knows one machine, and whoever shows the token may ask."""
    pem = certificates(folder)
    (folder / "ca.crt").write_bytes(pem["tls_ca"])
    (folder / "token").write_text("a-token\n")

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/api/v1/nodes/machine-7"
            allowed = self.headers["Authorization"] == "Bearer a-token"
            self.send_response(200 if known and allowed else 403)
            self.end_headers()
            if known and allowed:
                self.wfile.write(json.dumps({"metadata": {"labels": labels}}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls_cert.pem", folder / "tls_key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, name="fake-api-server")
    thread.start()
    try:
        yield {
            "ACCOUNT_DIR": str(folder),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(server.server_port),
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("machine", "labels", "words"),
    [
        ("machine-7", {LABEL: "zone-b"}, ""),
        ("machine-7", {}, f"kubectl label node machine-7 {LABEL}="),
        ("machine-8", {LABEL: "zone-b"}, "does not tell of the machine machine-8"),
    ],
)
def test_a_node_learns_its_failure_domain(
    machine: str, labels: dict[str, str], words: str, tmp_path: Path
) -> None:
    script, target = str(SCRIPTS / "memkv-node-domain"), tmp_path / "settings.yaml"
    with fake_api_server(tmp_path, labels) as cluster:
        done = ran(sys.executable, script, LABEL, str(target), NODE_NAME=machine, **cluster)
    assert (done.returncode == 0) is (not words)
    assert words in done.stderr
    assert target.exists() is (not words)
    if not words:
        assert load_settings({}, config=str(target), environment={}).node.failure_domain == "zone-b"
        assert yaml.safe_load(target.read_text()) == {"node": {"failure_domain": "zone-b"}}
