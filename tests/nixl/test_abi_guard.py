"""The guard of the binary interface, on real wheels and on copies that were doctored."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from memkv_nixl import _abi_guard
from memkv_nixl._abi_guard import SLOTS, UnreadableError, judge, judge_file, read_table
from tests.nixl import venvs
from tests.nixl.conftest import PLUGIN, VERSIONS

# The first test may have to make its environment; a case has a limit of its own.
pytestmark = pytest.mark.timeout(900)

TOO_OLD = "0.10.1"  # its table is another one, its API version the same


def plugins_of(site: Path) -> Path:
    (folder,) = site.glob(".nixl_cu12.mesonpy.libs/plugins")
    return folder


@pytest.fixture(scope="module", params=VERSIONS)
def plugins(request: pytest.FixtureRequest) -> Path:
    """The folder of a wheel's own plugins."""
    python = venvs.ensure(request.param)
    (site,) = (python.parent.parent / "lib").glob("python*/site-packages")
    return plugins_of(site)


@pytest.fixture(scope="module")
def posix(plugins: Path) -> Path:
    return plugins / "libplugin_POSIX.so"


def test_the_wheels_are_known(plugins: Path) -> None:
    verdict = judge(plugins)
    assert verdict.ok, verdict.sentence
    assert "libplugin_POSIX.so has the binary interface" in verdict.sentence


def test_every_plugin_of_a_wheel_says_the_same(plugins: Path) -> None:
    for name in ("POSIX", "OBJ", "UCX", "GDS"):
        verdict = judge_file(plugins / f"libplugin_{name}.so")
        assert verdict.ok, verdict.sentence


def test_another_plugin_stands_in_for_posix(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "libplugin_POSIX.so").write_bytes(b"\x7fELF and nothing else")
    shutil.copy(plugins / "libplugin_OBJ.so", tmp_path)
    verdict = judge(tmp_path)
    assert verdict.ok, verdict.sentence
    assert "libplugin_OBJ.so" in verdict.sentence


def test_the_table_has_27_slots(posix: Path) -> None:
    size, slots = read_table(posix)
    assert size == _abi_guard.TABLE_BYTES == 16 + 8 * len(SLOTS)
    assert all(wanted in found for wanted, found in zip(SLOTS, slots, strict=True))


@pytest.fixture(scope="module")
def too_old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an older NIXL's packages."""
    site = tmp_path_factory.mktemp("too-old")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--target", str(site), f"nixl-cu12=={TOO_OLD}"]
    subprocess.run(command, check=True)
    return site


def test_an_older_nixl_is_refused(too_old: Path) -> None:
    verdict = judge(plugins_of(too_old))
    assert not verdict.ok
    assert "slot 15 of its table is _ZNK@16createGpuXferReqE" in verdict.sentence
    assert "Install NIXL 1.0 to 1.5" in verdict.sentence


def test_the_plugin_itself_refuses_an_older_nixl(too_old: Path, plugin: Path) -> None:
    """As when our wheel lies beside a NIXL of another time and nobody calls register()."""
    shutil.copy(plugin, plugins_of(too_old) / PLUGIN)
    code = (
        "from nixl_cu12._api import nixl_agent, nixl_agent_config\n"
        "agent = nixl_agent('agent', nixl_agent_config(backends=[]))\n"
        "assert 'MEMKV' not in agent.get_plugin_list()\n"
        "try:\n"
        "    agent.create_backend('MEMKV', {'nodes': '127.0.0.1:1'})\n"
        "except Exception as error:\n"
        "    print('refused:', type(error).__name__)\n"
    )
    # The oldest NIXL's environment has the PyTorch that this one imports.
    done = subprocess.run(
        [str(venvs.ensure(venvs.OLDEST)), "-c", code],
        env={**os.environ, "PYTHONPATH": str(too_old)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "refused: nixl" in done.stdout, done.stdout
    assert "MEMKV is not loaded: this NIXL has a binary interface" in done.stderr
    assert "slot 15 of its table is _ZNK@16createGpuXferReqE" in done.stderr
    assert "Install NIXL 1.0 to 1.5" in done.stderr


def test_the_plugin_and_the_package_know_one_table(repo: Path) -> None:
    text = (repo / "plugin_src/nixl/abi_slots.h").read_text(encoding="utf-8")
    rows = text.split("kSlots = {")[1].split("};")[0].split(",")
    spelled = tuple("".join(re.findall(r'"([^"]*)"', row)) for row in rows if row.strip())
    assert spelled == SLOTS


def relocations(data: bytes) -> dict[int, int]:
    """Where in the file the relocation stands that fills an address."""
    (start,) = struct.unpack_from("<Q", data, 40)
    entry, count, _ = struct.unpack_from("<HHH", data, 58)
    found = {}
    for number in range(count):
        fields = struct.unpack_from("<IIQQQQIIQQ", data, start + number * entry)
        if fields[1] == 4:  # SHT_RELA
            for at in range(fields[4], fields[4] + fields[5], 24):
                found[struct.unpack_from("<Q", data, at)[0]] = at
    return found


def table_address(path: Path, name: str) -> int:
    return _abi_guard._Image(path.read_bytes()).symbols[name].address


def test_a_doctored_copy_is_refused(posix: Path, tmp_path: Path) -> None:
    """Two slots change places, as when somebody puts a function into the middle."""
    data = bytearray(posix.read_bytes())
    table = table_address(posix, "_ZTV15nixlPosixEngine")
    where = relocations(bytes(data))
    first, second = (where[table + 16 + 8 * slot] for slot in (13, 14))
    one, other = data[first : first + 8], data[second : second + 8]
    data[first : first + 8], data[second : second + 8] = other, one
    copy = tmp_path / "libplugin_POSIX.so"
    copy.write_bytes(data)
    verdict = judge(tmp_path)
    assert not verdict.ok
    assert "slot 13 of its table is _ZNK@11releaseReqHEP15nixlBackendReqH" in verdict.sentence
    assert str(copy) in verdict.sentence


def test_a_table_of_another_size_is_refused(posix: Path, tmp_path: Path) -> None:
    data = bytearray(posix.read_bytes())
    address = table_address(posix, _abi_guard.BASE)
    grown = struct.pack("<QQ", address, _abi_guard.TABLE_BYTES + 8)
    found = bytes(data).replace(struct.pack("<QQ", address, _abi_guard.TABLE_BYTES), grown)
    assert found != bytes(data)
    (tmp_path / "libplugin_POSIX.so").write_bytes(found)
    verdict = judge(tmp_path)
    assert not verdict.ok
    assert "its table has 240 bytes, not 232" in verdict.sentence


def test_what_cannot_be_read_is_refused(posix: Path, tmp_path: Path) -> None:
    verdict = judge(tmp_path)
    assert not verdict.ok
    assert "cannot tell whether this NIXL fits: there is none of POSIX" in verdict.sentence
    whole = posix.read_bytes()
    copy = tmp_path / "libplugin_POSIX.so"
    for wrong in (b"", b"#!/bin/sh\n", whole[:4096], whole[: len(whole) // 2]):
        copy.write_bytes(wrong)
        with pytest.raises(UnreadableError):
            read_table(copy)
        assert not judge(tmp_path).ok
    copy.write_bytes(whole[:4] + b"\x01" + whole[5:])  # 32 bit
    assert "it is not 64-bit little-endian ELF" in judge(tmp_path).sentence


def test_a_library_without_a_backend_is_not_read(plugins: Path) -> None:
    with pytest.raises(UnreadableError, match="has no _ZTV17nixlBackendEngine"):
        read_table(plugins.parent / "libserdes.so")
