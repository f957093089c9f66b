"""A folder for NIXL_PLUGIN_DIR: NIXL's own plugins beside ours, which may go by the name OBJ there.

What writes for NIXL's backend OBJ (vLLM's tier `obj`) knows no other name, and NIXL finds a backend
by its file's: libplugin_OBJ.so. NIXL's own file of that name is never touched; the folder is one of
links, and whoever names it in NIXL_PLUGIN_DIR gets ours. NIXL's plugins look for their libraries
beside the place they are loaded from, so these are linked as well:

    FOLDER/nixl/plugins/libplugin_POSIX.so …   NIXL's own, but for the name that ours takes
    FOLDER/nixl/plugins/libplugin_OBJ.so       ours
    FOLDER/nixl/libnixl_common.so …            what they need, as it lies in NIXL's wheel
    FOLDER/nixl_cu12.libs
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from memkv_nixl._errors import NixlError, UsageError

NAMES = ("OBJ", "MEMKV")
_INSIDE = "nixl/plugins"


def make_plugin_folder(own: Path, plugin: Path, folder: Path, name: str) -> Path:
    """Makes or renews the folder; what NIXL_PLUGIN_DIR is to be.

    `own` is where NIXL's plugins are, `plugin` is ours. Raises UsageError for a folder that holds
    anything but links, NixlError where NIXL has no plugins there or a link cannot be made.
    """
    if not own.is_dir():
        raise NixlError(f"{own}, where NIXL's own plugins should be, is no folder")
    folder = folder.absolute()
    _refuse_foreign(folder, own)
    plugins = folder / _INSIDE
    wanted = {plugins / path.name: path for path in sorted(own.glob("lib*.so"))}
    wanted |= dict(_libraries(own, folder))
    wanted |= {plugins / f"libplugin_{ours}.so": plugin for ours in {name, "MEMKV"}}
    try:
        plugins.mkdir(parents=True, exist_ok=True)
        for link in _links_in(folder):
            if link not in wanted:
                link.unlink()
        for link, target in wanted.items():
            _link(link, target.resolve())
    except OSError as error:
        raise NixlError(f"{error.filename or folder}: {error.strerror}") from error
    return plugins


def _libraries(own: Path, folder: Path) -> Iterable[tuple[Path, Path]]:
    """What NIXL's plugins find beside themselves, where NIXL came as a wheel."""
    beside = own.parent
    bundled = sorted(beside.parent.glob("nixl*.libs"))
    if not bundled:
        return  # they find theirs wherever the system keeps libraries
    for path in sorted(beside.glob("lib*.so*")):
        yield folder / "nixl" / path.name, path
    for path in bundled:
        yield folder / path.name, path


def _refuse_foreign(folder: Path, own: Path) -> None:
    if own.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UsageError(f"{folder} is NIXL's own: name a new folder")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name a new one")
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.is_symlink() and path != folder / "nixl":
            raise UsageError(f"{folder} holds {path.name}: name a new folder, it is for links only")
    for part in (folder / "nixl", folder / _INSIDE):
        for path in part.iterdir() if part.is_dir() else ():
            if not path.is_symlink() and path != folder / _INSIDE:
                raise UsageError(f"{path} is no link: name a new folder")


def _links_in(folder: Path) -> list[Path]:
    places = (folder, folder / "nixl", folder / _INSIDE)
    return [path for place in places for path in place.iterdir() if path.is_symlink()]


def _link(link: Path, target: Path) -> None:
    """Puts a link where perhaps another is, without a moment in which there is none."""
    if link.is_symlink() and link.readlink() == target:
        return
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)
