"""
The native client of MemKV-NIXL; memkv_nixl's own modules are the public face.
"""

from collections.abc import Sequence


KEY_BYTES_MAX: int = 512

BLOCK_BYTES_MAX: int = 67108864

WIRE_VERSION: int = 1

class Request:
    """
    A request under way; dropping it cancels it and waits until it is quiet.
    """

    @property
    def done(self) -> bool:
        """True when every block has a code."""

    def wait(self, timeout_ms: int) -> bool:
        """Waits at most so long, without the GIL; True when the request is over."""

    def wait_held(self, timeout_ms: int) -> bool:
        """Of a held put: waits until every block is with its node or has a code."""

    def release(self) -> None:
        """Of a held put: its blocks become visible."""

    def cancel(self) -> None:
        """Asks it to end soon; wait() still has to be called."""

    def codes(self) -> list[int]:
        """A code's number per block, in the order given."""

    def matches(self) -> list[tuple[int, int, int]]:
        """
        Of a match: (code, where, length) per block; where is 0 absent, 1 flash, 2 dram.
        """

class Client:
    """One pool of store nodes. Safe from any thread."""

    def __init__(self, nodes: Sequence[str], *, token_file: str = '', name: str = 'memkv', timeout_ms: int = 0, follow: bool = True, tls_ca: str = '', tls_cert: str = '', tls_key: str = '', tls_server_name: str = '') -> None: ...

    def put(self, namespace: bytes, keys: Sequence[bytes], buffers: Sequence[object], *, groups: Sequence[bytes] = [], depths: Sequence[int] = [], recompute_costs: Sequence[int] = [], group_prints: Sequence[tuple[int, int]] = [], ages: Sequence[int] = [], hold: bool = False, generation: int = 0, timeout_ms: int = 0) -> Request:
        """Puts whole blocks out of any contiguous buffers."""

    def get(self, namespace: bytes, keys: Sequence[bytes], buffers: Sequence[object], *, groups: Sequence[bytes] = [], offsets: Sequence[int] = [], generation: int = 0, timeout_ms: int = 0) -> Request:
        """Fills writable contiguous buffers with exactly their length of bytes."""

    def match(self, namespace: bytes, keys: Sequence[bytes], *, groups: Sequence[bytes] = [], generation: int = 0, hold_ms: int = 0, timeout_ms: int = 0) -> Request:
        """Which of these blocks are there?"""

    def drop(self, namespace: bytes, keys: Sequence[bytes], *, groups: Sequence[bytes] = [], generation: int = 0, timeout_ms: int = 0) -> Request:
        """Takes blocks out; ok means that no restart brings them back."""

    def stat(self, node: int, timeout_ms: int) -> str:
        """One node's numbers: lines of `name value`."""

    def list_blocks(self, node: int, cursor: int, *, count: int = 256, reads_min: int = 0, mark_not: int = 0, copies_min: int = 0, dram: bool = False, timeout_ms: int = 0) -> tuple[int, list[tuple[bytes, int, bytes, int, int, tuple[int, int], int, int, int, int, int]]]:
        """
        LIST: the next cursor, and per block (namespace, generation, key, incarnation, length, group print, depth, recompute cost, age in seconds, reads, mark).
        """

    def mark(self, node: int, namespace: bytes, generation: int, key: bytes, incarnation: int, mark: int, *, timeout_ms: int = 0) -> int:
        """MARK: the number of the code that answers it."""

    def health(self) -> list[dict[str, int | str]]:
        """A dict per node: address, connected, breaker_open, …"""

    def stats(self) -> dict[str, int]:
        """What this client did, as a dict of numbers."""

    def latencies(self) -> dict[str, tuple[list[int], int, int]]:
        """
        How long requests took, by kind and outcome (get_hit, put_refused, …): how many up to each of latency_bounds_us() and beyond them, microseconds in all, bytes moved.
        """

    def close(self) -> None:
        """Lets go; requests under way keep the connections until they end."""

def crc32c(data: object, seed: int = 0) -> int:
    """CRC32C of a contiguous buffer."""

def group_fingerprint(namespace: bytes, group: bytes) -> tuple[int, int]:
    """(high, low) of a group's place."""

def node_id_of(address: str) -> int:
    """The id that placement knows a node by."""

def place(group: tuple[int, int], nodes: Sequence[tuple[int, int]]) -> int | None:
    """The index of the (id, weight) that a group belongs to, or None."""

def place_copy(group: tuple[int, int], nodes: Sequence[tuple[int, int, int]]) -> int | None:
    """
    The index of the (id, weight, domain) for a group's second copy, or None.
    """

def place_ranked(namespace: bytes, groups: Sequence[bytes], nodes: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """For each group the indices of its best (id, weight), the best first."""

def latency_bounds_us() -> list[int]:
    """
    What Client.latencies() counts up to, in microseconds, in rising order.
    """

def set_log(level: str, json_of: str | None = None) -> None:
    """
    From which level on the client's lines go to standard error: as text or, where a node is named, as its JSON lines.
    """
