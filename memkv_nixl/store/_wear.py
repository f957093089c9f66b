"""How worn a node's drive is, as it says itself: the health page that every NVMe drive has.

Whoever may not ask the drive (that takes root), and whoever has no NVMe drive, is told nothing:
`read_wear` gives None.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

_ADMIN_COMMAND = 0xC0484E41  # NVME_IOCTL_ADMIN_CMD of linux/nvme_ioctl.h
_COMMAND = struct.Struct("<BBHIIIQQIIIIIIIIII")  # struct nvme_admin_cmd
_GET_LOG_PAGE = 0x02
_SMART = 0x02
_SMART_BYTES = 512
_EVERY_NAMESPACE = 0xFFFFFFFF
_DATA_UNIT_BYTES = 512 * 1000
_TIMEOUT_MS = 1000


@dataclass(frozen=True)
class Wear:
    """What the drive says."""

    used_ratio: float
    spare_ratio: float
    bytes_written: int
    media_errors: int


def parse_smart(page: bytes) -> Wear:
    """The fields of NVMe's SMART / Health Information page that are about wear."""
    units = int.from_bytes(page[48:64], "little")
    return Wear(
        used_ratio=page[5] / 100,
        spare_ratio=page[3] / 100,
        bytes_written=units * _DATA_UNIT_BYTES,
        media_errors=int.from_bytes(page[160:176], "little"),
    )


def read_wear(device: str) -> Wear | None:
    """Of the drive that a block device or file lies on; None where it cannot be had."""
    try:
        drive = _drive_of(Path(device))
        return None if drive is None else parse_smart(_smart_page(drive))
    except OSError:
        return None


def _drive_of(path: Path) -> Path | None:
    """/dev/nvme0n1 for what lies on /dev/nvme0n1p2."""
    stat = path.stat()
    number = stat.st_rdev or stat.st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    found = re.search(r"/(nvme\d+n\d+)(?:p\d+)?$", str(block))
    return Path("/dev") / found[1] if found else None


def _smart_page(drive: Path) -> bytes:
    page = ctypes.create_string_buffer(_SMART_BYTES)
    dwords = _SMART_BYTES // 4 - 1
    command = _COMMAND.pack(
        *(_GET_LOG_PAGE, 0, 0, _EVERY_NAMESPACE, 0, 0, 0),
        *(ctypes.addressof(page), 0, _SMART_BYTES),
        *(_SMART | dwords << 16, 0, 0, 0, 0, 0, _TIMEOUT_MS, 0),
    )
    descriptor = os.open(drive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(descriptor, _ADMIN_COMMAND, bytearray(command))
    finally:
        os.close(descriptor)
    if status != 0:
        raise OSError(f"{drive} refused its SMART page with status {status:#x}")
    return page.raw
