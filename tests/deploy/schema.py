"""What may stand in the manifests of deploy/: a schema of our own, of the fields that they use.

Field names, types and limits are those of Kubernetes and of Dynamo's DynamoGraphDeployment
(nvidia.com/v1beta1). Whatever the manifests do not use is not in it: a field that is misspelt or
stands in the wrong place is found as one that is not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any, str], Iterator[str]]


def text(pattern: str = r"[\s\S]+") -> Check:
    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield f"{where}: {value!r} is not text; quote it"
        elif not re.fullmatch(pattern, value):
            yield f"{where}: {value!r} is not of the form {pattern}"

    return check


def number(least: int, most: int = 2**31 - 1) -> Check:
    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            yield f"{where}: {value!r} is not a number from {least} to {most}"

    return check


def one_of(*allowed: Any) -> Check:
    def check(value: Any, where: str) -> Iterator[str]:
        if value not in allowed:
            yield f"{where}: {value!r} is none of {', '.join(map(str, allowed))}"

    return check


def items(of: Check, *, key: str = "") -> Check:
    """A list; no two items have the same `key`."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, list) or not value:
            yield f"{where}: is not a list of something"
            return
        for i, item in enumerate(value):
            yield from of(item, f"{where}[{i}]")
        names = [item.get(key) for item in value if isinstance(item, dict)] if key else []
        if len(set(names)) != len(names):
            yield f"{where}: two items have the same {key}"

    return check


def table(of: Check) -> Check:
    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict) or not value:
            yield f"{where}: is not a table of names and values"
            return
        for name, item in value.items():
            yield from of(item, f"{where}.{name}")

    return check


@dataclass(frozen=True)
class Fields:
    """An object with these fields; those that end with `!` must be there."""

    fields: dict[str, Check]

    def __call__(self, value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: is not an object"
            return
        known = {name.rstrip("!"): check for name, check in self.fields.items()}
        for name, item in value.items():
            if name in known:
                yield from known[name](item, f"{where}.{name}")
            else:
                yield f"{where}.{name}: there is no such field here"
        for name in self.fields:
            if name.endswith("!") and name[:-1] not in value:
                yield f"{where}: {name[:-1]} is missing"


NAME = text(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
COMPONENT = text(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")
QUANTITY = text(r"[0-9]+([KMGT]i?|m)?")
LABELS = table(text(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"))
METADATA = Fields({"name!": NAME, "labels": LABELS})

FIELD_REF = Fields({"fieldRef!": Fields({"fieldPath!": one_of("status.podIP")})})
VARIABLE = Fields({"name!": text(r"[A-Z][A-Z0-9_]*"), "value": text(), "valueFrom": FIELD_REF})
MOUNT = Fields({"name!": NAME, "mountPath!": text(r"/[\w/.-]+"), "readOnly": one_of(True, False)})
AMOUNTS = Fields({"memory": QUANTITY, "ephemeral-storage": QUANTITY, "nvidia.com/gpu": QUANTITY})
CONTAINER = Fields(
    {
        "name!": NAME,
        "image!": text(r"[\w./-]+:[\w.-]+"),
        "command": items(text()),
        "args": items(text()),
        "env": items(VARIABLE, key="name"),
        "resources": Fields({"requests": AMOUNTS, "limits": AMOUNTS}),
        "volumeMounts": items(MOUNT, key="mountPath"),
    }
)
VOLUME = Fields(
    {
        "name!": NAME,
        "emptyDir": Fields({"sizeLimit": QUANTITY}),
        "configMap": Fields({"name!": NAME}),
        "secret": Fields({"secretName!": NAME}),
    }
)
SELECTOR = Fields({"matchLabels!": LABELS})
SPREAD = Fields(
    {
        "maxSkew!": number(1),
        "topologyKey!": text(),
        "whenUnsatisfiable!": one_of("ScheduleAnyway", "DoNotSchedule"),
        "labelSelector": SELECTOR,
    }
)
POD = Fields(
    {
        "containers!": items(CONTAINER, key="name"),
        "initContainers": items(CONTAINER, key="name"),
        "volumes": items(VOLUME, key="name"),
        "terminationGracePeriodSeconds": number(0),
        "topologySpreadConstraints": items(SPREAD),
    }
)
GRAPH_COMPONENT = Fields(
    {
        "name!": COMPONENT,
        "type!": one_of("frontend", "worker", "prefill", "decode", "planner", "epp"),
        "replicas!": number(0),
        "sharedMemorySize": QUANTITY,
        "podTemplate!": Fields({"metadata": METADATA, "spec!": POD}),
    }
)


def kind(api: str, name: str, **rest: Check) -> Check:
    same = {"apiVersion!": one_of(api), "kind!": one_of(name), "metadata!": METADATA}
    return Fields({**same, **{f"{field}!": check for field, check in rest.items()}})


KINDS = {
    "ConfigMap": kind("v1", "ConfigMap", data=table(text())),
    "PodDisruptionBudget": kind(
        "policy/v1",
        "PodDisruptionBudget",
        spec=Fields({"maxUnavailable!": number(1), "selector!": SELECTOR}),
    ),
    "DynamoGraphDeployment": kind(
        "nvidia.com/v1beta1",
        "DynamoGraphDeployment",
        spec=Fields(
            {
                "backendFramework!": one_of("sglang", "vllm", "trtllm"),
                "components!": items(GRAPH_COMPONENT, key="name"),
            }
        ),
    ),
}


def findings(document: Any) -> list[str]:
    """What is wrong with a document, by itself."""
    name = document.get("kind") if isinstance(document, dict) else None
    if name not in KINDS:
        return [f"{name!r} is none of the kinds that are known here: {', '.join(KINDS)}"]
    return list(KINDS[name](document, name))
