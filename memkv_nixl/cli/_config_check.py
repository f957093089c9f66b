"""`memkv config ENGINE --check`: is what is set up on this machine right, and what is to be mended?

Every engine is checked for NIXL, the plugin and the nodes. An engine's own file says the rest, with
either of

    CHECKED_FLAG = "--kv-transfer-config"     the flag of the engine's that holds its JSON
    CHECKED_IS_FILE = True                    or that names a YAML file
    def checks(setup: Setup) -> Iterator[Check]

and stands on the checks below. Nothing is started, and nothing of an engine is imported.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from memkv_nixl._config import Settings, credentials_of, load_settings
from memkv_nixl._errors import ConfigError
from memkv_nixl._sizes import format_size
from memkv_nixl.cli._checks import Check, meminfo
from memkv_nixl.cli._checks_nixl import check_nixl
from memkv_nixl.cli._doctor import check_nodes, report
from memkv_nixl.cli._output import Output
from memkv_nixl.cli._pool import given_credentials
from memkv_nixl.kvbm._settings import TierSettings, tier_settings

Checks = Callable[["Setup"], Iterator[Check]]
Reader = Callable[..., TierSettings]  # of a tier's settings out of an engine's
_SHM = "/dev/shm"  # noqa: S108 - where engines keep their regions
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Setup:
    """What there is to check."""

    settings: Settings
    document: Any = None
    """The engine's JSON, where it was given."""
    command: Sequence[str] = ()
    """The words of the engine's command line, where they were given."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> str | None:
        """A flag's value in the command line."""
        return _flag(self.command, name)


def add_check(parser: argparse.ArgumentParser, engine: Any) -> None:
    """Gives an engine's parser --check; `engine` is its own file, as a module."""
    flag = getattr(engine, "CHECKED_FLAG", None)
    group = parser.add_argument_group("checking what is set up here")
    group.add_argument(
        "--check", action="store_true", help="check this machine instead of printing anything"
    )
    group.add_argument(
        "--command",
        dest="line",
        metavar="LINE",
        help="the engine's own command line, in quotes, to be checked",
    )
    if flag is not None:
        group.add_argument(
            "--transfer-config",
            metavar="FILE",
            help=f"what the engine takes as {flag}, to be checked; - is standard input",
        )
    printing = parser.get_default("run")

    def run(args: argparse.Namespace, output: Output) -> int:
        if args.check:
            return report(_all(args, engine), output)
        given: int = printing(args, output)
        return given

    parser.set_defaults(run=run)


def _all(args: argparse.Namespace, engine: Any) -> Iterator[Check]:
    checks: Checks | None = getattr(engine, "checks", None)
    given = {"nodes": getattr(args, "nodes", None), **given_credentials(args)}
    try:
        settings = load_settings(given, config=args.config)
    except ConfigError as error:
        yield Check("settings", "error", str(error), "mend it where the sentence says")
        return
    try:
        command = shlex.split(args.line or "")
    except ValueError as error:
        yield Check("command", "error", f"--command: {error}", "close the quotes")
        return
    document, wrong = _document(getattr(args, "transfer_config", None), command, engine)
    if wrong is not None:
        yield wrong
    asked = False
    for check in checks(Setup(settings, document, command, dict(os.environ))) if checks else ():
        asked = asked or check.name.startswith("node ")
        if wrong is None or check.name != wrong.name:  # that it is not there was said
            yield check
    for check in check_nixl():
        yield _needed(check)
    if not asked:
        yield from nodes_of(settings.nodes, settings.timeout_ms, credentials_of(settings))


def nodes_of(
    nodes: Sequence[str], timeout_ms: int, credentials: Mapping[str, Any] | None = None
) -> Iterator[Check]:
    """Whether nodes are named, and answer."""
    if nodes:
        yield from check_nodes(nodes, timeout_ms, credentials)
    else:
        yield Check(
            "nodes",
            "warning",
            "no store nodes are named here, so none was asked",
            "name them: --nodes HOST:PORT,… or MEMKV_NODES",
        )


def _needed(check: Check) -> Check:
    """Where an engine runs, NIXL is no comfort."""
    if check.name == "NIXL" and check.state == "warning":
        return Check(check.name, "error", check.text, check.mend)
    return check


def _flag(command: Sequence[str], name: str) -> str | None:
    for i, word in enumerate(command):
        if word == name and i + 1 < len(command):
            return command[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _document(path: str | None, command: Sequence[str], engine: Any) -> tuple[Any, Check | None]:
    """The engine's JSON or YAML out of a file or its command line, or what is wrong with it."""
    flag = getattr(engine, "CHECKED_FLAG", None)
    is_file = getattr(engine, "CHECKED_IS_FILE", False)
    said = _flag(command, flag) if flag is not None else None
    path = path if path is not None or not is_file else said
    try:
        if path is not None:
            said = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        if said is None:
            return None, None
        return (yaml.safe_load(said) if is_file else json.loads(said)), None
    except OSError as error:
        return None, Check("JSON", "error", f"{path}: {error.strerror}", "name a file, or -")
    except (ValueError, yaml.YAMLError) as error:  # neither, or no text
        where, kind = path or flag, "YAML" if is_file else "JSON"
        mend = "memkv config prints it whole; in a shell it stands between single quotes"
        return None, Check("JSON", "error", f"{where} is no {kind}: {error}", mend)


# ---- checks that engines share


def installed(
    name: str, distributions: Sequence[str], known: Sequence[str], untested: Sequence[str] = ()
) -> Check:
    """Which version of an engine is here; a known one may be said by its first numbers."""
    for distribution in distributions:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        release = version.split("+", 1)[0]
        text = f"{distribution} {version}"
        if _is_of(release, known):
            return Check(name, "ok", f"{text}, which is tested")
        if _is_of(release, untested):
            mend = f"tested are {', '.join(known)}" if known else "docs/guides says what is known"
            return Check(name, "warning", f"{text}: not tested with memkv-nixl", mend)
        mend = f"install {', '.join([*known, *untested])}, or a memkv-nixl that knows {release}"
        return Check(name, "error", f"{text}: memkv-nixl does not know it", mend)
    return Check(
        name,
        "warning",
        f"{name} is not installed in {sys.prefix}",
        "run this with the Python of the engine: python -m memkv_nixl.cli config …",
    )


def _is_of(release: str, versions: Sequence[str]) -> bool:
    return any(release == one or release.startswith(f"{one}.") for one in versions)


def hash_seed(environment: Mapping[str, str]) -> Check:
    """Whether hashes of blocks are the same in every process."""
    seed = environment.get("PYTHONHASHSEED")
    if seed is None:
        return Check(
            "hash seed",
            "warning",
            "PYTHONHASHSEED is not set: hashes agree only with processes that have none either",
            "export PYTHONHASHSEED=0, everywhere the same",
        )
    if not seed.isdigit():
        return Check(
            "hash seed",
            "error",
            f"PYTHONHASHSEED={seed}: every process makes its own hashes, and nothing is found",
            "export PYTHONHASHSEED=0, everywhere the same",
        )
    return Check("hash seed", "ok", f"PYTHONHASHSEED={seed}; it has to be so everywhere")


def region(name: str, size: int, setting: str, *, in_shm: bool = False) -> Check:
    """Whether a region of host memory fits into what is free."""
    free, where = _free_memory()
    if in_shm:
        shm = shutil.disk_usage(_SHM).free
        free, where = min((free, where), (shm, f"{_SHM} has"))
    text = f"{setting} is {format_size(size)}; {where} {format_size(free)} free"
    if size <= free:
        return Check(name, "ok", text)
    mend = f"set {setting} to less than {format_size(free)}"
    if where.startswith(_SHM):
        mend += f", or give it more: mount -o remount,size={size + (size >> 3)} {_SHM}; in a "
        mend += "container --shm-size, in Kubernetes an emptyDir with medium: Memory"
    return Check(name, "error", text, mend)


def _free_memory() -> tuple[int, str]:
    available = meminfo("MemAvailable") * 1024
    try:
        limit = int(_CGROUP.read_text(encoding="ascii"))
        used = int(_CGROUP.with_name("memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no limit, or no cgroup of this kind
        return available, "this machine has"
    return min((available, "this machine has"), (max(limit - used, 0), "this container has"))


def tier_of(
    given: Mapping[str, Any], environment: Mapping[str, str], read: Reader = tier_settings
) -> tuple[TierSettings | None, list[Check]]:
    """The tier's settings as the engine reads them, and a line for each that is wrong."""
    refused = {name: _refusal(name, value, read) for name, value in given.items()}
    wrong = [
        Check(f"tier.{name}", "error", why, f"mend {name}, or leave it out")
        for name, why in refused.items()
        if why
    ]
    good = {name: value for name, value in given.items() if not refused[name]}
    try:
        settings = read(good, environment=environment)
    except ConfigError as error:
        mend = 'write "nodes": "HOST:PORT,…", spelled alike everywhere'
        return None, [*wrong, Check("tier", "error", str(error), mend)]
    return settings, wrong or [Check("tier", "ok", f"{len(given)} settings, all known")]


def _refusal(name: str, value: Any, read: Reader) -> str:
    """Why the tier does not take a setting; empty where it does."""
    try:
        read({"nodes": "checked:1", name: value}, environment={})
    except ConfigError as error:
        return str(error)
    return ""
