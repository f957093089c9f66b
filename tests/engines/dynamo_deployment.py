"""Deployment: Dynamo's frontend with its KV router, and workers, as processes.

No etcd and no NATS: they find each other through files, and talk over TCP and ZMQ. Some of it
listens on every interface and the ports are fixed, so it has to run in a network namespace of its
own (dynamo_cases.py). vLLM's workers get what `memkv config dynamo` prints, but for the copy
between "GPU" and host memory (cpu_copy.py) and patience.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from memkv_nixl.cli import main
from tests.engines.engine import BLOCK, PATIENT, ROOT

HERE = "127.0.0.1"
FRONTEND_PORT = 18800
SYSTEM_PORT = 18801  # of the first worker
EVENTS_PORT = 20080
ROOM_BLOCKS = 40  # on the "GPU", and about as many in host memory
LENGTH_MAX = 4096
START_S = 240.0
END_S = 60.0
ANSWER_S = 120.0


class Answer(NamedTuple):
    """What came back for a prompt."""

    text: str
    logprobs: tuple[tuple[str, float], ...]
    worker: int
    hit_rate: float  # of the prompt's blocks, what the router credited the worker with
    cached: int  # prompt tokens that were not computed
    from_pool: int  # of these, by vLLM's count, tokens that came through the connector
    seconds: float


class Process:
    """One of Dynamo's processes, with its children in a group of their own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as to:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=to,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_a_little(self) -> None:
        """A moment of waiting for something else, which ends when the process does."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(0.25)
            raise AssertionError(f"{self._log.stem} ended with {status}:\n{self.tail()}")

    def ask_to_end(self) -> None:
        self._process.terminate()

    def end(self) -> int:
        """Waits for its end; one that does not end in time is killed with all it started."""
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise AssertionError(f"{self._log.stem} did not end:\n{self.tail()}") from None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-5000:]


class Deployment:
    """A frontend and workers, which the two kinds below name; use it in a `with`."""

    def __init__(self, folder: Path, python: Path, model: Path, workers: int) -> None:
        folder.mkdir(parents=True)
        self._folder, self._python, self._model = folder, python, model
        self._count = workers
        self._processes: list[Process] = []

    def __enter__(self) -> Deployment:
        try:
            self._start()
            self.wait(self._serves, START_S, "the deployment")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._kill()
            return
        for process in reversed(self._processes):
            process.ask_to_end()
        for process in self._processes:
            process.end()

    def frontend_metric(self, name: str, **labels: str) -> float:
        """A metric of the frontend, summed over the labels that are not given."""
        return total(fetch(FRONTEND_PORT, "/metrics"), name, labels)

    def wait(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits for something that comes by itself; it fails when a process ends meanwhile."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                logs = "\n".join(process.tail() for process in self._processes)
                raise AssertionError(f"{what} did not come in {seconds} s:\n{logs}")
            for process in self._processes:
                process.wait_a_little()

    def _start(self) -> None:
        raise NotImplementedError

    def _serves(self) -> bool:
        """Whether the frontend has the model, and every worker said that it is there."""
        registered = (self._folder / "discovery/v1/mdc").rglob("*")
        if sum(path.is_file() for path in registered) < self._count:
            return False
        try:
            return '"tiny"' in fetch(FRONTEND_PORT, "/v1/models")
        except OSError:
            return False

    def _run(self, name: str, arguments: list[str], **environment: str) -> None:
        """Starts a module of Dynamo's Python."""
        command = [str(self._python), "-m", *arguments]
        log = self._folder / f"{name}.log"
        self._processes.append(Process(command, {**self._environment(), **environment}, log))

    def _run_frontend(self, flags: list[str], **environment: str) -> None:
        here = ["--http-host", HERE, "--http-port", str(FRONTEND_PORT)]
        self._run("frontend", ["dynamo.frontend", *here, *flags], **environment)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'tests/engines/dynamo_stand_ins'}:{ROOT}",
            "HOME": str(self._folder),
            "DYN_FILE_KV": str(self._folder / "discovery"),
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_TCP_RPC_HOST": HERE,
            "DYN_TCP_RESPONSE_STREAM_HOST": HERE,
            "DYN_HTTP_RPC_HOST": HERE,
            "DYN_SYSTEM_HOST": HERE,
            "DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS": "0",
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
        }

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


class VllmDeployment(Deployment):
    """dynamo.vllm workers with the tier, started with what `memkv config dynamo` prints."""

    def __init__(
        self, folder: Path, python: Path, model: Path, nodes: tuple[str, ...], workers: int
    ) -> None:
        super().__init__(folder, python, model, workers)
        self._nodes = nodes
        self.ids: list[int] = []

    def ask(self, prompt: str, *, worker: int | None = None, tokens: int = 8) -> Answer:
        """The answer of a worker: the one with this index, or the one that the router takes."""
        pinned = {} if worker is None else {"backend_instance_id": self.ids[worker]}
        before = [self.hits(i) for i in range(self._count)]
        began = time.monotonic()
        said = chat(prompt, tokens, pinned)
        seconds = time.monotonic() - began
        choice, extra = said["choices"][0], said["nvext"]
        took = self.ids.index(extra["worker_id"]["decode_worker_id"])
        return Answer(
            choice["message"]["content"],
            tuple((one["token"], one["logprob"]) for one in choice["logprobs"]["content"]),
            took,
            extra["timing"].get("kv_hit_rate") or 0.0,
            (said["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            int(self.hits(took) - before[took]),
            seconds,
        )

    def hits(self, worker: int) -> float:
        """Prompt tokens that came through the connector, by vLLM's own count."""
        return self.metric(worker, "vllm:external_prefix_cache_hits_total")

    def metric(self, worker: int, name: str, **labels: str) -> float:
        """A metric of a worker, summed over the labels that are not given."""
        return total(fetch(SYSTEM_PORT + worker, "/metrics"), name, labels)

    def _start(self) -> None:
        printed, cores = config(self._nodes, 0), sorted(os.sched_getaffinity(0))
        self._run_frontend(printed["frontend"]["flags"])
        for i in range(self._count):
            self._run(
                f"worker{i}",
                ["dynamo.vllm", *self._worker_arguments(i)],
                DYN_SYSTEM_PORT=str(SYSTEM_PORT + i),
                OMP_NUM_THREADS="1",
                VLLM_CPU_KVCACHE_SPACE="1",
                VLLM_CPU_OMP_THREADS_BIND=str(cores[i % len(cores)]),  # else all take the first
                VLLM_HOST_IP=HERE,
                VLLM_NO_USAGE_STATS="1",
                **printed["environment"],
            )

    def _serves(self) -> bool:
        if not super()._serves():
            return False
        try:
            pages = [fetch(SYSTEM_PORT + i, "/metrics") for i in range(self._count)]
        except OSError:
            return False
        found = [re.search(r'worker_id="([0-9a-f]+)"', page) for page in pages]
        self.ids = [int(one[1], 16) for one in found if one]
        return len(self.ids) == self._count

    def _worker_arguments(self, index: int) -> list[str]:
        flags: list[str] = config(self._nodes, index)["workers"]["agg"]["flags"]
        place = flags.index("--kv-transfer-config") + 1
        transfer = json.loads(flags[place])
        extra = transfer["kv_connector_extra_config"]
        extra.update(spec_name="CpuCopySpec", spec_module_path="tests.engines.cpu_copy")
        extra["secondary_tiers"][0].update(PATIENT, queue_percent=100)  # of a very small region
        flags[place] = json.dumps(transfer)
        return [
            *("--model", str(self._model), "--served-model-name", "tiny"),
            *("--enforce-eager", "--dtype", "float32", "--block-size", str(BLOCK)),
            *("--num-gpu-blocks-override", str(ROOM_BLOCKS), "--max-num-seqs", "4"),
            *("--max-model-len", str(LENGTH_MAX), "--max-num-batched-tokens", str(LENGTH_MAX)),
            *flags,
        ]


class FakeSglangDeployment(Deployment):
    """Workers that say what SGLang would say of a pool behind Mooncake's keys, and the relay."""

    def ask(self, prompt: str) -> None:
        chat(prompt, 1, {})

    def _start(self) -> None:
        said, heard = f"tcp://{HERE}:5556", f"tcp://{HERE}:5557"
        relay = ["memkv_nixl.kvbm.mooncake_relay", "--listen", said, "--publish", heard]
        self._run("relay", relay)
        self._run_frontend(
            [
                *("--router-mode", "kv", "--shared-cache-type", "hicache"),
                *("--shared-cache-multiplier", "0.8"),
            ],
            DYN_MOONCAKE_KV_EVENTS_ENDPOINT=heard,
        )
        for i in range(self._count):
            fake = ["tests.engines.dynamo_fake_sglang", str(self._model), said]
            self._run(f"fake{i}", fake)


def chat(prompt: str, tokens: int, pinned: dict[str, Any]) -> dict[str, Any]:
    """What the frontend answers."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 1,
        "ignore_eos": True,
        "nvext": {"extra_fields": ["worker_id", "timing"], **pinned},
    }
    said: dict[str, Any] = json.loads(fetch(FRONTEND_PORT, "/v1/chat/completions", body))
    return said


def config(nodes: tuple[str, ...], worker: int) -> dict[str, Any]:
    """What `memkv config dynamo` prints."""
    asked = ["config", "dynamo", "--json", "--nodes", ",".join(nodes), "--host-memory", "44MiB"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main([*asked, "--events-port", str(EVENTS_PORT + worker)])
    assert status == 0
    printed: dict[str, Any] = json.loads(said.getvalue())
    return printed


def fetch(port: int, path: str, body: dict[str, Any] | None = None) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            said: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: {error}: {error.read().decode()[:2000]}") from error
    return said.decode()


def total(page: str, name: str, labels: dict[str, str]) -> float:
    """The sum of a metric in Prometheus' text."""
    found = 0.0
    for line in page.splitlines():
        match = re.match(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            found += float(match[2])
    return found
