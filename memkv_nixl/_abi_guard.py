"""Does this NIXL have the binary interface that libplugin_MEMKV.so is built for?

NIXL calls its backends through the virtual table of one class, and its version number has not
changed when that table did: a plugin for another table is called at the wrong places and crashes.
But every backend that NIXL brings has the table in its file, with the mangled name, and so the
types, of each function. `judge` reads it there, before NIXL loads anything of ours. Sizes of
structures cannot be read; the tests with NIXL's wheels hold those.

The reader knows as much of ELF as that takes (64 bit, little-endian): sections, symbols and the
relocations that fill the table.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BASE = "_ZTV17nixlBackendEngine"
TABLE_BYTES = 232  # two words before the first function, then 27 functions

_STRING = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
_TRANSFER = f"RK14nixl_xfer_op_tRK12nixlDescListI12nixlMetaDescES7_RK{_STRING}"
_OPTIONS = "PK23nixlBackendOptionalArgs"
_PARAMETERS = (
    "ISt13unordered_mapINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESD_St4hashISD_E"
    "St8equal_toISD_ESaISt4pairIKSD_SD_EEEESaISN_EE"
)
_MICROSECONDS = "NSt6chrono8durationIlSt5ratioILl1ELl1000000EEEE"
_COST = "R11nixl_cost_tPK21nixlAgentOptionalArgs"
# Each function as the compiler spells it, with @ for the class.
SLOTS = (
    "_ZN@D1Ev",
    "_ZN@D0Ev",
    "_ZNK@14supportsRemoteEv",
    "_ZNK@13supportsLocalEv",
    "_ZNK@13supportsNotifEv",
    "_ZNK@16getSupportedMemsEv",
    "_ZN@11registerMemERK12nixlBlobDescRK10nixl_mem_tRP13nixlBackendMD",
    "_ZN@13deregisterMemEP13nixlBackendMD",
    f"_ZN@7connectERK{_STRING}",
    f"_ZN@10disconnectERK{_STRING}",
    "_ZN@8unloadMDEP13nixlBackendMD",
    f"_ZNK@8prepXferE{_TRANSFER}RP15nixlBackendReqH{_OPTIONS}",
    f"_ZNK@8postXferE{_TRANSFER}RP15nixlBackendReqH{_OPTIONS}",
    "_ZNK@9checkXferEP15nixlBackendReqH",
    "_ZNK@11releaseReqHEP15nixlBackendReqH",
    f"_ZNK@11prepMemViewERK12nixlDescListI18nixlRemoteMetaDescERPv{_OPTIONS}",
    f"_ZNK@11prepMemViewERK12nixlDescListI12nixlMetaDescERPv{_OPTIONS}",
    "_ZNK@14releaseMemViewEPv",
    f"_ZNK@13getPublicDataEPK13nixlBackendMDR{_STRING}",
    f"_ZNK@11getConnInfoER{_STRING}",
    f"_ZN@18loadRemoteConnInfoERK{_STRING}S7_",
    f"_ZN@12loadRemoteMDERK12nixlBlobDescRK10nixl_mem_tRK{_STRING}RP13nixlBackendMD",
    "_ZN@11loadLocalMDEP13nixlBackendMDRS1_",
    f"_ZN@9getNotifsERSt6vectorISt4pairI{_STRING}S7_ESaIS8_EE",
    f"_ZNK@8genNotifERK{_STRING}S7_",
    f"_ZNK@8queryMemERK12nixlDescListI12nixlBlobDescERSt6vectorISt8optional{_PARAMETERS}",
    f"_ZNK@16estimateXferCostE{_TRANSFER}RKP15nixlBackendReqHR{_MICROSECONDS}SP_{_COST}",
)

# Which plugins of NIXL's to read: POSIX is in every build, the others stand in for it.
_PLUGINS = ("POSIX", "OBJ", "UCX", "GDS", "GDS_MT")
_ENGINE_TABLE = re.compile(r"_ZTV\d+nixl\w*Engine")
_FUNCTION_CLASS = re.compile(r"^(_ZNK?)\d+nixl[A-Za-z0-9]*?Engine(?=[0-9D])")


@dataclass(frozen=True)
class Verdict:
    """Whether the plugin may be loaded, and why."""

    ok: bool
    sentence: str


class UnreadableError(Exception):
    """The file does not hold what the guard reads."""


def judge(folder: Path) -> Verdict:
    """The verdict on the NIXL whose own plugins are in this folder."""
    why = f"there is none of {', '.join(_PLUGINS)} in {folder}"
    for name in _PLUGINS:
        path = folder / f"libplugin_{name}.so"
        if not path.is_file():
            continue
        try:
            return judge_file(path)
        except UnreadableError as error:
            why = f"{path}: {error}"
    return Verdict(
        False,
        f"cannot tell whether this NIXL fits: {why}. memkv-nixl is built for NIXL 1.0 to 1.5; "
        "install one of these from PyPI",
    )


def judge_file(path: Path) -> Verdict:
    """The verdict on one of NIXL's own plugins; raises UnreadableError."""
    size, slots = read_table(path)
    for number, wanted in enumerate(SLOTS):
        found = slots[number] if number < len(slots) else frozenset({"nothing"})
        if wanted not in found:
            return _refusal(path, f"slot {number} of its table is {_spoken(found)}, not {wanted}")
    if size != TABLE_BYTES:
        return _refusal(path, f"its table has {size} bytes, not {TABLE_BYTES}")
    return Verdict(True, f"{path.name} has the binary interface that MEMKV is built for")


def _refusal(path: Path, why: str) -> Verdict:
    return Verdict(
        False,
        f"this NIXL has a binary interface that MEMKV is not built for: {why} ({path}). "
        "Install NIXL 1.0 to 1.5, or a memkv-nixl that knows this NIXL",
    )


def _spoken(found: frozenset[str]) -> str:
    return " or ".join(sorted(found)) or "nothing"


def read_table(path: Path) -> tuple[int, list[frozenset[str]]]:
    """Bytes of the base class's table, and per slot of a backend's table the names it may have.

    A backend may add functions of its own behind those of the base class.
    """
    try:
        image = _Image(path.read_bytes())
    except (OSError, struct.error, IndexError, ValueError) as error:
        raise UnreadableError(f"no ELF file this guard can read ({error})") from error
    base = image.symbols.get(BASE)
    derived = [
        symbol
        for name, symbol in sorted(image.symbols.items())
        if name != BASE and _ENGINE_TABLE.fullmatch(name) and symbol.size
    ]
    if base is None or not derived:
        raise UnreadableError(f"it has no {BASE} with a backend's beside it")
    table = min(derived, key=lambda symbol: symbol.size)
    slots = []
    for offset in range(16, table.size, 8):
        names = image.names_at(table.address + offset)
        slots.append(frozenset(_FUNCTION_CLASS.sub(r"\1@", name) for name in names))
    return base.size, slots


@dataclass(frozen=True)
class _Symbol:
    address: int
    size: int


@dataclass(frozen=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


_SYMTAB, _RELA, _DYNSYM = 2, 4, 11
_X86_64, _AARCH64 = 62, 183
# Per machine: relocations that name a symbol, and those that only hold an address.
_KINDS = {_X86_64: (1, 8), _AARCH64: (257, 1027)}


class _Image:
    """An ELF file's symbols, and what its relocations put where."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("it is not 64-bit little-endian ELF")
        self._data = data
        (machine,) = struct.unpack_from("<H", data, 18)
        if machine not in _KINDS:
            raise ValueError(f"machine {machine}")
        self._kinds = _KINDS[machine]
        self._sections = list(self._read_sections())
        self.symbols: dict[str, _Symbol] = {}
        self._by_address: dict[int, set[str]] = {}
        self._put: dict[int, set[str] | int] = {}
        for section in self._sections:
            if section.kind in (_DYNSYM, _SYMTAB):
                for name, symbol in self._read_symbols(section):
                    if symbol.address:
                        self.symbols[name] = symbol
                        self._by_address.setdefault(symbol.address, set()).add(name)
        for section in self._sections:
            if section.kind == _RELA:
                self._read_relocations(section)

    def names_at(self, place: int) -> set[str]:
        """What the function may be called whose address a relocation puts here."""
        put = self._put.get(place, set())
        return self._by_address.get(put, set()) if isinstance(put, int) else put

    def _read_sections(self) -> Iterator[_Section]:
        (start,) = struct.unpack_from("<Q", self._data, 40)
        size, count, _ = struct.unpack_from("<HHH", self._data, 58)
        for number in range(count):
            fields = struct.unpack_from("<IIQQQQIIQQ", self._data, start + number * size)
            yield _Section(kind=fields[1], offset=fields[4], size=fields[5], link=fields[6])

    def _read_symbols(self, section: _Section) -> Iterator[tuple[str, _Symbol]]:
        names = self._sections[section.link]
        for at in range(section.offset, section.offset + section.size, 24):
            name, _, _, _, address, size = struct.unpack_from("<IBBHQQ", self._data, at)
            begin = names.offset + name
            text = self._data[begin : self._data.index(b"\0", begin)]
            yield text.decode("ascii", "replace"), _Symbol(address, size)

    def _read_relocations(self, section: _Section) -> None:
        by_symbol, by_address = self._kinds
        names = [name for name, _ in self._read_symbols(self._sections[section.link])]
        for at in range(section.offset, section.offset + section.size, 24):
            place, info, addend = struct.unpack_from("<QQq", self._data, at)
            if info & 0xFFFFFFFF == by_symbol and addend == 0:
                self._put[place] = {names[info >> 32]}
            elif info & 0xFFFFFFFF == by_address:
                self._put[place] = addend
