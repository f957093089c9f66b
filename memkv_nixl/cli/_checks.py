"""The doctor's checks of the machine: each gives a line, and how to mend what is wrong."""

from __future__ import annotations

import ctypes
import errno
import importlib
import mmap
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from memkv_nixl import __version__
from memkv_nixl._errors import MemKVError
from memkv_nixl._sizes import format_size

State = Literal["ok", "warning", "error"]

_PAGE = 4096
_LOCKED_MIN = 64 << 20
_DESCRIPTORS_MIN = 4096
_SYS_IO_URING_SETUP = 425
_PCI = Path("/sys/bus/pci/devices")
_VENDOR_NVIDIA = "0x10de"
_VENDOR_MELLANOX = "0x15b3"
_KERNEL = "5.10"  # as setup_failed of plugin_src/device/uring_device.cpp says
_UNWRITABLE = "cannot be written to"
_TIME_ERROR = 5  # adjtimex: the clock is not synchronised


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    state: State
    text: str
    mend: str = ""

    def document(self) -> dict[str, Any]:
        """As --json says it."""
        return asdict(self)


def check_machine(folder: Path, listen: str) -> Iterator[Check]:
    """Everything but NIXL, for a node that keeps its blocks in `folder` and serves on `listen`."""
    yield _python()
    yield _native()
    yield _memkvd()
    yield _io_uring()
    yield _direct_io(folder)
    yield _huge_pages()
    yield locked_memory()
    yield _descriptors()
    yield _rdma()
    yield _nvme()
    yield _gpu()
    yield _port(listen)
    yield _clock()


def _python() -> Check:
    # An older one than 3.10 does not get as far as this.
    return Check("python", "ok", f"Python {platform.python_version()} in {sys.prefix}")


def _native() -> Check:
    try:
        importlib.import_module("memkv_nixl._native")
    except ImportError as error:
        return Check(
            "client",
            "error",
            f"memkv_nixl._native cannot be loaded: {error}",
            "in a checkout run ./dev build with this Python, else install memkv-nixl again",
        )
    return Check("client", "ok", f"memkv-nixl {__version__}, native client loads")


def _memkvd() -> Check:
    from memkv_nixl._daemon import memkvd_path

    try:
        binary = memkvd_path()
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (MemKVError, OSError, subprocess.TimeoutExpired) as error:
        return Check("memkvd", "error", str(error), "install memkv-nixl again")
    if said.returncode != 0:
        words = said.stderr.strip() or f"exit status {said.returncode}"
        return Check(
            "memkvd",
            "error",
            f"{binary} does not run: {words}",
            "the README names the distributions it runs on; elsewhere build it: ./dev build",
        )
    return Check("memkvd", "ok", f"{said.stdout.strip()} at {binary}")


def _io_uring() -> Check:
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(256)
    descriptor = libc.syscall(_SYS_IO_URING_SETUP, 4, parameters)
    if descriptor >= 0:
        os.close(descriptor)
        return Check("io_uring", "ok", f"works on kernel {platform.release()}")
    code = ctypes.get_errno()
    text = f"refused by kernel {platform.release()}: {os.strerror(code)}"
    mend = f"store nodes need it: a kernel of {_KERNEL} or newer; an engine's machine does not"
    if code in (errno.EPERM, errno.EACCES):
        mend = (
            "sysctl kernel.io_uring_disabled=0, and in a container a seccomp profile that allows "
            "io_uring_setup, io_uring_enter and io_uring_register; store nodes need it, "
            "an engine's machine does not"
        )
    return Check("io_uring", "warning", text, mend)


def direct_io_refusal(folder: Path) -> str:
    """Why files in this folder cannot be used with O_DIRECT; empty where they can."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".memkv-doctor-", dir=folder)
    except OSError as error:
        return f"{_UNWRITABLE}: {error.strerror}"
    os.close(descriptor)
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, _PAGE) as page:  # aligned, as O_DIRECT wants it
                os.pwrite(descriptor, page, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"has no O_DIRECT: {error.strerror}"
    finally:
        Path(name).unlink()
    return ""


def _direct_io(folder: Path) -> Check:
    if refusal := direct_io_refusal(folder):
        mend = (
            "name a folder of a local ext4 or xfs with --dir, or run nodes with --buffered (slower)"
        )
        if refusal.startswith(_UNWRITABLE):
            mend = "name a folder with --dir that this user can write to"
        return Check("O_DIRECT", "warning", f"{folder.absolute()}: {refusal}", mend)
    free = shutil.disk_usage(folder).free
    return Check("O_DIRECT", "ok", f"{folder.absolute()}: works, {format_size(free)} free")


def _huge_pages() -> Check:
    reserved = meminfo("HugePages_Free") * meminfo("Hugepagesize") * 1024
    if reserved:
        return Check("huge pages", "ok", f"{format_size(reserved)} reserved and free")
    transparent = _read(Path("/sys/kernel/mm/transparent_hugepage/enabled"))
    if "[always]" in transparent or "[madvise]" in transparent:
        return Check("huge pages", "ok", "none reserved; transparent ones are on")
    return Check(
        "huge pages",
        "warning",
        "none reserved, and transparent ones are off: a node's DRAM is slower to reach",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or reserve some: "
        "sysctl vm.nr_hugepages=N (2 MiB each)",
    )


def locked_memory() -> Check:
    """How much memory a process may lock."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Check("locked memory", "ok", "unlimited")
    text = f"at most {format_size(soft)}"
    if soft >= _LOCKED_MIN:
        return Check("locked memory", "ok", text)
    return Check(
        "locked memory",
        "warning",
        text + ": enough over TCP; RDMA, which this version has not, needs all blocks locked",
        "ulimit -l unlimited; for a service LimitMEMLOCK=infinity",
    )


def _descriptors() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS_MIN:
        return Check("descriptors", "ok", f"up to {hard}")
    return Check(
        "descriptors",
        "warning",
        f"at most {hard} open files: a node holds fewer peers than it could",
        f"ulimit -n {_DESCRIPTORS_MIN}; for a service LimitNOFILE={_DESCRIPTORS_MIN}",
    )


def _rdma() -> Check:
    devices = _names(Path("/sys/class/infiniband"))
    if devices:
        return Check("RDMA", "ok", f"{', '.join(devices)} (this version uses TCP)")
    if _on_pci(_VENDOR_MELLANOX, "0x02"):
        return Check(
            "RDMA",
            "warning",
            "there is an NVIDIA NIC, but no device in /sys/class/infiniband",
            "modprobe mlx5_ib; this version uses TCP",
        )
    return Check("RDMA", "ok", "no device; blocks travel over TCP")


def _nvme() -> Check:
    devices = [name for name in _names(Path("/sys/block")) if name.startswith("nvme")]
    return Check("NVMe", "ok", ", ".join(devices) or "none; a store node here uses other disks")


def _gpu() -> Check:
    gpus = _names(Path("/proc/driver/nvidia/gpus"))
    if gpus:
        return Check("GPU", "ok", f"{len(gpus)} by NVIDIA; blocks move through host memory")
    if _on_pci(_VENDOR_NVIDIA, "0x03"):
        return Check(
            "GPU",
            "warning",
            "there is an NVIDIA GPU, but its driver is not loaded",
            "install NVIDIA's driver, where this machine is to run an engine",
        )
    return Check("GPU", "ok", "none; a store node needs none")


def _on_pci(vendor: str, kind: str) -> bool:
    """Whether there is a device of this vendor and class on the PCI bus."""
    return any(
        _read(device / "vendor") == vendor and _read(device / "class").startswith(kind)
        for device in map(_PCI.joinpath, _names(_PCI))
    )


def _port(listen: str) -> Check:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        mend = "name an address of this machine as node.listen (memkv node serve --listen)"
        if error.errno == errno.EADDRINUSE:
            mend = (
                "if that is a store node, all is well; else give memkv node serve another --listen"
            )
        elif error.errno == errno.EACCES:
            mend = "give memkv node serve a --listen with a port of 1024 or above"
        text = f"{listen}, where a node of this machine would listen: {error.strerror or error}"
        return Check("port", "warning", text, mend)
    return Check("port", "ok", f"{listen} is free")


def _clock() -> Check:
    source = _read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
    text = f"source {source or 'unknown'}"
    # struct timex is smaller than this; with modes 0 it is only read.
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(1024))
    if state == _TIME_ERROR:
        return Check(
            "clock",
            "warning",
            text + "; not synchronised: log lines of several machines do not line up",
            "run chrony or systemd-timesyncd (in a container: on its host)",
        )
    if source in ("hpet", "acpi_pm", "jiffies"):
        return Check("clock", "warning", text + ", which is slow to read", "boot with tsc=reliable")
    return Check("clock", "ok", text + (", synchronised" if state >= 0 else ""))


def meminfo(name: str) -> int:
    """A number of /proc/meminfo, most of them in KiB."""
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
