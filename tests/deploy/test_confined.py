"""What containers and systemd forbid leaves a pool whole: real processes under real filters."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import confined
from tests.deploy.chart import CHART, DEPLOY
from tests.deploy.pool import pool, ran

PROFILE = CHART / "files/seccomp.json"
# What gives a process more than it was given.
FORBIDDEN = set(
    """
acct add_key bpf chroot delete_module finit_module fsconfig fsmount init_module ioperm iopl
kexec_file_load kexec_load keyctl mknod mknodat mount mount_setattr move_mount name_to_handle_at
open_by_handle_at open_tree perf_event_open personality pivot_root process_vm_readv
process_vm_writev ptrace quotactl reboot request_key setns settimeofday swapoff swapon syslog
umount2 unshare userfaultfd
""".split()  # noqa: SIM905 - a list of them is forty lines
)
TRIES = """
import ctypes, errno, socket, threading
call = ctypes.CDLL(None, use_errno=True)
def refused(name, *args):
    return getattr(call, name)(*args) == -1 and ctypes.get_errno() == errno.EPERM
assert refused("unshare", 0x10000000), "a user namespace"
assert refused("mount", b"none", b"/mnt", b"tmpfs", 0, None), "a mount"
assert refused("ptrace", 0, 0, 0, 0), "ptrace"
for family in (38, 40):  # AF_ALG, AF_VSOCK
    try:
        socket.socket(family, socket.SOCK_STREAM)
    except PermissionError:
        continue
    raise AssertionError(f"a socket of family {family}")
thread = threading.Thread(target=lambda: print("threads start"))
thread.start()
thread.join()
"""

ASKS = """
import contextlib, io, json, sys, time
from memkv_nixl.cli import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
control, node = sys.argv[2:]
end = time.monotonic() + 60
while time.monotonic() < end:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["nodes", "list", f"--control={control}"]) == 0
    if node in said.getvalue():
        sys.exit()
sys.exit(f"the node is not in the map: {said.getvalue()}")
"""


def profile() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PROFILE.read_text())
    return loaded


def names(rules: dict[str, Any]) -> set[str]:
    return {name for rule in rules["syscalls"] for name in rule["names"]}


def a_block_goes_round(folder: Path, *, control: Path, node: Path) -> None:
    """Through processes that the filters hold; the commands are held by the node's."""
    block = folder / "block"
    block.write_bytes(bytes(range(256)) * 1024)
    with pool(folder, control_under=control, node_under=node) as (plane, running):
        at = f"--nodes={running.address}"
        commands = [["put", at, "key", str(block)], ["get", at, "key", str(folder / "back")]]
        done = ran(
            *(sys.executable, "-c", ASKS, json.dumps([*commands, ["status", at]])),
            *(plane.address, running.address),
            profile=node,
        )
        assert done.returncode == 0, done.stderr
        log = running.end()
    assert (folder / "back").read_bytes() == block.read_bytes()
    assert "opens '" in log  # memkvd's own lines come out where the agent's do


def test_a_pool_runs_under_the_profile(tmp_path: Path) -> None:
    a_block_goes_round(tmp_path, control=PROFILE, node=PROFILE)


def test_without_io_uring_a_node_says_what_to_do(tmp_path: Path) -> None:
    rules = profile()
    for rule in rules["syscalls"]:
        rule["names"] = [name for name in rule["names"] if not name.startswith("io_uring_")]
    poorer = tmp_path / "poorer.json"
    poorer.write_text(json.dumps(rules))
    with pytest.raises(AssertionError, match="seccompProfile"), pool(tmp_path, node_under=poorer):
        pass


def test_the_profile_forbids_what_gives_more() -> None:
    tried = ran(sys.executable, "-c", TRIES, profile=PROFILE)
    assert (tried.returncode, tried.stdout) == (0, "threads start\n"), tried.stderr
    assert names(profile()).isdisjoint(FORBIDDEN)
    assert profile()["defaultAction"] == "SCMP_ACT_ERRNO"
    # Without the profile the same is not refused, or this test would prove nothing.
    assert ran(sys.executable, "-c", TRIES).returncode != 0


def test_every_call_of_the_profile_is_one() -> None:
    try:
        loaded = confined.library()
    except OSError as error:
        pytest.skip(f"there is no {confined.LIBRARY} here: {error}")
    newer = {"fchmodat2", "futex_requeue", "futex_wait", "futex_wake"}  # than Debian 12's library
    unknown = {
        name for name in names(profile()) if confined.number(loaded, name) == confined.UNKNOWN
    }
    assert unknown <= newer
    assert confined.number(loaded, "io_uring_setp") == confined.UNKNOWN


# ---- systemd


def systemd_sets() -> dict[str, list[str]]:
    """The sets of calls that this systemd knows."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    said = subprocess.run(
        [analyze, "syscall-filter", "--no-pager"], check=True, capture_output=True, text=True
    ).stdout
    sets: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith("@"):
            inside = sets.setdefault(line.strip(), [])
        elif line.startswith("#"):
            break  # what no set has
        elif line.strip() and not line.strip().startswith("#"):
            inside.append(line.strip())
    return sets


def expanded(sets: dict[str, list[str]], words: list[str]) -> set[str]:
    found: set[str] = set()
    for word in words:
        found |= expanded(sets, sets[word]) if word.startswith("@") else {word}
    return found


def of_unit(unit: Path) -> dict[str, Any]:
    """The profile that systemd makes of a unit's SystemCallFilter lines."""
    sets = systemd_sets()
    lines = re.findall(r"^SystemCallFilter=(.+)$", unit.read_text(), re.MULTILINE)
    allowed = expanded(sets, ["@default"])
    for line in lines:
        words = expanded(sets, line.removeprefix("~").split())
        allowed = allowed - words if line.startswith("~") else allowed | words
    assert "SystemCallErrorNumber=EPERM" in unit.read_text()
    rules = [{"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"}]
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": rules}


def test_a_pool_runs_under_what_systemd_allows(tmp_path: Path) -> None:
    filters = {}
    for unit in ("memkv-control.service", "memkv-node@.service"):
        rules = of_unit(DEPLOY / "systemd" / unit)
        assert 200 < len(names(rules)) < 400
        assert names(rules).isdisjoint({"mount", "ptrace", "bpf", "init_module", "setuid"})
        filters[unit] = tmp_path / f"{unit}.json"
        filters[unit].write_text(json.dumps(rules))
    control, node = filters.values()
    assert "io_uring_setup" in node.read_text()
    a_block_goes_round(tmp_path, control=control, node=node)
