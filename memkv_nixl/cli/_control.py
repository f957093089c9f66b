"""`memkv control`: the control plane, and what it says and does."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from memkv_nixl._config import ControlSettings, load_settings
from memkv_nixl._control_plane import INSTALL
from memkv_nixl._errors import ConfigError
from memkv_nixl.cli._logs import log_to_stderr
from memkv_nixl.cli._output import Output

_TEXTS = {
    "listen": "HOST:PORT (default: 127.0.0.1:9910)",
    "metrics": "HOST:PORT to serve /metrics on, for Prometheus (default: nowhere)",
    "log_format": "of log lines: text, or json, one object a line (default: text)",
    "state": "the folder that its memory is kept in (default: memkv-control)",
    "tls_cert": "its certificate, a PEM file",
    "tls_key": "the certificate's key, a PEM file",
    "tls_ca": "who signs the certificates of those who may call, a PEM file",
    "etcd": "HOST:PORT,… of an etcd that keeps the memory instead, for several replicas",
    "pool": "the pool's name in etcd (default: default)",
    "advertise": "HOST:PORT that others reach this replica by (default: --listen)",
    "etcd_ca": "who signs etcd's certificate, a PEM file",
    "etcd_cert": "the certificate to show to etcd, a PEM file",
    "etcd_key": "that certificate's key, a PEM file",
}
_NUMBERS = {
    "heartbeat_ms": "how often nodes say that they are there (default: 1000)",
    "deadline_ms": "after how long without a heartbeat a node is silent (default: 5000)",
    "lost_after_ms": "after how long its share goes to the others (default: 60000)",
}
_SECONDS = {
    "lease_s": "after how long a leader that died is replaced (default: 3)",
}
_LEVELS = ("debug", "info", "warning", "error")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds control serve."""
    control = commands.add_parser("control", help="run the control plane")
    actions = control.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser(
        "serve",
        parents=[common],
        help="serve the control plane until SIGTERM",
        epilog="With --json, one line with the address when it serves, and JSON logs.",
    )
    for group, kind in ((_TEXTS, "TEXT"), (_NUMBERS, "MS"), (_SECONDS, "S")):
        for name, text in group.items():
            serve.add_argument(f"--{name.replace('_', '-')}", metavar=kind, help=text)
    serve.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen beyond loopback, and reach an etcd there, without certificates",
    )
    serve.add_argument("--log-level", choices=_LEVELS, default="info", help="(default: info)")
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace, output: Output) -> None:
    names = (*_TEXTS, *_NUMBERS, *_SECONDS, "insecure")
    given = {name: getattr(args, name) for name in names}
    settings = load_settings({"control": given}, config=args.config).control
    as_json = output.as_json or settings.log_format == "json"
    log_to_stderr(args.log_level, as_json=as_json, node=lambda: "control")
    try:
        from memkv_nixl.control._server import serve
    except ImportError as error:
        raise ConfigError(
            f"the control plane needs gRPC, which is not here ({error}): {INSTALL}"
        ) from error

    asyncio.run(serve(settings, lambda *where: _say_ready(output, settings, *where)))


def _say_ready(output: Output, settings: ControlSettings, address: str, metrics: str) -> None:
    where = settings.state
    if settings.etcd:
        where = f"etcd at {','.join(settings.etcd)}, /memkv/{settings.pool}"
    said = {"address": address, "state": where}
    output.answer(
        {**said, "metrics": metrics} if metrics else said,
        [f"The control plane serves on {address}; its memory is in {where}."],
    )
    if settings.insecure and settings.tls_cert is None:
        logging.getLogger(__name__).warning(
            "--insecure: everybody who reaches %s may change the pool", address
        )
