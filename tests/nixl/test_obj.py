"""The plugin by the name OBJ, from a folder that `memkv plugins` made, in unmodified NIXL."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.nixl.conftest import Run, Worker

pytestmark = pytest.mark.timeout(900)

Parameters = dict[str, str]
SHAPE: dict[str, Any] = {"count": 12, "length": 70_000}


def plugins_of(python: Path) -> dict[str, str]:
    """NIXL's own plugins and a digest of each."""
    (folder,) = python.parent.parent.glob("lib/python3*/site-packages/.nixl*.libs/plugins")
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("libplugin_*.so")
    }


def make_folder(python: Path, repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "memkv_nixl.cli", "plugins", *arguments],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def folder(worker: Worker, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What NIXL_PLUGIN_DIR is to be, as the command says it."""
    before = plugins_of(worker.python)
    made = tmp_path_factory.mktemp("plugins") / "made"
    said = make_folder(worker.python, repo, "--dir", str(made), "--as", "OBJ", "--json")
    assert said.returncode == 0, said.stderr
    assert plugins_of(worker.python) == before
    return str(json.loads(said.stdout)["environment"]["NIXL_PLUGIN_DIR"])


@pytest.fixture
def by_name(run: Run, folder: str) -> Run:
    """`run` with that folder."""

    def run_case(case: str, environment: dict[str, str] | None = None, **arguments: Any) -> str:
        return run(
            case, environment={"NIXL_PLUGIN_DIR": folder, **(environment or {})}, **arguments
        )

    return run_case


@pytest.fixture
def of_store(parameters: Parameters) -> Parameters:
    """What vLLM's tier hands to NIXL, with what it cannot name beside it."""
    return {
        **parameters,
        "bucket": "kv",
        "endpoint_override": "http://nowhere:9000",
        "scheme": "http",
        "access_key": "who",
        "secret_key": "word",
        "num_threads": "4",
    }


def test_nixls_own_plugins_stay(by_name: Run, worker: Worker, of_store: Parameters) -> None:
    others = [name.removeprefix("libplugin_")[:-3] for name in plugins_of(worker.python)]
    assert {"POSIX", "UCX", "OBJ"} <= set(others)
    by_name("obj_listed", parameters=of_store, others=others)


def test_another_process_reads_what_one_wrote(by_name: Run, of_store: Parameters) -> None:
    by_name("obj_writer", parameters=of_store, **SHAPE)
    by_name("obj_reader", parameters=of_store, **SHAPE)
    by_name("obj_by_its_own_name", parameters=of_store, **SHAPE)


def test_another_bucket_or_namespace_misses(by_name: Run, of_store: Parameters) -> None:
    by_name("obj_writer", parameters=of_store, **SHAPE)
    by_name("obj_absent", parameters={**of_store, "bucket": "other"}, **SHAPE)
    by_name("obj_absent", parameters={**of_store, "namespace": "other"}, **SHAPE)


def test_all_of_ours_may_stand_in_the_environment(by_name: Run, of_store: Parameters) -> None:
    nodes, space = of_store.pop("nodes"), of_store.pop("namespace")
    environment = {"MEMKV_NODES": nodes, "MEMKV_NAMESPACE": space}
    by_name("obj_writer", environment=environment, parameters=of_store, **SHAPE)


@pytest.mark.parametrize("space", [None, "default"])
def test_without_a_namespace_it_is_refused(
    by_name: Run, of_store: Parameters, space: str | None
) -> None:
    del of_store["namespace"]
    given = {**of_store, **({"namespace": space} if space else {})}
    said = by_name("obj_refused", parameters=given)
    assert "OBJ cannot be created for agent" in said
    assert "Set MEMKV_NAMESPACE" in said
    assert "word" not in said.split("OBJ cannot be created", 1)[1].replace("to a word", "")


def test_a_folder_that_is_not_for_links_is_left_alone(
    worker: Worker, repo: Path, tmp_path: Path
) -> None:
    before = plugins_of(worker.python)
    (own,) = worker.python.parent.parent.glob("lib/python3*/site-packages/.nixl*.libs/plugins")
    (tmp_path / "kept").write_text("mine")
    for folder in (own, tmp_path):
        said = make_folder(worker.python, repo, "--dir", str(folder))
        assert said.returncode == 2
        assert "name a new folder" in said.stderr
    assert plugins_of(worker.python) == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
