"""Engine: vLLM in processes of its own, driven by the tests (vllm_engine.py is its other half)."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from memkv_nixl.cli._config_vllm import vllm_transfer_config
from tests.engines import venvs

ROOT = venvs.ROOT
BLOCK = 128  # tokens; vLLM's on the CPU
# These tests ask what is right, on a machine that may be busy; tests/kvbm asks how long it takes.
PATIENT = {"lookup_timeout_ms": 5000, "fetch_deadline_ms": 60_000, "compute_tokens_per_s": 1}
_TAIL = 6000


@dataclass(frozen=True)
class Answer:
    """What an engine generated."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int  # prompt tokens that were not computed
    from_pool: int  # of these, by vLLM's own count, tokens that came through the connector
    seconds: float


class Engine:
    """A vLLM with the tier on `nodes`; use it in a `with`."""

    def __init__(
        self,
        model: Path,
        nodes: list[str],
        folder: Path,
        *,
        tier: dict[str, Any] | None = None,
        venv: str = venvs.NEWEST,
        environment: dict[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "engine.log"
        events = f"ipc://{folder}/events"
        self._arguments = {**engine_arguments(model, nodes, tier or {}, events), **arguments}
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            **(environment or {}),
        }
        self._python = venvs.python_of(venv)
        self._process: subprocess.Popen[str] | None = None
        self._metrics: dict[str, float] = {}

    def __enter__(self) -> Engine:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(self._python), "-m", "tests.engines.vllm_engine", json.dumps(self._arguments)],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        assert process is not None
        if kind is None and process.poll() is None:
            self.ask(do="stop")
        elif process.poll() is None:
            process.kill()
        process.communicate()

    @property
    def log(self) -> str:
        """All that the engine wrote."""
        return self._log.read_text(errors="replace")

    def generate(
        self, prompt: list[int], *, max_tokens: int = 8, salt: str | None = None
    ) -> Answer:
        before = self._metrics or self.metrics()
        said = self.ask(do="generate", prompt=prompt, max_tokens=max_tokens, salt=salt)
        self._metrics = said["metrics"]
        grown = self.grown(before, "vllm:external_prefix_cache_hits")
        return Answer(
            tuple(said["tokens"]),
            tuple(said["logprobs"]),
            said["cached"],
            int(grown),
            said["seconds"],
        )

    def generate_later(self, prompt: list[int]) -> tuple[threading.Thread, list[Answer]]:
        """`generate` on a thread; the list has the answer when the thread has ended."""
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(self.generate(prompt)))
        thread.start()
        return thread, answers

    def metrics(self) -> dict[str, float]:
        """vLLM's own metrics, by name."""
        self._metrics = self.ask(do="metrics")["metrics"]
        return self._metrics

    def grown(self, before: dict[str, float], name: str) -> float:
        return self._metrics.get(name, 0.0) - before.get(name, 0.0)

    def events(self) -> list[dict[str, Any]]:
        """What it published since this was last asked for."""
        said: list[dict[str, Any]] = self.ask(do="events")["events"]
        return said

    def forget(self) -> None:
        """Empties the engine's own caches, on the "GPU" and in host memory."""
        self.ask(do="forget")

    def ask(self, **order: Any) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate(timeout=60)
            raise AssertionError(f"the engine ended; its log ends with:\n{self.log[-_TAIL:]}")
        said: dict[str, Any] = json.loads(line)
        return said


def engine_arguments(
    model: Path, nodes: list[str], tier: dict[str, Any], events: str
) -> dict[str, Any]:
    """What `memkv config vllm` says, with the test's own copy between cache and region."""
    said = {"nodes": ",".join(nodes), **PATIENT, **tier}
    transfer = vllm_transfer_config(said, 512 << 20, events=True)
    copy = {"spec_name": "CpuCopySpec", "spec_module_path": "tests.engines.cpu_copy"}
    transfer["kv_connector_extra_config"].update(copy)
    return {
        "model": str(model),
        "skip_tokenizer_init": True,
        "dtype": "float32",  # in bfloat16 near-ties flip tokens
        "enforce_eager": True,
        "block_size": BLOCK,
        "max_model_len": 16384,
        "max_num_batched_tokens": 4096,
        "disable_log_stats": False,
        "kv_transfer_config": transfer,
        "kv_events_config": {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": events,
            "topic": "",
        },
    }
