"""What libplugin_MEMKV.so did in this process, for metrics (docs/reference/plugin.md)."""

from __future__ import annotations

import ctypes
from pathlib import Path

from memkv_nixl._nixl import PLUGIN_FILE


def plugin_stat() -> dict[str, int] | None:
    """The plugin's numbers by name; None while NIXL has not loaded it, empty after a fork."""
    if (path := _loaded()) is None:
        return None
    stat = ctypes.CDLL(str(path)).memkv_plugin_stat
    stat.restype, stat.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]
    room = ctypes.create_string_buffer(4096)
    length = min(stat(room, len(room)), len(room))
    pairs = (line.split(" ", 1) for line in room.raw[:length].decode().splitlines())
    return {name: int(value) for name, value in pairs}


def _loaded() -> Path | None:
    """The file that the process has mapped; a second one of that name is never loaded here."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").split(maxsplit=5)[-1]
            if path.endswith("/" + PLUGIN_FILE):
                return Path(path)
    return None
