"""A command under a seccomp profile as containers use it: confined.py PROFILE COMMAND…

The kernel holds the command and all that it starts to the profile, through libseccomp, which every
Debian has (apt needs it). Profiles are the JSON of the OCI runtime specification.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

LIBRARY = "libseccomp.so.2"
UNKNOWN = -1  # no call of any CPU has this name
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_COMPARE = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}


class _Argument(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint),
        ("compare", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def library() -> Any:
    """libseccomp; OSError where there is none."""
    loaded = ctypes.CDLL(LIBRARY, use_errno=True)
    loaded.seccomp_init.restype = ctypes.c_void_p
    loaded.seccomp_init.argtypes = [ctypes.c_uint32]
    loaded.seccomp_load.argtypes = [ctypes.c_void_p]
    loaded.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Argument),
    ]
    return loaded


def number(loaded: Any, name: str) -> int:
    """Negative for a call that only other CPUs have, UNKNOWN for one that none has."""
    found: int = loaded.seccomp_syscall_resolve_name(name.encode())
    return found


def confine(profile: dict[str, Any]) -> None:
    """From now on, and for good."""
    loaded = library()
    filtered = loaded.seccomp_init(_action(profile["defaultAction"], profile["defaultErrnoRet"]))
    for rule in profile["syscalls"]:
        action = _action(rule["action"], rule.get("errnoRet", 1))
        wanted = [
            _Argument(one["index"], _COMPARE[one["op"]], one["value"], one.get("valueTwo", 0))
            for one in rule.get("args", [])
        ]
        arguments = (_Argument * len(wanted))(*wanted)
        for name in rule["names"]:
            call = number(loaded, name)
            if call < 0:
                continue  # of another CPU
            failed = loaded.seccomp_rule_add_array(filtered, action, call, len(wanted), arguments)
            assert not failed, (name, failed)
    failed = loaded.seccomp_load(filtered)
    assert not failed, f"seccomp_load: {os.strerror(-failed)}"


def _action(name: str, errno: int) -> int:
    return {"SCMP_ACT_ALLOW": _ALLOW, "SCMP_ACT_ERRNO": _ERRNO | errno}[name]


if __name__ == "__main__":
    confine(json.loads(Path(sys.argv[1]).read_text()))
    os.execvp(sys.argv[2], sys.argv[2:])
