"""The doctor's checks of NIXL and the plugin.

They load other people's native code, so they run in a process of their own: whatever that does, the
doctor lives to tell. `python -m memkv_nixl.cli._checks_nixl` prints one JSON line per check.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from memkv_nixl._abi_guard import judge
from memkv_nixl._errors import MemKVError, NixlError
from memkv_nixl._nixl import INSTALL, PLUGIN, Nixl, announce, installed, load_nixl, plugin_path
from memkv_nixl.cli._checks import Check

_DEADLINE_S = 60


def check_nixl() -> Iterator[Check]:
    """Runs the checks in a process of their own."""
    command = [sys.executable, "-m", "memkv_nixl.cli._checks_nixl"]
    environment = {**os.environ, "NIXL_LOG_LEVEL": "WARN"}
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        yield Check("NIXL", "error", f"no answer within {_DEADLINE_S} s", "see NIXL's own log")
        return
    last = "python"
    for line in ran.stdout.splitlines():
        check = Check(**json.loads(line))
        last = check.name
        yield check
    if ran.returncode != 0:
        how = f"exit status {ran.returncode}"
        if ran.returncode < 0:
            how = signal.Signals(-ran.returncode).name
        words = " | ".join(ran.stderr.strip().splitlines()[-3:])
        text = f"the check after {last!r} ended with {how}: {words}"
        yield Check("NIXL", "error", text, "please report this with NIXL's version")


def _checks() -> Iterator[Check]:
    nixl: Nixl | None = None
    interface: Check | None = None
    try:
        nixl = load_nixl()
    except NixlError as error:
        if installed():
            yield Check("NIXL", "error", str(error), f"mend what Python says, or {INSTALL}")
        else:
            yield Check(
                "NIXL",
                "warning",
                str(error).removesuffix(f": {INSTALL}"),
                f"where an engine runs: {INSTALL}; a store node does not need it",
            )
    else:
        yield Check("NIXL", "ok", f"{nixl.package} {nixl.version} at {nixl.library.parent}")
        interface = _interface(nixl)
        yield interface
    plugin = _plugin(needed=nixl is not None)
    yield plugin
    if nixl is not None and interface is not None and interface.state == plugin.state == "ok":
        yield _listed(nixl)


def _interface(nixl: Nixl) -> Check:
    verdict = judge(nixl.plugin_folder)
    if verdict.ok:
        return Check("interface", "ok", verdict.sentence)
    return Check("interface", "error", verdict.sentence, "install NIXL 1.0 to 1.5")


def _plugin(*, needed: bool) -> Check:
    try:
        path = plugin_path()
    except MemKVError as error:
        return Check(
            "plugin", "error" if needed else "warning", str(error), "./dev build, or reinstall"
        )
    try:
        # As NIXL does it; the loader's own words are all there is to know about a failure.
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        return Check(
            "plugin",
            "error",
            f"the loader says: {error}",
            "the README names the distributions the wheel runs on; elsewhere build it: ./dev build",
        )
    if not hasattr(library, "nixl_plugin_init"):
        return Check(
            "plugin", "error", f"{path} has no nixl_plugin_init", "install memkv-nixl again"
        )
    return Check("plugin", "ok", f"{path} loads")


def _listed(nixl: Nixl) -> Check:
    try:
        done = announce(nixl, plugin_path())
    except MemKVError as error:
        return Check("plugin found", "error", str(error), "call register() before any nixl_agent")
    if done.plugin.read_bytes() != plugin_path().read_bytes():
        return Check(
            "plugin found",
            "warning",
            f"NIXL loads {done.plugin}, which is not the plugin of this memkv-nixl",
            "pip uninstall memkv-nixl where it came from, or install this one in its place",
        )
    others = [name for name in nixl.plugin_names() if name != PLUGIN]
    how = {
        "installed": "NIXL finds it by itself",
        "added": "memkv_nixl.agent.register() tells NIXL of it",
        "linked": "memkv_nixl.agent.register() makes a folder of links for NIXL",
    }[done.how]
    return Check("plugin found", "ok", f"{how}; beside it: {', '.join(others) or 'no other'}")


def main() -> None:
    """Prints a line per check."""
    # NIXL logs to standard output; the answer gets a descriptor of its own.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        for check in _checks():
            answer.write(json.dumps(check.document()) + "\n")
            answer.flush()
    # Not through the destructors of whatever NIXL loaded: UCX's can crash after all is done.
    os._exit(0)


if __name__ == "__main__":
    main()
