"""Kubernetes' own client reads the manifests of deploy/: `dynamo_manifests.py FILE...`.

What its model of a pod, a ConfigMap or a budget does not know gets lost on the way through it. It
prints what does, as a line of JSON. Run with an environment that has the client (Dynamo's has).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from kubernetes import client

MODELS = {"ConfigMap": "V1ConfigMap", "PodDisruptionBudget": "V1PodDisruptionBudget"}


def parts_of(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What Kubernetes itself knows of a document, each with the name of its model."""
    if document["kind"] in MODELS:
        yield MODELS[document["kind"]], document
    else:
        for component in document["spec"]["components"]:
            yield "V1PodTemplateSpec", component["podTemplate"]


def lost(files: list[str]) -> list[str]:
    api = client.ApiClient()
    found = []
    for file in files:
        for document in yaml.safe_load_all(Path(file).read_text("utf-8")):
            for model, part in parts_of(document):
                read = api.deserialize(SimpleNamespace(data=json.dumps(part)), model)
                if api.sanitize_for_serialization(read) != part:
                    found.append(f"{file}: {model} reads it as {read}")
    return found


if __name__ == "__main__":
    print(json.dumps(lost(sys.argv[1:])))
