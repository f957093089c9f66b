"""register(): makes the NIXL of this process find and accept libplugin_MEMKV.so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memkv_nixl._nixl import announce, load_nixl, plugin_path


@dataclass(frozen=True)
class Registration:
    """What `register` found and did."""

    nixl: str
    """The package, say "nixl_cu12"."""
    version: str
    """Its version."""
    plugin: Path
    """The plugin that NIXL loads."""
    how: str
    """"installed" (it lies among NIXL's own), "added" (NIXL was told of its folder), or "linked"
    (NIXL_PLUGIN_DIR names a folder of links to NIXL's own plugins and ours)."""


def register() -> Registration:
    """Makes NIXL find the MEMKV plugin; afterwards `create_backend("MEMKV", …)` works.

    Call it before the first `nixl_agent` of the process; a second call does nothing. An installed
    memkv-nixl is found by NIXL without it, but is not checked then: `register` refuses a NIXL whose
    binary interface the plugin does not know, before NIXL loads it. NIXL's own plugins stay as they
    are.

    Raises NixlError: NIXL is not installed or cannot be imported, its binary interface is unknown,
    or it made its list of plugins too early.
    """
    done = announce(load_nixl(), plugin_path())
    return Registration(done.nixl, done.version, done.plugin, done.how)
