"""NIXL as it is installed here, and how it comes to find libplugin_MEMKV.so.

NIXL looks for plugins in one folder: NIXL_PLUGIN_DIR, else `plugins/` beside libnixl.so. Our wheel
puts the plugin there. For every other NIXL (a checkout of ours, a NIXL that was built from source,
a NIXL_PLUGIN_DIR that somebody set) `announce` adds our folder beside the one that NIXL has, so
that its own plugins stay.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkv_nixl._abi_guard import judge
from memkv_nixl._errors import NixlError
from memkv_nixl._plugin_folder import make_plugin_folder

PLUGIN = "MEMKV"
PLUGIN_FILE = f"libplugin_{PLUGIN}.so"
INSTALL = "pip install nixl-cu12 (or nixl-cu13 for CUDA 13)"
_MODULES = ("nixl", "nixl_cu13", "nixl_cu12", "nixl_rocm")  # `nixl` chooses among the others
_GET_MANAGER = "_ZN17nixlPluginManager11getInstanceEv"
_ADD_FOLDER = (
    "_ZN17nixlPluginManager18addPluginDirectory"
    "ERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
)


@dataclass(frozen=True)
class Nixl:
    """The NIXL of this process."""

    package: str  # nixl_cu12, …
    version: str
    api: Any  # the module that has nixl_agent
    bindings: Any
    library: Path  # libnixl.so

    @property
    def plugin_folder(self) -> Path:
        """Where this NIXL's own plugins are."""
        beside = self.library.parent / "plugins"
        above = self.library.parent.parent / "plugins"
        return above if above.is_dir() and not beside.is_dir() else beside

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What its calls raise; they have no common root of their own."""
        named = (getattr(self.bindings, name) for name in dir(self.bindings))
        return tuple(
            error for error in named if isinstance(error, type) and issubclass(error, Exception)
        )

    def plugin_names(self) -> list[str]:
        """The plugins that NIXL knows of now."""
        # A bare agent without a backend: the only way that every version has.
        agent = self.bindings.nixlAgent("memkv-asks", self._bare_config())
        return list(agent.getAvailPlugins())

    def _bare_config(self) -> Any:
        config = self.bindings.nixlAgentConfig()
        config.useProgThread = False
        config.useListenThread = False
        return config


@dataclass(frozen=True)
class Announced:
    """How NIXL came to know the plugin."""

    nixl: str
    version: str
    plugin: Path
    how: str  # installed, added or linked


def plugin_path() -> Path:
    """The plugin that belongs to this package."""
    path = Path(__file__).resolve().parent / "_plugin" / PLUGIN_FILE
    if not path.exists():
        raise NixlError(
            f"{path} is missing: in a checkout run ./dev build, else install memkv-nixl again"
        )
    return path


def load_nixl() -> Nixl:
    """Imports NIXL, or says how to install it."""
    module = next((sys.modules[name] for name in _MODULES if name in sys.modules), None)
    module = module if module is not None else _import_first()
    api = module if hasattr(module, "nixl_agent") else _submodule(module, "_api")
    bindings = _submodule(module, "_bindings")
    package = str(bindings.__name__).split(".", 1)[0]
    library = _library_of(bindings)
    return Nixl(package, nixl_version(package), api, bindings, library)


def nixl_version(package: str) -> str:
    """The version of the distribution that a package came with; "unknown" without one."""
    by_package = importlib.metadata.packages_distributions()
    for name in (package, "nixl"):
        for distribution in by_package.get(name, ()):
            return importlib.metadata.version(distribution)
    return "unknown"


def _import_first() -> Any:
    for name in _MODULES:
        if (module := _import(name)) is not None:
            return module
    raise NixlError(f"NIXL is not installed in {sys.prefix}: {INSTALL}")


def installed() -> bool:
    """Whether there is a NIXL to import; imports nothing."""
    return any(importlib.util.find_spec(name) is not None for name in _MODULES)


def _import(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        # `nixl` also raises when it finds none of the others, which are then tried by name.
        if missing or (name == "nixl" and not isinstance(error, ModuleNotFoundError)):
            return None
        raise _cannot_import(name, error) from error


def _cannot_import(name: str, error: ImportError) -> NixlError:
    hint = ""
    if getattr(error, "name", None) == "torch":
        hint = "; NIXL before 1.4 needs PyTorch: pip install torch, or take a newer NIXL"
    return NixlError(f"NIXL ({name}) is installed in {sys.prefix}, but Python says: {error}{hint}")


def _submodule(module: Any, name: str) -> Any:
    found = getattr(module, name, None)
    try:
        return found if found is not None else importlib.import_module(f"{module.__name__}.{name}")
    except ImportError as error:
        raise NixlError(
            f"{module.__name__} has no {name}: this is no NIXL that memkv-nixl knows"
        ) from error


def _library_of(bindings: Any) -> Path:
    """The libnixl.so that the bindings were loaded with; the kernel knows where it is."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").split(maxsplit=5)[-1]
            if path.endswith("/libnixl.so") or "/libnixl.so." in path:
                return Path(path)
    return Path(bindings.__file__)  # linked into them


_lock = threading.Lock()
_announced: Announced | None = None


def announce(nixl: Nixl, plugin: Path) -> Announced:
    """Makes NIXL know the plugin, once for the process. Afterwards NIXL lists it.

    A NIXL with another binary interface is refused before it can load the plugin.
    """
    global _announced  # noqa: PLW0603 - NIXL's list of plugins is one per process, too
    with _lock:
        if _announced is None:
            _announced = _announce(nixl, plugin)
        return _announced


def _announce(nixl: Nixl, plugin: Path) -> Announced:
    verdict = judge(nixl.plugin_folder)
    if not verdict.ok:
        raise NixlError(verdict.sentence)
    library = ctypes.CDLL(str(nixl.library))
    can_add = hasattr(library, _GET_MANAGER) and hasattr(library, _ADD_FOLDER)
    installed = Path(os.environ.get("NIXL_PLUGIN_DIR", nixl.plugin_folder)) / PLUGIN_FILE
    how = "installed"
    if can_add:
        if PLUGIN not in nixl.plugin_names():
            how = "added"
            _add_folder(library, plugin.parent)
    elif not installed.exists():
        how = "linked"
        _link_folder(nixl, plugin)
    if PLUGIN not in nixl.plugin_names():
        raise NixlError(
            f"NIXL {nixl.version} does not list {PLUGIN}: it made its list of plugins before "
            "memkv_nixl.agent.register() was called. Call register() before the first nixl_agent"
        )
    used = installed if how == "installed" and installed.exists() else plugin
    return Announced(nixl.package, nixl.version, used, how)


class _String(ctypes.Structure):
    """A std::string of libstdc++ (new ABI) that somebody only reads."""

    _fields_ = (
        ("data", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("unused", ctypes.c_size_t),
    )


def _add_folder(library: ctypes.CDLL, folder: Path) -> None:
    """nixlPluginManager::getInstance().addPluginDirectory(folder)."""
    manager_of = getattr(library, _GET_MANAGER)
    manager_of.restype, manager_of.argtypes = ctypes.c_void_p, []
    add = getattr(library, _ADD_FOLDER)
    add.restype, add.argtypes = None, [ctypes.c_void_p, ctypes.POINTER(_String)]
    text = os.fsencode(folder)
    add(manager_of(), ctypes.byref(_String(text, len(text), len(text), 0)))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends leaves its parent the folder
        shutil.rmtree(folder, ignore_errors=True)


def _link_folder(nixl: Nixl, plugin: Path) -> None:
    """A folder of links to NIXL's own plugins, with what they need, and ours, named by
    NIXL_PLUGIN_DIR."""
    own = Path(os.environ.get("NIXL_PLUGIN_DIR", nixl.plugin_folder))
    folder = Path(tempfile.mkdtemp(prefix="memkv-plugins-"))
    atexit.register(_remove, folder, os.getpid())
    if own.is_dir():
        folder = make_plugin_folder(own, plugin, folder, PLUGIN)
    else:
        (folder / plugin.name).symlink_to(plugin.resolve())
    os.environ["NIXL_PLUGIN_DIR"] = str(folder)
