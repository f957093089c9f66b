"""Prefill and decode in two vLLMs on the CPU: NixlConnector hands the blocks over, and MemKVTier
beside it, in stock MultiConnector, keeps the prefixes of both.

The requests carry what a router such as Dynamo's would put into them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl.cli._config_dynamo import disaggregated
from tests.engines import venvs
from tests.engines.conftest import Pool, prompt
from tests.engines.engine import BLOCK, Engine, engine_arguments

VENV = "vllm-0.32.0-nixl"
TOKENS = 700
WHOLE = TOKENS // BLOCK * BLOCK
HITS = "vllm:external_prefix_cache_hits"
TO_BE_DECODED_ELSEWHERE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def transfer_config(model: Path, nodes: list[str], role: str) -> dict[str, Any]:
    """What `memkv config dynamo --disaggregated` says, with the test's copy for the CPU."""
    transfer = disaggregated(engine_arguments(model, nodes, {}, "")["kv_transfer_config"])
    nixl = transfer["kv_connector_extra_config"]["connectors"][0]
    nixl |= {"kv_role": role, "kv_buffer_device": "cpu"}
    return transfer


def engine(model: Path, pool: Pool, folder: Path, role: str) -> Engine:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Engine(
        model,
        pool.nodes,
        folder,
        venv=VENV,
        environment={
            "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(port),
            "UCX_TLS": "tcp,sm,self",
            # On a CPU NixlConnector ties its process to the last core; two threads there would
            # wait for each other all the time.
            "VLLM_CPU_OMP_THREADS_BIND": "0",
        },
        kv_transfer_config=transfer_config(model, pool.nodes, role),
    )


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if not venvs.is_there(VENV):
        pytest.skip(f"{VENV} is not installed: ./dev engines {VENV}")


@pytest.fixture(scope="module")
def decode(pool: Pool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(model, pool, tmp_path_factory.mktemp("decode"), "kv_consumer") as made:
        yield made


def prefilled(prefill: Engine, question: list[int]) -> dict[str, Any]:
    """The prefill worker's answer: one token, and where its blocks are."""
    answer = prefill.ask(
        do="generate", prompt=question, max_tokens=1, transfer=dict(TO_BE_DECODED_ELSEWHERE)
    )
    assert answer["transfer"]["do_remote_prefill"]
    return answer


def decoded(decode: Engine, question: list[int], prefill_said: dict[str, Any]) -> dict[str, Any]:
    """The decode worker's answer, and `hits`: the prompt's tokens that it did not compute."""
    before = decode.metrics()
    answer = decode.ask(do="generate", prompt=question, transfer=prefill_said["transfer"])
    return {**answer, "hits": answer["metrics"].get(HITS, 0.0) - before.get(HITS, 0.0)}


def test_prefill_here_decode_there_and_prefill_again_after_a_restart(
    pool: Pool, model: Path, decode: Engine, tmp_path: Path
) -> None:
    question = prompt(71, TOKENS)
    alone = decode.generate(question, salt="aggregated")  # a salt of its own: nothing is found
    assert (alone.cached, alone.from_pool) == (0, 0)

    with engine(model, pool, tmp_path / "prefill", "kv_producer") as prefill:
        cold = prefilled(prefill, question)
        assert cold["cached"] == 0
        first = decoded(decode, question, cold)
        prefill.generate(prompt(72, 300))  # vLLM copies a prompt's last blocks in its next step
    assert first["hits"] > WHOLE  # the unfinished block, too: only NixlConnector has that one
    assert tuple(first["tokens"]) == alone.tokens

    decode.forget()
    with engine(model, pool, tmp_path / "again", "kv_producer") as prefill:
        warm = prefilled(prefill, question)
        assert warm["cached"] == WHOLE
        assert warm["metrics"][HITS] == WHOLE  # out of the pool: this process is new
        again = decoded(decode, question, warm)
    assert again["hits"] > WHOLE
    assert tuple(again["tokens"]) == alone.tokens
