"""What KVBM 1.6.1 needs to run without a GPU: its two stand-ins, built, and its environment."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.engines import venvs

VENV = "kvbm-1.6.1"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class StandIns:
    """The folder with libcuda.so.1 and that with NIXL's plugins."""

    libraries: Path
    plugins: Path


def build(folder: Path) -> StandIns:
    """Compiles both stand-ins; NIXL's own POSIX and our MEMKV are beside that for GDS_MT."""
    made = StandIns(folder / "lib", folder / "plugins")
    made.libraries.mkdir(parents=True)
    made.plugins.mkdir()
    shared = ("-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o")
    cuda = [str(made.libraries / "libcuda.so.1"), str(_HERE / "kvbm_libcuda.c"), "-ldl"]
    run("cc", "-std=gnu11", *shared, *cuda)
    gds = [str(made.plugins / "libplugin_GDS_MT.so"), str(_HERE / "kvbm_gds_mt.cpp")]
    run("c++", "-std=c++23", f"-I{venvs.ROOT / 'plugin_src'}", *shared, *gds)
    for plugin in (
        nixl_libraries()[0] / "plugins/libplugin_POSIX.so",
        venvs.ROOT / "memkv_nixl/_plugin/libplugin_MEMKV.so",
    ):
        (made.plugins / plugin.name).symlink_to(plugin)
    return made


def nixl_libraries() -> tuple[Path, Path]:
    """Where NIXL's wheel has its own libraries, and those of others."""
    site = venvs.site_of(venvs.FOLDER / VENV)
    return site / ".nixl_cu12.mesonpy.libs", site / "nixl_cu12.libs"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def environment(
    stand_ins: StandIns, folder: Path, host_blocks: int, disk_blocks: int
) -> dict[str, str]:
    """For one process of KVBM with so many blocks in host memory and on disk."""
    disk = folder / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    found = {
        # NIXL's own plugins, linked to, look for their libraries beside where they are linked from.
        "LD_LIBRARY_PATH": ":".join(map(str, (stand_ins.libraries, *nixl_libraries()))),
        "NIXL_PLUGIN_DIR": str(stand_ins.plugins),
        "MEMKV_TEST_GDS_FAILS": str(folder / "fails"),
        "DYN_KVBM_LEADER_ZMQ_HOST": "127.0.0.1",
        "DYN_KVBM_LEADER_WORKER_INIT_TIMEOUT_SECS": "60",
        "DYN_KVBM_CPU_CACHE_OVERRIDE_NUM_BLOCKS": str(host_blocks),
        # Without a disk tier KVBM takes UCX for the GPU's memory, which needs one.
        "DYN_KVBM_DISK_CACHE_DIR": str(disk),
        "DYN_KVBM_DISK_CACHE_OVERRIDE_NUM_BLOCKS": str(disk_blocks),
        "DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER": "true",
        "DYN_LOG": "warn",
    }
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        found["DYN_KVBM_LEADER_ZMQ_PUB_PORT"] = str(one.getsockname()[1])
        found["DYN_KVBM_LEADER_ZMQ_ACK_PORT"] = str(two.getsockname()[1])
    return found


def inherited(added: dict[str, str]) -> dict[str, str]:
    """This process's environment with that."""
    return {**os.environ, "PYTHONPATH": str(venvs.ROOT), **added}
