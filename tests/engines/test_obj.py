"""vLLM's own tier `obj`, unchanged, on our nodes: NIXL finds the plugin by the name OBJ in the
folder that `memkv plugins` makes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import venvs
from tests.engines.conftest import Pool, prompt
from tests.engines.engine import BLOCK, ROOT, Engine, engine_arguments
from tests.engines.test_vllm_parts import cases_in, run

VENV = "vllm-0.32.0-nixl"  # vLLM's tier looks for NIXL by the name nixl
TOKENS = 1500
WHOLE = TOKENS // BLOCK * BLOCK
STORE = {
    "bucket": "kv",
    "endpoint_override": "http://nowhere.invalid:9000",
    "access_key": "who",
    "secret_key": "word",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What NIXL_PLUGIN_DIR is to be."""
    if not venvs.is_there(VENV):
        pytest.skip(f"{VENV} is not installed: ./dev engines {VENV}")
    made = tmp_path_factory.mktemp("plugins")
    command = [str(venvs.python_of(VENV)), "-m", "memkv_nixl.cli", "plugins", "--dir", str(made)]
    said = subprocess.run(
        [*command, "--json"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return Path(json.loads(said.stdout)["environment"]["NIXL_PLUGIN_DIR"])


@pytest.fixture(scope="module")
def outcomes(
    model: Path, pool: Pool, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What became of each case of obj_cases.py."""
    said = {
        "NIXL_PLUGIN_DIR": str(folder),
        "NIXL_TELEMETRY_ENABLE": "y",
        "MEMKV_NODES": ",".join(pool.cluster.addresses),
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in said.items():
            patched.setitem(os.environ, name, value)
        where = tmp_path_factory.mktemp("cases")
        return run(venvs.python_of(VENV), where, "tests.engines.obj_cases", str(model))


@pytest.mark.parametrize("case", cases_in("obj_cases"))
def test_case(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "ok"


def engine(
    model: Path, pool: Pool, plugins: Path, where: Path, space: str | None = "tiny-rev0-tp1"
) -> Engine:
    transfer: dict[str, Any] = engine_arguments(model, pool.nodes, {}, "")["kv_transfer_config"]
    tier = {"type": "obj", "store_config": STORE}
    transfer["kv_connector_extra_config"]["secondary_tiers"] = [tier]
    environment = {
        "NIXL_PLUGIN_DIR": str(plugins),
        "MEMKV_NODES": ",".join(pool.nodes),
        "NIXL_TELEMETRY_ENABLE": "y",  # vLLM's tier reads it of each transfer
    }
    if space is not None:
        environment["MEMKV_NAMESPACE"] = space
    return Engine(
        model, pool.nodes, where, venv=VENV, environment=environment, kv_transfer_config=transfer
    )


@pytest.fixture(scope="module")
def cold(
    pool: Pool, model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with engine(model, pool, folder, tmp_path_factory.mktemp("cold")) as made:
        yield made


def test_cold_then_a_new_process_then_warm(
    pool: Pool, model: Path, folder: Path, cold: Engine, tmp_path: Path
) -> None:
    question = prompt(70, TOKENS)
    first = cold.generate(question)
    assert (first.cached, first.from_pool) == (0, 0)
    cold.generate(prompt(71, 300))  # vLLM copies a prompt's last blocks in its next step
    with engine(model, pool, folder, tmp_path) as second:
        warm = second.generate(question)
    assert (warm.cached, warm.from_pool) == (WHOLE, WHOLE)
    assert warm.tokens == first.tokens


def test_another_namespace_misses(
    pool: Pool, model: Path, folder: Path, cold: Engine, tmp_path: Path
) -> None:
    """What keeps other weights under one path apart, which vLLM's own keys do not."""
    question = prompt(72, TOKENS)
    first = cold.generate(question)
    cold.generate(prompt(73, 300))
    with engine(model, pool, folder, tmp_path, "tiny-rev1-tp1") as other:
        again = other.generate(question)
    assert again.from_pool == 0
    assert again.tokens == first.tokens


def test_without_a_namespace_vllm_does_not_start(
    pool: Pool, model: Path, folder: Path, tmp_path: Path
) -> None:
    refused = engine(model, pool, folder, tmp_path, None)
    with pytest.raises(AssertionError, match="the engine ended"), refused:
        raise RuntimeError("it started")
    assert "Set MEMKV_NAMESPACE" in refused.log
