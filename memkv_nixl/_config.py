"""Configuration: one YAML file, then environment variables, then flags; the later wins.

The file is named by --config or MEMKV_CONFIG. Its keys are the fields of `Settings`; the sections
`node` and `control` hold those of `NodeSettings` and `ControlSettings`:

    nodes: [10.0.0.7:9900, 10.0.0.8:9900]
    namespace: llama-70b
    timeout_ms: 5000
    node:
      device: /dev/nvme0n1
      dram: 16GiB
      listen: 127.0.0.1:9900
    control:
      listen: 127.0.0.1:9910

An environment variable is MEMKV_ and the name in capitals (MEMKV_NODES="a:1,b:2",
MEMKV_NODE_DEVICE=…). A setting of the file or of flags that is not known is refused by name; other
variables that begin with MEMKV_ are not settings, and are passed over.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from memkv_nixl._errors import ConfigError
from memkv_nixl._sizes import parse_size

LEASE_S_MAX = 60
DROP_GENERATION_MAX = 2**32 - 1
TIMEOUT_MS_MAX = 24 * 3600 * 1000  # kTimeoutMsMax of plugin_src/base/limits.h

_Model = TypeVar("_Model")


def _size(default: int | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"size": True})


def _agents(default: str | tuple[str, ...] | None = None) -> Any:
    """Of a setting that memkvd knows nothing of."""
    return dataclasses.field(default=default, metadata={"agent": True})


def _flag(name: str) -> Any:
    """Of a setting that memkvd knows by another name."""
    return dataclasses.field(default=None, metadata={"flag": name})


@dataclasses.dataclass(frozen=True)
class NodeSettings:
    """What `memkv node serve` starts memkvd with."""

    device: str | None = None  # a raw block device, or a file
    capacity: int | None = _size()  # of a file to make or grow
    dram: int | None = _size()
    listen: str = "127.0.0.1:9900"
    advertise: str | None = None
    weight: int | None = None
    map_file: str | None = None  # an agent's own way to hand memkvd the map
    hands: int | None = None
    segment_bytes: int | None = _size()
    rewrite_percent: int | None = None
    write_budget: int | None = _size()  # a day
    index_flush_ms: int | None = None
    log_level: str | None = None
    log_format: str | None = None  # text or json
    format: bool = False
    buffered: bool = False
    insecure: bool = False
    # Of the connections that blocks go over: without a certificate they are not encrypted.
    data_tls_cert: str | None = _flag("tls-cert")
    data_tls_key: str | None = _flag("tls-key")
    data_tls_client_ca: str | None = _flag("tls-client-ca")  # clients need one that it issued
    data_tls_ca: str | None = _agents()  # who issued the nodes' certificates
    log_json: bool = False  # the same as log_format: json
    anonymous: str | None = None  # yes or no: whether those without a token are taken
    also_known_as: str | None = None  # more addresses that clients name it by, a:1,b:2
    # Under a control plane: who it is, what the agent keeps, what fails together with this node.
    control: tuple[str, ...] = _agents(())
    agent_dir: str = _agents("memkv-node")
    failure_domain: str = _agents("")
    move_rate: int = dataclasses.field(  # bytes a second of blocks that move to other nodes
        default=512 << 20, metadata={"size": True, "agent": True}
    )
    tls_cert: str | None = _agents()  # these three for the control plane
    tls_key: str | None = _agents()
    tls_ca: str | None = _agents()
    metrics: str | None = _agents()  # where /metrics is served


@dataclasses.dataclass(frozen=True)
class ControlSettings:
    """What `memkv control serve` runs with."""

    listen: str = "127.0.0.1:9910"
    state: str = "memkv-control"  # the folder that the control plane's memory is kept in
    heartbeat_ms: int = 1000
    deadline_ms: int = 5000
    lost_after_ms: int = 60_000
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    insecure: bool = False
    # Several replicas: the state is in etcd, under the pool's name, and one of them leads.
    etcd: tuple[str, ...] = ()
    pool: str = "default"
    advertise: str | None = None
    lease_s: int = 3
    etcd_ca: str | None = None
    etcd_cert: str | None = None
    etcd_key: str | None = None
    metrics: str | None = None  # where /metrics is served
    log_format: str = "text"  # or json


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every command of `memkv`, every TransferAgent and the NIXL plugin work with."""

    nodes: tuple[str, ...] = ()
    namespace: str = "default"
    drop_generation: int = 0  # of the namespace, where it was dropped
    timeout_ms: int = 5000
    query_timeout_ms: int | None = None
    token_file: str | None = None
    # With the nodes' CA every connection is TLS; a certificate where nodes ask for one.
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None  # instead of the host in a node's address
    # The plugin reads the same file, and these are its own; it checks their values.
    key_dialect: str | None = None
    transport: str | None = None
    verify: str | None = None
    node: NodeSettings = dataclasses.field(default_factory=NodeSettings)
    control: ControlSettings = dataclasses.field(default_factory=ControlSettings)


# Who this is and whom it believes; for `_native.Client` and the plugin by the same names.
CREDENTIALS = ("token_file", "tls_ca", "tls_cert", "tls_key", "tls_server_name")


def credentials_of(settings: Any) -> dict[str, Any]:
    """Those of the CREDENTIALS that `settings` has, by their names."""
    return {name: value for name in CREDENTIALS if (value := getattr(settings, name)) is not None}


_SECTIONS: dict[str, type[Any]] = {"node": NodeSettings, "control": ControlSettings}


def load_settings(
    flags: Mapping[str, Any],
    *,
    config: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings out of the file, the environment and `flags` (where None is not given)."""
    env = os.environ if environment is None else environment
    path = config or env.get("MEMKV_CONFIG")
    merged: dict[str, Any] = {name: {} for name in _SECTIONS}
    layers: list[tuple[Mapping[str, Any], str]] = []
    if path:
        layers.append((_from_file(path), f"{path}: "))
    layers += [(_from_environment(env), "environment: "), (flags, "")]
    for layer, source in layers:
        _merge(merged, layer, source)
    for name, model in _SECTIONS.items():
        merged[name] = _build(model, merged[name])
    settings = _build(Settings, merged)
    _check(settings)
    return settings


def require_nodes(settings: Settings) -> tuple[str, ...]:
    """The nodes, or the sentence that says where to name them."""
    if not settings.nodes:
        raise ConfigError(
            "no store nodes are named: give --nodes HOST:PORT,…, set MEMKV_NODES, "
            "or write `nodes:` into the file that --config or MEMKV_CONFIG names"
        )
    return settings.nodes


def _from_file(path: str) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the configuration is not UTF-8 text: {error}") from error
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: the top level must be `name: value` lines")
    return loaded


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: {} for name in _SECTIONS}
    for field in dataclasses.fields(Settings):
        if field.name not in _SECTIONS and (value := env.get(f"MEMKV_{field.name.upper()}")):
            found[field.name] = value
    for section, model in _SECTIONS.items():
        for field in dataclasses.fields(model):
            if value := env.get(f"MEMKV_{section.upper()}_{field.name.upper()}"):
                found[section][field.name] = value
    return found


def _merge(into: dict[str, Any], layer: Mapping[str, Any], source: str) -> None:
    for name, value in layer.items():
        _known(Settings, name, source)
        if name in _SECTIONS:
            _merge_section(into[name], name, value, source)
        elif value is not None:
            into[name] = _convert(Settings, name, value, source)


def _merge_section(into: dict[str, Any], section: str, layer: Any, source: str) -> None:
    if layer is not None and not isinstance(layer, Mapping):
        raise ConfigError(f"{source}{section} must be a section of `name: value` lines")
    model = _SECTIONS[section]
    for name, value in (layer or {}).items():
        _known(model, name, f"{source}{section}.")
        if value is not None:
            into[name] = _convert(model, name, value, f"{source}{section}.")


def _known(model: type[Any], name: str, source: str) -> None:
    names = [field.name for field in dataclasses.fields(model)]
    if name in names:
        return
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"
    raise ConfigError(f"{source}{name}: there is no such setting; {hint}")


def _convert(model: type[Any], name: str, value: Any, source: str) -> Any:
    field = next(field for field in dataclasses.fields(model) if field.name == name)
    where = f"{source}{name}"
    if field.metadata.get("size"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ConfigError(f"{where}: {value!r} is not a size; write one such as 10GiB")
        return parse_size(value, where)
    kind = _plain_type(model, name)
    if kind is tuple:
        return _list_of_text(value, where)
    if kind is bool:
        return _truth(value, where)
    if kind is int:
        return _whole_number(value, where)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {value!r} is not text")
    return value


def _plain_type(model: type[Any], name: str) -> type[Any]:
    hint = typing.get_type_hints(model)[name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    plain: type[Any] = typing.get_origin(hint) or hint
    return plain


def _list_of_text(value: Any, where: str) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"{where}: {value!r} is not a list of texts; write a:1,b:2 or [a:1, b:2]")
    return tuple(part.strip() for part in parts if part.strip())


def _truth(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{where}: {value!r} is neither true nor false")


def _whole_number(value: Any, where: str) -> int:
    if isinstance(value, bool):
        raise ConfigError(f"{where}: {value!r} is not a whole number")
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {value!r} is not a whole number") from None


def _build(model: type[_Model], values: Mapping[str, Any]) -> _Model:
    return model(**values)


_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(\d{1,5})")


def check_address(address: str, where: str) -> None:
    """Refuses what is not HOST:PORT."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise ConfigError(
            f"{where}: {address!r} is not an address; write HOST:PORT, say 10.0.0.7:9900"
        )


def _check(settings: Settings) -> None:
    for address in settings.nodes:
        check_address(address, "nodes")
    if len(set(settings.nodes)) != len(settings.nodes):
        twice = next(a for a in settings.nodes if settings.nodes.count(a) > 1)
        raise ConfigError(f"nodes: {twice} is named twice; name each node once")
    for name in ("timeout_ms", "query_timeout_ms"):
        value = getattr(settings, name)
        if value is not None and not 1 <= value <= TIMEOUT_MS_MAX:
            raise ConfigError(f"{name}: {value} is not between 1 and {TIMEOUT_MS_MAX}")
    if not 0 <= settings.drop_generation <= DROP_GENERATION_MAX:
        raise ConfigError(
            f"drop_generation: {settings.drop_generation} is not between 0 and "
            f"{DROP_GENERATION_MAX}"
        )
    check_address(settings.node.listen, "node.listen")
    for address in settings.node.control:
        check_address(address, "node.control")
    for name, section in (("node", settings.node), ("control", settings.control)):
        _check_watched(name, section)
    _check_control(settings.control)
    _check_data_tls(settings.node)


def _check_data_tls(node: NodeSettings) -> None:
    if node.data_tls_cert is None or node.data_tls_ca is not None:
        return
    if node.control or node.metrics is not None:
        raise ConfigError(
            "node.data_tls_ca: who keeps memkvd is its client, too: name the file of the CA that "
            "issued the nodes' certificates"
        )


def _check_watched(name: str, section: NodeSettings | ControlSettings) -> None:
    if section.metrics is not None:
        check_address(section.metrics, f"{name}.metrics")
    if section.log_format not in (None, "text", "json"):
        raise ConfigError(
            f"{name}.log_format: {section.log_format!r} is no format; write text or json"
        )


def _check_control(control: ControlSettings) -> None:
    check_address(control.listen, "control.listen")
    for endpoint in control.etcd:
        check_address(endpoint, "control.etcd")
    if control.advertise is not None:
        check_address(control.advertise, "control.advertise")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", control.pool):
        raise ConfigError(
            f"control.pool: {control.pool!r} is not 1 to 64 letters, digits, dots, dashes and "
            "underscores"
        )
    if not 2 <= control.lease_s <= LEASE_S_MAX:
        raise ConfigError(f"control.lease_s: {control.lease_s} is not 2 to {LEASE_S_MAX}")
    if not 10 <= control.heartbeat_ms <= 60_000:
        raise ConfigError(f"control.heartbeat_ms: {control.heartbeat_ms} is not 10 to 60000")
    if control.deadline_ms < 2 * control.heartbeat_ms:
        raise ConfigError(
            f"control.deadline_ms: {control.deadline_ms} leaves no room for a lost heartbeat; "
            f"write at least {2 * control.heartbeat_ms}, twice heartbeat_ms"
        )
    if not control.deadline_ms <= control.lost_after_ms <= TIMEOUT_MS_MAX:
        raise ConfigError(
            f"control.lost_after_ms: {control.lost_after_ms} is not between deadline_ms "
            f"({control.deadline_ms}) and {TIMEOUT_MS_MAX}"
        )
