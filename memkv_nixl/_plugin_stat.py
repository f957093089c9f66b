"""What libplugin_MEMKV.so did in this process, for metrics (docs/reference/plugin.md)."""

from __future__ import annotations

import ctypes
from pathlib import Path

from memkv_nixl._nixl import PLUGIN_FILE
from memkv_nixl._stat import parse_stats

_GROWTH = 4096  # of the text between two looks: numbers get longer


def plugin_stat() -> dict[str, int | float | str] | None:
    """The plugin's numbers by name; None while NIXL has not loaded it, empty after a fork.

    A latency is a line of its own (memkv_nixl/_stat.py)."""
    if (path := _loaded()) is None:
        return None
    stat = ctypes.CDLL(str(path)).memkv_plugin_stat
    stat.restype, stat.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]
    room = ctypes.create_string_buffer(stat(None, 0) + _GROWTH)
    length = min(stat(room, len(room)), len(room))
    return parse_stats(room.raw[:length].decode())


def _loaded() -> Path | None:
    """The file that the process has mapped; a second one of that name is never loaded here."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").split(maxsplit=5)[-1]
            if path.endswith("/" + PLUGIN_FILE):
                return Path(path)
    return None
