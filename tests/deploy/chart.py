"""The chart of deploy/helm, rendered by Helm's own engine and held against Kubernetes' own schemas.

Helm comes as its Go library in a wheel (helm-python-sdk), the schemas in kubernetes-validate; both
are pinned in requirements/dev.txt. Nothing here needs a cluster or a network.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

from memkv_nixl._config import Settings, load_settings
from memkv_nixl.cli import _parser

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
CHART = DEPLOY / "helm/memkv"
VALUES = {path.stem: yaml.safe_load(path.read_text()) for path in (CHART / "ci").glob("*.yaml")}
OLDEST, NEWEST = "1.27", "1.37"

Object = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """What `helm install NAME -n NAMESPACE` would make."""

    objects: list[Object]
    notes: str

    def of(self, kind: str) -> dict[str, Object]:
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    def pod(self, name: str) -> Object:
        """The pods of a StatefulSet: its template."""
        template: Object = self.of("StatefulSet")[name]["spec"]["template"]
        return template

    def main(self, name: str) -> Object:
        (container,) = self.pod(name)["spec"]["containers"]
        found: Object = container
        return found


def helm() -> Any:
    """Helm's engine, where there is one for this machine."""
    return pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this CPU")


def render(values: Object, *, name: str = "memkv", namespace: str = "pool") -> Release:
    """Refuses what the values' schema refuses. What comes back is shared: copy it to change it."""
    return _rendered(json.dumps(values, sort_keys=True), name, namespace)


@functools.cache
def _rendered(values: str, name: str, namespace: str) -> Release:
    chosen = json.loads(values)
    with helm().Chart.load(CHART) as chart:
        chart.validate_schema(chosen)
        files = chart.render(chosen, name=name, namespace=namespace)
    notes = files.pop("memkv/templates/NOTES.txt")
    loaded = [one for text in files.values() for one in yaml.load_all(text, Loader=OneOfEach)]
    return Release([one for one in loaded if one], notes)


class OneOfEach(yaml.SafeLoader):
    """Takes no mapping that has a key twice, as Kubernetes does not."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"a key stands twice:\n{node.start_mark}"
        return super().construct_mapping(node, deep)


def findings(document: Object, version: str) -> list[str]:
    """What is wrong with an object for this Kubernetes; fields that it does not know are."""
    group, _, api = document["apiVersion"].rpartition("/")
    short = "-".join(filter(None, [document["kind"].lower(), group.partition(".")[0], api]))
    return [
        f"{document['kind']} {document['metadata']['name']}: {error.json_path}: {error.message}"
        for error in _validator(short, version).iter_errors(document)
    ]


@functools.cache
def _validator(schema: str, version: str) -> jsonschema.Draft202012Validator:
    (full,) = {one for one in all_versions() if one.startswith(f"{version}.")}
    folder = f"kubernetes-json-schema/v{full}-local-strict"
    registry = Resource.from_contents(_definitions(folder, version)) @ Registry()
    return jsonschema.Draft202012Validator(
        schema_contents(f"{folder}/{schema}.json", version), registry=registry
    )


@functools.cache
def _definitions(folder: str, version: str) -> Any:
    return schema_contents(f"{folder}/_definitions.json", version)


def merged(values: Object) -> Object:
    """The values with the chart's own below them."""
    with helm().Chart.load(CHART) as chart:
        both: Object = chart.merge_values(values)
    return both


def default_values() -> Object:
    values: Object = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def values_schema() -> Object:
    schema: Object = json.loads((CHART / "values.schema.json").read_text())
    return schema


def arguments(container: Object, *before: str) -> list[str]:
    """As kubelet starts it, on the first pod."""
    pod = "memkv-0" if container["name"] == "node" else "memkv-control-0"
    named = {"POD_NAME": pod, "NODE_NAME": "machine-7"}
    words = [*before, *container["args"]]
    for name, value in named.items():
        words = [word.replace(f"$({name})", value) for word in words]
    assert not [word for word in words if "$(" in word]
    return words


def settings_of(words: list[str]) -> Settings:
    """What `memkv` makes of a command line; it ends the test where it refuses it."""
    given = vars(_parser().parse_args(words))
    section = words[0]
    known = load_settings({}, environment={})
    names = [name for name in vars(getattr(known, section)) if name in given]
    return load_settings({section: {name: given[name] for name in names}}, environment={})
