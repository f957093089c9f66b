"""The manifests of deploy/dynamo: parsed, held against the schema, and against `memkv config`.

Each says in its head which command printed its ConfigMap. That command is run here, and whatever it
prints (flags, environment, mounts) has to stand in the deployment, too.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from memkv_nixl import __version__
from memkv_nixl._sizes import parse_size
from memkv_nixl.cli import main
from memkv_nixl.kvbm._settings import tier_settings
from tests.deploy.schema import findings

FOLDER = Path(__file__).resolve().parent.parent.parent / "deploy/dynamo"
DYNAMO = "1.6.1"
STAND_IN = """#!/bin/sh
# In python3's place: says what it was started with.
for word in "$PYTHONPATH" "$@"; do printf '%s\\0' "$word"; done
"""


@dataclass(frozen=True)
class Manifest:
    """One file."""

    path: Path
    documents: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [document for document in self.documents if document["kind"] == kind]

    @property
    def graph(self) -> dict[str, Any]:
        (graph,) = self.of("DynamoGraphDeployment")
        return graph

    @property
    def components(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.graph["spec"]["components"]
        return listed

    @property
    def workers(self) -> list[dict[str, Any]]:
        return [one for one in self.components if one["type"] != "frontend"]

    @property
    def command(self) -> list[str]:
        """The command in the head of the file."""
        head = [line[1:].strip() for line in self.path.read_text().splitlines() if line[:1] == "#"]
        words = shlex.split(" ".join(head).partition("memkv config dynamo")[2].replace("\\ ", ""))
        assert words, f"{self.path.name} does not say which command printed its ConfigMap"
        return ["config", "dynamo", *words]


def main_of(component: dict[str, Any]) -> dict[str, Any]:
    containers: list[dict[str, Any]] = component["podTemplate"]["spec"]["containers"]
    (container,) = [one for one in containers if one["name"] == "main"]
    return container


@pytest.fixture(params=sorted(path.name for path in FOLDER.glob("*.yaml")))
def manifest(request: pytest.FixtureRequest) -> Manifest:
    path = FOLDER / request.param
    return Manifest(path, list(yaml.safe_load_all(path.read_text())))


@pytest.fixture
def config(
    manifest: Manifest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the command in the manifest's head prints."""
    for name in ("MEMKV_NODES", "MEMKV_CONFIG", "MEMKV_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert main([*manifest.command, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_there_is_one_of_each() -> None:
    names = {path.name for path in FOLDER.glob("*.yaml")}
    assert names == {"aggregated.yaml", "disaggregated.yaml", "router.yaml"}


def test_it_is_of_the_schema(manifest: Manifest) -> None:
    assert [found for document in manifest.documents for found in findings(document)] == []


def test_the_config_map_is_what_memkv_config_prints(
    manifest: Manifest, config: dict[str, Any]
) -> None:
    assert manifest.of("ConfigMap") == [config["config_map"]]


def test_the_tier_takes_its_settings(manifest: Manifest) -> None:
    (config_map,) = manifest.of("ConfigMap")
    transfer = json.loads(config_map["data"]["kv-transfer-config.json"])
    extra = transfer["kv_connector_extra_config"]
    for child in extra.get("connectors", [transfer]):
        for tier in child.get("kv_connector_extra_config", {}).get("secondary_tiers", []):
            assert (tier.pop("type"), tier.pop("module_path")) == (
                "MemKVTier",
                "memkv_nixl.kvbm.vllm",
            )
            assert len(tier_settings(tier, environment={}).nodes) == 3
            return
    pytest.fail("there is no tier in it")


def test_workers_are_started_with_what_memkv_config_prints(
    manifest: Manifest, config: dict[str, Any], tmp_path: Path
) -> None:
    for worker in manifest.workers:
        role = worker["type"] if worker["type"] in config["workers"] else "agg"
        path, *words = started(main_of(worker), config["config_map"]["data"], tmp_path)
        assert path == "/opt/memkv:before"  # ours first, and the image's own is kept
        assert words[:2] == ["-m", "dynamo.vllm"]
        said, wanted = pairs(words[2:]), pairs(config["workers"][role]["flags"])
        assert said.pop("--model")
        assert said == wanted


def pairs(words: list[str]) -> dict[str, Any]:
    """Flags and their values, JSON as what it says."""
    assert len(words) % 2 == 0
    said = dict(zip(words[::2], words[1::2], strict=True))
    return {flag: json.loads(v) if v.startswith("{") else v for flag, v in said.items()}


def started(container: dict[str, Any], files: dict[str, str], folder: Path) -> list[str]:
    """What the container's command starts as python3, and its PYTHONPATH before."""
    for name, content in files.items():
        (folder / name).write_text(content)
    stand_in = folder / "python3"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    shell, flag, *_ = container["command"]
    script, *words = container["args"]
    script = script.replace("/etc/memkv/", f"{folder}/")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": "before"}
    ran = subprocess.run(
        [shell, flag, script, *words],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return ran.stdout.split("\0")[:-1]


def test_workers_have_what_memkv_config_says_of_their_pod(
    manifest: Manifest, config: dict[str, Any]
) -> None:
    wanted = config["pod"]
    for worker in manifest.workers:
        spec, container = worker["podTemplate"]["spec"], main_of(worker)
        assert worker["sharedMemorySize"] == wanted["sharedMemorySize"]
        assert spec["terminationGracePeriodSeconds"] == wanted["terminationGracePeriodSeconds"]
        assert container["env"] == wanted["env"]
        for name, there in (("volumes", spec), ("volumeMounts", container)):
            assert [one for one in wanted[name] if one not in there[name]] == []
        memory = parse_size(container["resources"]["limits"]["memory"] + "B", "memory")
        assert memory > parse_size(worker["sharedMemorySize"] + "B", "sharedMemorySize")


def test_the_frontend_routes_as_memkv_config_says(
    manifest: Manifest, config: dict[str, Any]
) -> None:
    (frontend,) = [one for one in manifest.components if one["type"] == "frontend"]
    said = {one["name"]: one["value"] for one in main_of(frontend)["env"]}
    assert said == config["frontend"]["environment"]


def test_the_init_container_brings_this_version(manifest: Manifest) -> None:
    for worker in manifest.workers:
        (brings,) = worker["podTemplate"]["spec"]["initContainers"]
        assert f"memkv-nixl=={__version__}" in brings["args"]
        target = brings["args"][brings["args"].index("--target") + 1]
        (there,) = [one for one in brings["volumeMounts"] if one["mountPath"] == target]
        (used,) = [one for one in main_of(worker)["volumeMounts"] if one["name"] == there["name"]]
        assert used["mountPath"] == target
        assert f'"{target}$' in main_of(worker)["args"][0]


def test_every_image_is_of_the_dynamo_that_was_tested(manifest: Manifest) -> None:
    for component in manifest.components:
        spec = component["podTemplate"]["spec"]
        images = [
            one["image"] for key in ("initContainers", "containers") for one in spec.get(key, [])
        ]
        assert {image.rpartition(":")[2] for image in images} == {DYNAMO}
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for key in ("initContainers", "containers"):
            for container in spec.get(key, []):
                mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounts <= volumes


def test_every_component_has_a_disruption_budget(manifest: Manifest) -> None:
    graph = manifest.graph["metadata"]["name"]
    budgets = [one["spec"]["selector"]["matchLabels"] for one in manifest.of("PodDisruptionBudget")]
    assert budgets == [
        {
            "nvidia.com/dynamo-graph-deployment-name": graph,
            "nvidia.com/dynamo-component-type": component["type"],
        }
        for component in manifest.components
    ]


def without(*path: Any) -> Callable[[Any], None]:
    def spoil(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return spoil


def with_value(value: Any, *path: Any) -> Callable[[Any], None]:
    def spoil(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return spoil


WORKER = ("spec", "components", 1)
IN_MAIN = (*WORKER, "podTemplate", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_value("v1alpha1", "apiVersion"), "apiVersion: 'v1alpha1' is none of"),
        (with_value({}, "spec", "services"), "spec.services: there is no such field"),
        (with_value("main", *WORKER, "type"), "components[1].type: 'main' is none of"),
        (with_value("two", *WORKER, "replicas"), "replicas: 'two' is not a number"),
        (with_value(72, *WORKER, "sharedMemorySize"), "sharedMemorySize: 72 is not text"),
        (with_value([], *WORKER, "extraPodSpec"), "extraPodSpec: there is no such field"),
        (with_value("Frontend", *WORKER, "name"), "two items have the same name"),
        (without(*WORKER, "podTemplate"), "components[1]: podTemplate is missing"),
        (without(*IN_MAIN, "image"), "containers[0]: image is missing"),
        (with_value([20], *IN_MAIN, "args"), "args[0]: 20 is not text"),
        (with_value({"memory": "a lot"}, *IN_MAIN, "resources", "limits"), "limits.memory"),
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[Any], None], words: str) -> None:
    documents = yaml.safe_load_all((FOLDER / "router.yaml").read_text())
    (graph,) = [one for one in documents if one["kind"] == "DynamoGraphDeployment"]
    spoilt = copy.deepcopy(graph)
    spoil(spoilt)
    (found,) = findings(spoilt)
    assert words in found
    assert findings(graph) == []
