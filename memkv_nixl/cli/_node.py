"""`memkv node serve`: a store node on this machine."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from memkv_nixl._config import NodeSettings, load_settings
from memkv_nixl._control_plane import INSTALL
from memkv_nixl._daemon import memkvd_flags, memkvd_path
from memkv_nixl._errors import ConfigError
from memkv_nixl.cli._logs import log_natively, log_to_stderr
from memkv_nixl.cli._output import Output

if TYPE_CHECKING:
    from memkv_nixl.store._kept_daemon import Running


_SIZES = {
    "capacity": "of a file to make or grow (default: as large as the device is)",
    "dram": "memory for blocks (default: memkvd's)",
    "segment_bytes": "size of a segment of the log (default: chosen from the capacity)",
    "write_budget": "bytes a day, for namespaces with a budget of writes (default: the capacity)",
}
_TEXTS = {
    "device": "a raw block device, or a file",
    "listen": "HOST:PORT (default: 127.0.0.1:9900)",
    "advertise": "the address clients know this node by",
    "log_format": "of log lines: text, or json, one object a line (default: text)",
    "also_known_as": "more addresses that clients name it by, HOST:PORT,…",
    "anonymous": "yes or no: take those who have no token (default: yes on loopback, elsewhere "
    "until there are tenants)",
    "log_level": "debug, info, warning or error",
}
_NUMBERS = {
    "weight": "share of the pool's blocks, relative to other nodes",
    "hands": "threads that move bytes (default: chosen from the cores)",
    "rewrite_percent": "of a segment that may be kept when it is reclaimed",
    "index_flush_ms": "how long index records may wait for the device",
}
_AGENTS = {
    "control": "HOST:PORT of a control plane to register with, or HOST:PORT,… of its replicas; an "
    "agent then keeps memkvd running",
    "agent_dir": "the folder of the agent's files and memkvd's log (default: memkv-node)",
    "metrics": "HOST:PORT to serve /metrics on, for Prometheus (default: nowhere)",
    "failure_domain": "what fails together with this node, say a rack",
    "move_rate": "bytes a second of blocks that move to other nodes (default: 512MiB)",
    "data_tls_cert": "speak TLS where blocks go, with this certificate, a PEM file",
    "data_tls_key": "the key of that certificate, a PEM file",
    "data_tls_client_ca": "take only clients with a certificate of this CA, a PEM file",
    "data_tls_ca": "who signs the nodes' certificates, a PEM file; for the agent and /metrics",
    "tls_cert": "the agent's certificate for the control plane, a PEM file",
    "tls_key": "the certificate's key, a PEM file",
    "tls_ca": "who signs the control plane's certificate, a PEM file",
}
_SWITCHES = {
    "format": "overwrite whatever the device holds",
    "buffered": "do without O_DIRECT where the file system has none",
    "insecure": "listen beyond loopback although nothing is encrypted",
}


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds node serve."""
    node = commands.add_parser("node", help="run a store node")
    actions = node.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser(
        "serve",
        parents=[common],
        help="serve blocks from a device until SIGTERM",
        epilog="With --json, one line with the address when it serves, and JSON logs. Without "
        "--control this process becomes memkvd. With it, an agent starts memkvd, or goes on with "
        "the one that runs; SIGTERM stops both, and memkvd outlives an agent that is killed.",
    )
    for group, kind in ((_SIZES, "SIZE"), (_TEXTS, "TEXT"), (_NUMBERS, "N"), (_AGENTS, "TEXT")):
        for name, text in group.items():
            serve.add_argument(f"--{name.replace('_', '-')}", metavar=kind, help=text)
    for name, text in _SWITCHES.items():
        serve.add_argument(f"--{name}", action="store_true", default=None, help=text)
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace, output: Output) -> None:
    names = [*_SIZES, *_TEXTS, *_NUMBERS, *_AGENTS, *_SWITCHES]
    given = {name: getattr(args, name) for name in names}
    settings = load_settings({"node": given}, config=args.config).node
    if settings.device is None:
        raise ConfigError(
            "no device is named: give --device PATH (a raw block device, or a file with "
            "--capacity), set MEMKV_NODE_DEVICE, or write `node: {device: …}` into the "
            "configuration file"
        )
    as_json = output.as_json or settings.log_json or settings.log_format == "json"
    address = settings.advertise or settings.listen
    if settings.control:
        _serve_under_control(settings, output, as_json=as_json)
        return
    binary = memkvd_path()
    if as_json:
        settings = dataclasses.replace(settings, log_format="json")
    flags = memkvd_flags(settings)
    if settings.metrics is not None:
        from memkv_nixl.store._node_source import serve_beside

        log_to_stderr(settings.log_level or "info", as_json=as_json, node=lambda: address)
        flags += serve_beside(
            settings, lambda said: output.answer(said, [f"/metrics is at {said['metrics']}."])
        )
    elif output.as_json:
        flags += ["--ready-fd", "1"]
    sys.stdout.flush()
    # The daemon takes this process's place: signals and the exit code are its own.
    os.execv(binary, [str(binary), *flags])  # noqa: S606 - no shell is wanted


def _serve_under_control(settings: NodeSettings, output: Output, *, as_json: bool) -> None:
    try:
        from memkv_nixl.store._node_agent import serve
    except ImportError as error:
        raise ConfigError(
            f"node.control: this needs gRPC, which is not here ({error}): {INSTALL}"
        ) from error
    address = settings.advertise or settings.listen
    level = settings.log_level or "info"
    log_to_stderr(level, as_json=as_json, node=lambda: address)

    def ready(running: Running, metrics: str) -> None:
        nonlocal address
        address = settings.advertise or running.address
        log_natively(level, address if as_json else None)
        how = "goes on with" if running.adopted else "started"
        said = {"address": running.address, "pid": running.pid, "adopted": running.adopted}
        output.answer(
            {**said, "metrics": metrics} if metrics else said,
            [f"The agent {how} memkvd, process {running.pid}, on {running.address}."],
        )

    asyncio.run(serve(settings, ready))
