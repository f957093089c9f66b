"""MemKVHiCache under SGLang's own factory and host pools, over real nodes; no server is started.

sglang_stand_in.py runs every `case_` here with SGLang's Python and prints a line of JSON: case →
"ok" or what went wrong. test_sglang.py asks for each.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import sglang.version
import torch
import zmq
from sglang.srt.arg_groups.arg_utils import namespace_of
from sglang.srt.mem_cache import hicache_storage
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.runtime_context import get_context
from sglang.srt.server_args import ServerArgs

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._mooncake_events import Announcer, Publisher
from memkv_nixl.kvbm._sglang_fields import meaning_of
from memkv_nixl.store import Cluster
from tests.engines import sglang_controller, sglang_hybrid_cases, sglang_pools, sglang_side
from tests.engines.sglang_pools import LAYERS, PAGE
from tests.engines.sglang_side import (
    Side,
    after,
    content_of,
    keys_of,
    settings_of,
    slots,
    state,
)

BOUND_S = 20.0


class NotHereError(Exception):
    """What a case is about is not in this SGLang."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again; there is no event for what it waits for."""
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {BOUND_S:g} s"


def seed_of(case: str) -> int:
    return sum(case.encode()) * 7919


def moved_between(one: Side, other: Side, pages: int, case: str, first: int = 20) -> None:
    """What one side stores the other loads into other slots, byte by byte."""
    keys = keys_of(pages, seed_of(case))
    one.fill(seed_of(case))
    other.fill(1)
    assert other.backend.batch_exists(keys) == 0
    assert one.put(keys) == [True] * pages
    assert other.backend.batch_exists(keys) == pages
    assert other.get(keys, first) == [True] * pages
    for i in range(pages):
        assert one.page(i) == other.page(first + i), i
    assert one.page(pages) != other.page(first + pages)


def case_mha_pages_come_back() -> None:
    for layout in ("page_first", "page_first_direct"):
        pools = [sglang_pools.mha(128, layout) for _ in range(2)]
        with settings_of(), Side(pools[0]) as one, Side(pools[1]) as other:
            moved_between(one, other, 100, layout)
            assert len(one.inner._tier._port._memory) == 2  # registered once: keys, values
            stats = one.backend.get_stats()
            assert (stats.backup_pgs, stats.prefetch_pgs) == ([100], [])


def case_mla_is_stored_by_one_rank_and_read_by_all() -> None:
    keys = keys_of(40, 11)
    with settings_of(), ExitStack() as stack:
        ranks = [
            stack.enter_context(
                Side(sglang_pools.mla(128), is_mla_model=True, tp_rank=rank, tp_size=2)
            )
            for rank in range(2)
        ]
        ranks[0].fill(3)
        assert ranks[1].put(keys) == [True] * 40  # another rank does it
        assert ranks[0].backend.batch_exists(keys) == 0
        assert ranks[0].put(keys) == [True] * 40
        for rank in ranks:
            assert rank.backend.batch_exists(keys) == 40
            assert rank.get(keys, 50) == [True] * 40
            assert [rank.page(50 + i) for i in range(40)] == [ranks[0].page(i) for i in range(40)]


def case_ranks_have_their_own_shares() -> None:
    keys = keys_of(8, 12)
    with settings_of(tp_size=2), ExitStack() as stack:
        ranks = [stack.enter_context(Side(tp_rank=rank, tp_size=2)) for rank in range(2)]
        ranks[0].fill(4)
        assert all(ranks[0].put(keys))
        assert ranks[1].backend.batch_exists(keys) == 0
        ranks[1].fill(5)
        assert all(ranks[1].put(keys))
        assert ranks[0].get(keys, 10) == [True] * 8
        assert ranks[0].page(10) == ranks[0].page(0) != ranks[1].page(0)


def case_a_prefix_ends_at_the_first_hole() -> None:
    keys = keys_of(30, 13)
    with settings_of(), Side() as side:
        assert all(side.put(keys[:10]))
        assert all(side.put(keys[12:], 12, keys[:12]))
        assert side.backend.batch_exists(keys) == 10
        assert side.backend.batch_exists(keys[12:]) == 18
        assert side.backend.batch_exists(keys[10:]) == 0
        assert side.backend.batch_exists([]) == 0
        assert side.backend.exists(keys[9])
        assert not side.backend.exists(keys[10])
        done = side.get(keys, 40)
        assert [i for i, good in enumerate(done) if not good] == [10, 11]


def case_what_sglang_leaves_out_of_a_prefix_does_not_hide_pages() -> None:
    keys = keys_of(100, 14)
    with settings_of(), Side() as one, Side() as other:
        one.fill(6)
        for first in range(0, 100, 7):  # as prompts grow
            assert all(one.put(keys[first : first + 7], first, keys[:first]))
        for start in (0, 1, 5, 16, 37, 99):
            for told in ([], keys[: start // 2]):
                left = keys[start:]
                assert other.backend.batch_exists(left, after(told)) == 100 - start
                assert all(other.get(left, 0, told))
                assert other.page(0) == one.page(start)
                assert other.page(99 - start) == one.page(99)


def case_slots_that_do_not_fit_are_not_touched() -> None:
    keys = keys_of(4, 17)
    with settings_of(), Side(sglang_pools.mha(64), sglang_pools.mamba(8)) as side:
        assert side.backend.batch_get_v1(keys, slots(0, 3)) == [False] * 4
        assert side.backend.batch_set_v1(keys, slots(0, 3), after([])) == [False] * 4
        unknown = state(keys, range(4))
        unknown.name = PoolName.SWA
        assert side.backend.batch_get_v2([unknown]) == {PoolName.SWA: [False] * 4}


def case_pages_that_lie_nowhere_do_not_end_sglangs_thread() -> None:
    keys = keys_of(2, 18)
    with settings_of(), Side(sglang_pools.mha(64)) as side:
        pool = side.pool
        told = pool.get_page_buffer_meta
        pool.get_page_buffer_meta = lambda slots: ([1 << 44] * len(told(slots)[0]), told(slots)[1])
        assert side.backend.batch_set_v1(keys, slots(0, 2), after([])) == [False] * 2
        assert side.backend.batch_get_v1(keys, slots(0, 2)) == [False] * 2
        del pool.get_page_buffer_meta
        assert side.backend.batch_set_v1(keys, slots(0, 2), after([])) == [True] * 2


def case_sglangs_failure_injector() -> None:
    if not hasattr(hicache_storage, "HiCacheStorageFailureInjector"):
        raise NotHereError("this SGLang has no failure injector")
    os.environ["SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE"] = "0.5"
    keys = keys_of(20, 29)
    verdicts: list[bool] = []
    try:
        with settings_of(), Side() as one, Side() as other:
            assert type(one.backend).__name__ == "HiCacheStorageFailureInjector"
            one.fill(9)
            until(lambda: all(one.put(keys)), "the injector lets a store through")
            for _ in range(30):
                other.fill(10)
                done = other.get(keys, 40)
                verdicts += done
                same = [other.page(40 + i) == one.page(i) for i in range(20)]
                assert same == done, (same, done)
                assert other.backend.batch_exists(keys) in (0, 20)
    finally:
        del os.environ["SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE"]
    assert {*verdicts} == {True, False}


def case_the_store_dies_in_the_middle_of_a_load() -> None:
    keys = keys_of(100, 19)
    with Cluster(1, die_with_parent=True) as cluster, settings_of():
        nodes = ",".join(cluster.addresses)
        large = [sglang_pools.mha(128, heads=64) for _ in range(2)]
        with (
            Side(large[0], tier={"nodes": nodes}) as one,
            Side(large[1], tier={"nodes": nodes}) as other,
        ):
            one.fill(11)
            other.fill(12)
            before = other.page(0)
            assert all(one.put(keys))
            verdicts: list[bool] = []
            loader = threading.Thread(target=lambda: verdicts.extend(other.get(keys)))
            loader.start()
            until(lambda: other.page(0) != before or not loader.is_alive(), "the first bytes")
            cluster.kill_node(0)
            loader.join(BOUND_S)
            assert len(verdicts) == 100
            print(f"{sum(verdicts)} of 100 pages had come")
            for i, good in enumerate(verdicts):
                assert not good or other.page(i) == one.page(i)
            assert not any(other.get(keys))
            until(lambda: not other.inner._tier.open, "the pool is found to be gone")
            began = time.perf_counter()
            assert other.backend.batch_exists(keys) == 0
            assert not any(other.put(keys))
            assert time.perf_counter() - began < 0.05
            cluster.restart_node(0)
            until(lambda: other.inner._tier.open, "the pool is used again")
            until(lambda: all(other.put(keys_of(4, 20))), "and stored to")


def case_a_lost_node_costs_whole_runs() -> None:
    keys = keys_of(128, 21)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(3, die_with_parent=True))
        stack.enter_context(settings_of())
        tier = {"nodes": ",".join(cluster.addresses), "lookup_timeout_ms": 500}
        with Side(tier=tier) as side:
            assert all(side.put(keys))
            cluster.kill_node(1)
            until(lambda: side.backend.batch_exists(keys[:1]) in (0, 1), "it answers")
            there = [side.backend.exists(key) for key in keys]
            assert any(there)
            changes = sum(a != b for a, b in pairwise(there))
            print(f"{sum(there)} of 128 pages are left, in {changes + 1} stretches")
            assert changes < 16  # by the page it would be some 57


@contextmanager
def copied(**changed: Any) -> Iterator[Path]:
    """The model in another folder; with other weights or another configuration."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        shutil.copytree(sglang_side.MODEL, model)
        if changed.pop("weights", False):
            file = next(model.glob("*.safetensors"))
            whole = bytearray(file.read_bytes())
            whole[-1] ^= 1
            file.write_bytes(whole)
        if changed:
            file = model / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
        yield model


def shares(
    pages: list[str],
    model: Path | None = None,
    tier: dict[str, Any] | None = None,
    pool: Any = None,
    storage: dict[str, Any] | None = None,
    **said: Any,
) -> bool:
    """Whether an engine that is set up so sees the pages that the plain one stored."""
    with settings_of(model, **said), Side(pool, tier=tier, **(storage or {})) as side:
        return bool(side.backend.batch_exists(pages) == len(pages))


def case_what_means_something_else_is_a_miss() -> None:
    keys = keys_of(3, 22)
    with settings_of(), Side() as side:
        assert all(side.put(keys))
    assert shares(keys)
    with copied() as same:
        assert shares(keys, same)
    with copied(weights=True) as other:
        assert not shares(keys, other)
    with copied(rope_theta=1234.5) as other:
        assert not shares(keys, other)
    for said in (
        {"tp_size": 2},
        {"dtype": "float16"},
        {"quantization": "fp8"},
        {"json_model_override_args": '{"rope_theta": 7}'},
        {"context_length": 1024},
        {"attention_backend": "triton"},
        {"speculative_algorithm": "NGRAM"},
    ):
        assert not shares(keys, **said), said
    assert not shares(keys, tier={"salt": "other"})
    assert not shares(keys, tier={"generation": 1})
    assert not shares(keys, tier={"weights": "mine"})
    assert not shares(keys, tier={"extra_backend_tag": "other"})
    assert not shares(keys, storage={"tp_size": 2})
    assert not shares(keys, storage={"attn_cp_size": 2})
    assert not shares(keys, pool=sglang_pools.mha(64, "page_first_direct"))
    assert not shares(keys, pool=sglang_pools.mha(64, heads=2))
    for said in ({"mem_fraction_static": 0.5}, {"port": 30001}, {"chunked_prefill_size": 512}):
        assert shares(keys, **said), said
    for variable, counts in (("SGLANG_MAMBA_SSM_DTYPE", True), ("SGLANG_LOG_MS", False)):
        os.environ[variable] = "float32"
        assert shares(keys) is not counts, variable
        del os.environ[variable]


def case_somebody_has_thought_about_every_setting() -> None:
    groups = namespace_of(ServerArgs)
    counted = set(meaning_of(dict.fromkeys(groups), groups))
    golden = Path(__file__).parent.parent / "golden/sglang_settings.json"
    assert counted == set(json.loads(golden.read_text())[sglang.version.__version__])


def case_another_sglang_is_a_miss() -> None:
    from memkv_nixl.kvbm import sglang as module

    keys = keys_of(3, 23)
    with settings_of(), Side() as side:
        assert all(side.put(keys))
    name, module.engine_name = module.engine_name, lambda version: f"sglang/{version}.1"
    try:
        assert not shares(keys)
    finally:
        module.engine_name = name


def sentence_of(act: Callable[[], Any]) -> str:
    """The sentence that something is refused with; empty where it is taken."""
    try:
        act()
    except ConfigError as error:
        return str(error)
    return ""


def refused(
    sentence: str,
    tier: dict[str, Any] | None = None,
    storage: dict[str, Any] | None = None,
    pool: Any = None,
    model: Path | None = None,
    **said: Any,
) -> None:
    def start() -> None:
        with settings_of(model, **said), Side(pool, tier=tier, **(storage or {})):
            pass

    assert sentence in sentence_of(start), (sentence, sentence_of(start))


def case_what_cannot_be_told_is_refused() -> None:
    refused("--load-format dummy", load_format="dummy")
    refused("nobody can tell which files --load-format remote loads", load_format="remote")
    refused('"lora": "fixed"', enable_lora=True)
    refused("--custom-weight-loader", custom_weight_loader=["a.b"])
    refused("neither a folder nor in the Hugging Face cache", model=Path("no/model"))
    refused("--hicache-mem-layout page_first", pool=sglang_pools.mha(64, "layer_first"))
    refused('"interface_v1": 1 is missing', tier={"interface_v1": 0})
    refused("did you mean 'salt'", tier={"sallt": "x"})
    refused("is no address", tier={"events_endpoint": "here"})
    refused(
        "Run python -m memkv_nixl.kvbm.mooncake_relay",
        tier={"events_endpoint": "tcp://*:1"},
        storage={"tp_size": 2},
    )
    unset = '{"backend_name": "memkv"}'
    refused("hicache_storage_pass_prefix_keys", hicache_storage_backend_extra_config=unset)
    with settings_of(enable_lora=True), Side(tier={"lora": "fixed"}):
        pass
    with settings_of(load_format="dummy"), Side(tier={"weights": "mine"}):
        pass


def case_another_version_is_refused() -> None:
    from memkv_nixl.kvbm._sglang_version import refuse_unknown_sglang

    for version in ("0.5.20", "0.6.0", "1.0"):
        said = sentence_of(lambda version=version: refuse_unknown_sglang(version))
        assert f"this is SGLang {version}" in said


def case_without_settings_it_does_not_start() -> None:
    assert "cannot see SGLang's settings" in sentence_of(Side)


def case_other_weights_in_a_running_engine_end_it() -> None:
    keys = keys_of(4, 24)
    again = {"model_path": str(sglang_side.MODEL)}  # whose files are others now
    for leaf in ({"weight_version": "two"}, {"model_path": "elsewhere"}, again):
        with settings_of(), Side() as side:
            assert all(side.put(keys))
            assert side.backend.batch_exists(keys) == 4
            get_context().override("a test", **leaf)
            assert side.backend.batch_exists(keys) == 0
            assert not any(side.put(keys))
            assert not any(side.get(keys))


def case_without_a_prefix_nothing_is_stored() -> None:
    keys = keys_of(4, 25)
    with settings_of(), Side() as side:
        assert side.backend.batch_set_v1(keys, slots(0, 4)) == [False] * 4
        assert side.backend.batch_exists(keys) == 0


def case_loading_that_loses_is_left() -> None:
    keys = keys_of(4, 26)
    with settings_of(), Side(tier={"compute_tokens_per_s": 2**40}) as side:
        assert all(side.put(keys))
        side.get(keys)  # so that a speed is known
        answers = [side.backend.batch_exists(keys) for _ in range(20)]
        assert 0 in answers  # now and then one is tried all the same


def case_the_name_mooncake() -> None:
    from memkv_nixl.kvbm import _sglang_plugin

    os.environ[_sglang_plugin.VARIABLE] = "1"
    _sglang_plugin.register()
    keys = keys_of(5, 27)
    tier = {"interface_v1": 1}
    with settings_of(), Side(name="mooncake", tier=tier) as one, Side() as other:
        assert type(one.backend).__name__ == "MemKVHiCache"
        assert all(one.put(keys))
        assert other.backend.batch_exists(keys) == 5


def case_a_state_larger_than_a_block_is_several() -> None:
    from memkv_nixl.kvbm import _sglang_pools as ours

    limit, ours.BLOCK_BYTES_MAX = ours.BLOCK_BYTES_MAX, 5000
    try:
        with settings_of(), Side() as one, Side() as other:
            assert len(one.inner._pools["kv"].parts) > 2
            moved_between(one, other, 12, "several parts")
    finally:
        ours.BLOCK_BYTES_MAX = limit


def case_sizes_are_those_of_the_model() -> None:
    with settings_of(), Side() as side:
        pool = side.inner._pools["kv"]
        assert pool.page_bytes == 2 * LAYERS * PAGE * 4 * 64 * 2
        assert [part.name for part in pool.parts] == ["_0_k", "_0_v"]


def case_sglangs_own_controller() -> None:
    tokens = list(range(1000, 1000 + 12 * PAGE))
    hashes = sglang_controller.hashes_as_the_router_makes_them(tokens)
    with settings_of(), sglang_controller.one_rank():
        one, other = sglang_controller.Controller(), sglang_controller.Controller()
        one.pool.kv_buffer.view(torch.uint8).random_(0, 256)
        mine, stored = one.back_up(tokens, hashes, [])
        assert stored == len(tokens)
        theirs, loaded = other.prefetch([*tokens, *range(PAGE)], None, [])
        assert loaded == len(tokens)
        for page in range(12):
            here, there = (sglang_controller.page_slots(one, page) for one in (mine, theirs))
            assert content_of(one.pool, here) == content_of(other.pool, there)
        # What follows pages that are there already, and of which SGLang says nothing.
        _, loaded = other.prefetch(tokens[5 * PAGE :], hashes[4], [])
        assert loaded == 7 * PAGE
        for controller in (one, other):
            controller.inner.detach_storage_backend()
            assert controller.inner.storage_backend is None


def received(socket: Any) -> list[tuple[str, str]]:
    """The events of one message, as the router reads them."""
    assert socket.poll(BOUND_S * 1000), "no message came"
    topic, sequence, payload = socket.recv_multipart()
    assert (topic, len(sequence)) == (b"", 8)
    moment, events, rank = msgspec.msgpack.decode(payload)
    assert (rank, abs(moment / 1000 - time.time()) < 60) == (0, True)
    assert all(event["tenant_id"] == "default" for event in events)
    return [(event["event_type"], event["object_key"]) for event in events]


def case_the_router_is_told_what_the_pool_has() -> None:
    keys = keys_of(4, 28)
    names = [f"org-tiny_{key}_0_{part}" for key in keys for part in "kv"]
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        stack.enter_context(settings_of())
        side = stack.enter_context(Side(tier={"events_endpoint": "tcp://*:0"}))
        port = side.inner._announcer.publisher.published.rpartition(":")[2]
        router = context.socket(zmq.SUB)
        router.connect(f"tcp://127.0.0.1:{port}")
        router.subscribe(b"")
        assert all(side.put(keys[:3]))
        told: list[tuple[str, str]] = []
        while len(told) < 6:
            told += received(router)
        assert told == [("stored", name) for name in names[:6]]
        late = context.socket(zmq.SUB)
        late.connect(f"tcp://127.0.0.1:{port}")
        late.subscribe(b"")
        assert received(late) == told  # although nothing was stored since
        received(router)
        assert side.backend.batch_exists(keys) == 3  # known already, and one that never was
        assert all(side.put(keys[3:], 3, keys[:3]))
        assert received(router) == [("stored", name) for name in names[6:]]
        side.inner._tell(side.inner._pools["kv"], [keys[0].encode()], [False])
        assert received(router) == [("removed", name) for name in names[:2]]
        for socket in (router, late):
            socket.close(0)
        context.destroy(0)


def case_a_message_that_nobody_can_read_does_not_end_the_relay() -> None:
    relay = Publisher("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    with zmq.Context() as context, context.socket(zmq.SUB) as router:
        router.connect(relay.published)
        router.subscribe(b"")
        with context.socket(zmq.PUSH) as engine:
            engine.connect(relay.listening)
            for message in (b"", b"\xff", b"\x92\x91\xa1\xff\x90", b"\x92\x91\xa1a\x90"):
                engine.send(message)
            assert received(router) == [("stored", "a")]
    relay.close()
    assert relay.wait()


def case_nothing_is_told_after_the_end() -> None:
    announcer = Announcer("tcp://127.0.0.1:1")
    announcer.close()
    announcer.tell(["a"], [])  # and nothing is raised on a thread of SGLang's


CASES = {
    name[5:]: case
    for name, case in {**globals(), **vars(sglang_hybrid_cases)}.items()
    if name.startswith("case_")
}


def outcome_of(case: Callable[[], None]) -> str:
    try:
        case()
    except NotHereError as reason:
        return f"skipped: {reason}"
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        return traceback.format_exc()
    return "ok"


def main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.WARNING)
    sglang_side.MODEL, sglang_side.NODES = Path(arguments[0]), arguments[1]
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(CASES[name]) for name in arguments[2:] or CASES}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
