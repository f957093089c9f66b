"""MemKVHiCache: the pool as a storage backend of SGLang's hierarchical cache.

    --enable-hierarchical-cache --hicache-mem-layout page_first --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "memkv", "interface_v1": 1,
      "module_path": "memkv_nixl.kvbm.sglang", "class_name": "MemKVHiCache",
      "hicache_storage_pass_prefix_keys": true, "nodes": "10.0.0.7:9900,10.0.0.8:9900"}'

SGLang copies pages between the GPU and its host pools; this backend moves them between those pools
and the pool of nodes, without a copy of its own. It is called on threads of SGLang's that may wait
(one asks, one loads, one stores), and each call waits until nothing touches its pages any more; the
tier's deadlines bound that. docs/guides/sglang.md is the guide.
"""

from __future__ import annotations

import atexit
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from typing import Any, NoReturn

import sglang.version
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    PoolHitPolicy,
    PoolTransferResult,
)

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import ConfigError, MemKVError, UsageError
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Numbers
from memkv_nixl.kvbm._mooncake_events import Announcer, publishes_itself
from memkv_nixl.kvbm._settings import TierSettings, tier_settings
from memkv_nixl.kvbm._sglang_meaning import Settings, namespace_of
from memkv_nixl.kvbm._sglang_pools import KV, HostPool, Ranks, refuse_layout
from memkv_nixl.kvbm._sglang_runs import refuse_lead, runs_of, sure_runs_of
from memkv_nixl.kvbm._sglang_stats import Reporter
from memkv_nixl.kvbm._sglang_version import engine_name, refuse_unknown_sglang
from memkv_nixl.kvbm._tier import Tier

# Of the extra configuration, what is SGLang's own.
_SGLANGS = ("backend_name", "module_path", "class_name", "interface_v1", "extra_backend_tag")
_PREFIX_MISSING = (
    '"hicache_storage_pass_prefix_keys": true is missing in '
    "--hicache-storage-backend-extra-config; without it nobody can tell which pages belong together"
)
_ANSWER_LATE = 10  # look-up time-outs, after which a question is answered with misses
_log = logging.getLogger(__name__)


@dataclass
class _Move:
    """Pages of one host pool that are loaded or stored."""

    name: Any
    pool: HostPool
    keys: list[bytes]
    runs: Sequence[bytes | None]
    depth: int  # of the first
    pages: list[list[Extent]]


def _refuse_copies(*_: Any, **__: Any) -> NoReturn:
    raise UsageError('MemKVHiCache moves pages without a copy; set "interface_v1": 1')


class MemKVHiCache(HiCacheStorage):  # type: ignore[misc]  # SGLang is not there when this is checked
    """See the module. The keys of the extra configuration are those of `TierSettings`, and
    `events_endpoint`."""

    def __init__(self, storage_config: Any, _more: Any = None) -> None:
        """Raises ConfigError with the sentence that helps; SGLang then does not start.

        `_more` is what SGLang's factory hands over beside it; nothing of it is needed.
        """
        refuse_unknown_sglang(sglang.version.__version__)
        given = dict(storage_config.extra_config or {})
        _refuse_other_interfaces(storage_config, given)
        tag = str(given.get("extra_backend_tag") or "")
        endpoint = given.pop("events_endpoint", "")
        for name in _SGLANGS:
            given.pop(name, None)
        given.setdefault("queue_percent", 100)  # SGLang itself waits for each batch
        self._settings: TierSettings = tier_settings(given)
        refuse_lead(self._settings.lead_blocks)
        said = Settings()
        self._said = said
        _refuse_without_prefix(said)
        self._ranks = _ranks_of(storage_config)
        engine = engine_name(sglang.version.__version__)
        namespace = namespace_of(said, storage_config, self._settings, tag, engine)
        self._prefix = _prefix_of(tag, storage_config.model_name)
        self._announcer = _announcer_at(endpoint, self._ranks)
        self._tier = Tier(self._settings, namespace, None)
        self._reporter = Reporter(bool(storage_config.enable_storage_metrics))
        self._pools: dict[str, HostPool] = {}
        self._retired = False
        self._told: set[str] = set()
        atexit.register(self.close)

    @property
    def numbers(self) -> Numbers:
        """What was done since it was made."""
        return self._tier.numbers

    # ---- SGLang's host pools

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The pool of keys and values. One without memory (DeepSeek V4) only counts slots."""
        super().register_mem_pool_host(mem_pool_host)
        refuse_layout(mem_pool_host)
        if getattr(mem_pool_host, "kv_buffer", None) is not None:
            self._register(KV, mem_pool_host)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """A pool beside it: states of Mamba, a sliding window, a draft model."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        name = str(getattr(host_pool_name, "value", host_pool_name))
        if name != KV:
            self._register(name, host_pool)

    def _register(self, name: str, pool: Any) -> None:
        self._pools[name] = HostPool(name, pool, self._ranks, self._tier)

    # ---- what SGLang asks

    def exists(self, key: str) -> bool:
        """Whether the pool has a page."""
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:  # noqa: ARG002
        """How many pages, from the first on, the pool has; none where computing them is faster."""
        if KV not in self._pools or not keys:
            return 0
        there = self._there([self._pools[KV]], _plain(keys))[0]
        pages = _leading(there)
        return pages if self._wins(pages, {KV: pages}) else 0

    def batch_exists_v2(
        self,
        keys: list[str],
        pool_transfers: Sequence[Any] | None = None,
        extra_info: Any = None,  # noqa: ARG002 - SGLang's signature
    ) -> Any:
        """The same over several pools, each with its own rule.

        As SGLang's own backends answer: also where no prefix can be used, it says how far each pool
        reaches by itself, down to the first one with which nothing is left.
        """
        asked = self._ruled(pool_transfers or ())
        if asked is None or not keys:
            return _result(0, {}, [])
        names = [str(getattr(one.name, "value", one.name)) for one in asked]
        pools = [self._pools[name] for name in (KV, *names) if name in self._pools]
        there = dict(
            zip([pool.name for pool in pools], self._there(pools, _plain(keys)), strict=True)
        )
        physical = getattr(self.mem_pool_host, "kv_buffer", None) is not None
        pages = _leading(there.get(KV, [])) if physical else len(keys)
        hits: dict[Any, int] = {KV: pages} if pages else {}
        usable = list(range(1, pages + 1))
        for one, name in zip(asked, names, strict=True):
            if not usable:
                break
            ends = _ends(one, there.get(name, [False] * len(keys)), pages)
            if ends:
                hits[one.name] = max(ends)
            usable = [end for end in usable if end in ends]
        if not usable or not self._wins(usable[-1], hits):
            return _result(0, hits, [])
        return _result(usable[-1], hits, usable)

    def _ruled(self, transfers: Sequence[Any]) -> list[Any] | None:
        """Those whose pool decides where a prefix may end; None where a rule is not known."""
        rules = {one.hit_policy for one in transfers} - {*_POLICIES}
        unknown = sorted({getattr(rule, "value", str(rule)) for rule in rules} - {_NEVER_DECIDES})
        if unknown:
            self._once(f"SGLang asks by a rule that MemKV does not know: {', '.join(unknown)}")
            return None
        return [one for one in transfers if one.hit_policy in _POLICIES]

    # ---- loads and stores

    def batch_get_v1(
        self,
        keys: list[str],
        host_indices: Any,
        extra_info: Any = None,  # noqa: ARG002 - SGLang's signature
    ) -> list[bool]:
        """Fills pages of the host pool; a verdict for each."""
        if getattr(self.mem_pool_host, "kv_buffer", None) is None:
            return [True] * len(keys)  # slots are counted there, and nothing lies in them
        return self._load([(KV, keys, host_indices)])[KV]

    def batch_set_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Puts pages of the host pool; a verdict for each."""
        if getattr(self.mem_pool_host, "kv_buffer", None) is None:
            return [True] * len(keys)
        return self._store([(KV, keys, host_indices)], extra_info)[KV]

    def batch_get_v2(
        self,
        transfers: Sequence[Any],
        extra_info: Any = None,  # noqa: ARG002 - SGLang's signature
    ) -> dict[Any, list[bool]]:
        """Fills pages of several host pools."""
        return self._load([(one.name, one.keys or [], one.host_indices) for one in transfers])

    def batch_set_v2(
        self, transfers: Sequence[Any], extra_info: Any = None
    ) -> dict[Any, list[bool]]:
        """Puts pages of several host pools."""
        wanted = [(one.name, one.keys or [], one.host_indices) for one in transfers]
        return self._store(wanted, extra_info)

    # Pages move without a copy; these would make one, and are not called with interface_v1.
    get = set = batch_get = batch_set = _refuse_copies

    # ---- the rest

    def clear(self) -> None:
        """Clears nothing: the pool is not this engine's alone."""
        _log.warning(
            "MemKV: the pool belongs to all engines and is not cleared. To forget what was stored, "
            'raise "generation" in --hicache-storage-backend-extra-config'
        )

    def get_stats(self) -> Any:
        """What was moved since the last call."""
        return self._reporter.report()

    def close(self) -> None:
        """Lets stores end for a while, then lets go of the host pools."""
        atexit.unregister(self.close)
        self._tier.close()
        if self._announcer is not None:
            self._announcer.close()  # not forgotten: a thread of SGLang's may be about to tell

    # ---- inside

    def _there(self, pools: Sequence[HostPool], keys: list[bytes]) -> list[list[bool]]:
        """For each pool, which pages are there; the router is told."""
        runs = self._located(pools, keys)
        there = [[run is not None for run in pool] for pool in runs]
        for pool, has in zip(pools, there, strict=True):
            if pool.name == KV and self._tier.open:
                self._tell(pool, keys, has)
        return there

    def _located(self, pools: Sequence[HostPool], keys: list[bytes]) -> list[list[bytes | None]]:
        """For each pool and page, under which run the pool of nodes has it; None: not there.

        Where the run is not sure, every node is asked.
        """
        if self._retire() or not self._tier.open:
            return [[None] * len(keys) for _ in pools]
        sure = sure_runs_of(keys, self._settings.group_blocks)
        everywhere = self._tier.groups_by_node
        candidates = [(run,) if run is not None else everywhere for run in sure]
        blocks = [
            Block(key + part, run, 0)
            for pool in pools
            for key, runs in zip(keys, candidates, strict=True)
            for run in runs
            for part in pool.keys
        ]
        found = iter(self._ask(blocks))
        located: list[list[bytes | None]] = []
        for pool in pools:
            runs_of_pages: list[bytes | None] = []
            for runs in candidates:
                holders = [run for run, has in _by_run(runs, len(pool.keys), found) if has]
                runs_of_pages.append(holders[0] if holders else None)
            located.append(runs_of_pages)
        return located

    def _ask(self, blocks: list[Block]) -> Sequence[bool]:
        patience = _ANSWER_LATE * self._settings.lookup_timeout_ms / 1000
        try:
            return self._tier.look_up(blocks).result(patience).there
        except LateError:
            return [False] * len(blocks)

    def _wins(self, pages: int, hits: Mapping[Any, int]) -> bool:
        """Whether loading so many pages beats computing them."""
        size = 0
        for name, count in hits.items():
            pool = self._pools.get(str(getattr(name, "value", name)))
            size += min(count, pages) * pool.page_bytes if pool is not None else 0
        if pages and not self._tier.worth_loading(size, pages * self._page_tokens):
            self._tier.decline(pages)
            return False
        return True

    @property
    def _page_tokens(self) -> int:
        tokens: int = getattr(self.mem_pool_host, "page_size", 1)
        return tokens

    def _load(self, wanted: Sequence[tuple[Any, list[str], Any]]) -> dict[Any, list[bool]]:
        results, moves = self._moves(wanted, storing=False)
        for move in moves:
            move.runs = self._runs_to_read(move)
        blocks, extents, owners = _expanded(moves)
        if blocks:
            tokens = max(len(move.keys) for move in moves) * self._page_tokens
            moved = self._tier.load(blocks, extents, tokens).result()
            _judge(results, moves, owners, moved.done)
            self._reporter.moved(True, _pages_done(results), moved)
        return results

    def _runs_to_read(self, move: _Move) -> Sequence[bytes | None]:
        """Where each page lies; asked where nobody can know."""
        runs = sure_runs_of(move.keys, self._settings.group_blocks)
        unsure = next((i for i, run in enumerate(runs) if run is not None), len(runs))
        if not unsure:
            return runs
        return [*self._located([move.pool], move.keys[:unsure])[0], *runs[unsure:]]

    def _store(
        self, wanted: Sequence[tuple[Any, list[str], Any]], extra_info: Any
    ) -> dict[Any, list[bool]]:
        prefix = getattr(extra_info, "prefix_keys", None)
        results, moves = self._moves(wanted, storing=True)
        if prefix is None:
            self._once(f"{_PREFIX_MISSING}. Nothing is stored")
            return results
        before = _plain(prefix)
        for move in moves:
            move.runs = runs_of(before, move.keys, self._settings.group_blocks)
            move.depth = len(before)
        blocks, extents, owners = _expanded(moves)
        if blocks:
            tokens = self._page_tokens // max(len(moves[0].pool.keys), 1)
            moved = self._tier.store(blocks, extents, tokens).result()
            _judge(results, moves, owners, moved.done)
            self._reporter.moved(False, _pages_done(results), moved)
            for move in moves:
                if move.pool.name == KV:
                    good = [k for k, ok in zip(move.keys, results[move.name], strict=True) if ok]
                    self._tell(move.pool, good, [True] * len(good))
        return results

    def _moves(
        self, wanted: Sequence[tuple[Any, list[str], Any]], *, storing: bool
    ) -> tuple[dict[Any, list[bool]], list[_Move]]:
        """The verdicts so far, and what is to be moved for the others."""
        results: dict[Any, list[bool]] = {}
        moves: list[_Move] = []
        retired = self._retire()
        for name, keys, indices in wanted:
            pool = self._pools.get(str(getattr(name, "value", name)))
            results[name] = [False] * len(keys)
            if pool is None:
                self._once(f"SGLang names a host pool that it never registered: {name}")
            elif indices is None or len(indices) != len(keys) * pool.page_size:
                self._once(f"SGLang's slots of the {name} pool do not fit its pages")
            elif storing and not pool.stores:
                results[name] = [True] * len(keys)  # another rank stores what all hold alike
            elif keys and not retired and (pages := self._pages(pool, indices)) is not None:
                moves.append(_Move(name, pool, _plain(keys), [], 0, pages))
        return results, moves

    def _pages(self, pool: HostPool, indices: Any) -> list[list[Extent]] | None:
        """Where pages lie; None where SGLang's word for it cannot be taken. What is raised here
        would end SGLang's thread for all of its storage."""
        try:
            return pool.pages(indices)
        except (MemKVError, ValueError, IndexError, NotImplementedError) as error:
            self._once(f"{error}. Such pages are neither stored nor fetched")
            return None

    def _retire(self) -> bool:
        """Whether SGLang was given other weights, after which its pages mean something else."""
        if not self._retired and self._said.weights_changed:
            self._retired = True
            _log.error(
                "MemKV: SGLang was given other weights while it runs, and pages of the old ones "
                "must not be mixed with theirs. The pool is left alone until SGLang is restarted"
            )
        return self._retired

    def _tell(self, pool: HostPool, keys: Sequence[bytes], there: Sequence[bool]) -> None:
        """Lets the router know which pages the pool has."""
        names = pool.announced
        if self._announcer is None or not names:
            return
        said: tuple[list[str], list[str]] = ([], [])
        for key, has in zip(keys, there, strict=True):
            page = self._prefix + key.decode()
            said[0 if has else 1].extend(page + name for name in names)
        self._announcer.tell(*said)

    def _once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            _log.error("MemKV: %s", sentence)


_POLICIES = (PoolHitPolicy.ALL_PAGES, PoolHitPolicy.TRAILING_PAGES)
_NEVER_DECIDES = "block_groups"  # of 0.5.23: such a pool shortens no prefix, and may go unsaid


def _refuse_other_interfaces(storage_config: Any, given: Mapping[str, Any]) -> None:
    if "module_path" in given and not given.get("interface_v1"):
        raise ConfigError(
            '"interface_v1": 1 is missing in --hicache-storage-backend-extra-config; without it '
            "SGLang copies every page twice"
        )
    if getattr(storage_config, "dcp_size", 1) > 1:
        raise ConfigError("MemKVHiCache does not know --dcp-size beyond 1; run SGLang without it")


def _refuse_without_prefix(said: Settings) -> None:
    """Raises ConfigError; where the backend is attached later, it shows when it stores."""
    extra = said["hicache_storage_backend_extra_config"]
    if isinstance(extra, str) and not extra.startswith("@"):
        compact = extra.replace(" ", "").replace("\n", "")
        if '"hicache_storage_pass_prefix_keys":true' not in compact:
            raise ConfigError(_PREFIX_MISSING)


def _ranks_of(storage: Any) -> Ranks:
    return Ranks(
        tp=storage.tp_rank,
        tp_size=storage.tp_size,
        pp=storage.pp_rank,
        pp_size=storage.pp_size,
        cp=storage.attn_cp_rank,
        cp_size=storage.attn_cp_size,
        mla=storage.is_mla_model,
    )


def _prefix_of(tag: str, model_name: str | None) -> str:
    """What Dynamo's router expects in front of a page's key."""
    said = [tag, (model_name or "").replace("/", "-")]
    return "".join(f"{word}_" for word in said if word)


def _announcer_at(endpoint: Any, ranks: Ranks) -> Announcer | None:
    if not isinstance(endpoint, str):
        raise ConfigError(f"events_endpoint: {endpoint!r} is not text")
    if not endpoint:
        return None
    if ranks.tp_size * ranks.pp_size > 1 and publishes_itself(endpoint):
        raise ConfigError(
            f"events_endpoint: {endpoint} can be had by one process, and this engine has "
            f"{ranks.tp_size * ranks.pp_size}. Run python -m memkv_nixl.kvbm.mooncake_relay and "
            "write where it listens"
        )
    return Announcer(endpoint)


def _by_run(runs: Sequence[bytes], parts: int, found: Iterator[bool]) -> list[tuple[bytes, bool]]:
    """For each run that a page was asked for under, whether all its parts are there."""
    return [(run, all(list(itertools.islice(found, parts)))) for run in runs]


def _plain(keys: Sequence[str]) -> list[bytes]:
    return [key.encode() for key in keys]


def _leading(there: Sequence[bool]) -> int:
    return next((i for i, has in enumerate(there) if not has), len(there))


def _ends(transfer: Any, there: Sequence[bool], pages: int) -> set[int]:
    """At how many pages a prefix may end, as far as one pool goes."""
    if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
        return set(range(1, min(_leading(there), pages) + 1))
    window = max(1, len(transfer.keys or ()))
    return {end for end in range(1, pages + 1) if all(there[max(0, end - window) : end])}


def _result(pages: int, hits: dict[Any, int], usable: list[int]) -> Any:
    fields = PoolTransferResult.__dataclass_fields__
    more = {"restorable_prefix_pages": usable} if "restorable_prefix_pages" in fields else {}
    return PoolTransferResult(pages, hits, **more)


def _expanded(moves: Sequence[_Move]) -> tuple[list[Block], list[Extent], list[tuple[int, int]]]:
    """The blocks of all pages that are to be moved, their memory, and which page each is of."""
    blocks: list[Block] = []
    extents: list[Extent] = []
    owners: list[tuple[int, int]] = []
    for i, move in enumerate(moves):
        for page, (key, run) in enumerate(zip(move.keys, move.runs, strict=True)):
            if run is None:
                continue
            for part, extent in zip(move.pool.keys, move.pages[page], strict=True):
                blocks.append(Block(key + part, run, move.depth + page))
                extents.append(extent)
                owners.append((i, page))
    return blocks, extents, owners


def _judge(
    results: dict[Any, list[bool]],
    moves: Sequence[_Move],
    owners: Sequence[tuple[int, int]],
    done: Sequence[bool],
) -> None:
    """A page is done where all of its blocks are."""
    failed = {owner for owner, good in zip(owners, done, strict=True) if not good}
    for owner in set(owners) - failed:
        results[moves[owner[0]].name][owner[1]] = True


def _pages_done(results: Mapping[Any, Sequence[bool]]) -> int:
    return max((sum(done) for done in results.values()), default=0)
