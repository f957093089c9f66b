"""More than one host pool: states of Mamba, a draft model's pages, and what SGLang's own file
backend answers to the same questions. Run by sglang_cases.py, with its arguments."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheFile,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)

from tests.engines import sglang_pools
from tests.engines.sglang_side import (
    Side,
    after,
    content_of,
    keys_of,
    settings_of,
    slots,
    state,
    storage_config,
)


def case_states_of_mamba_end_a_prefix_where_they_are() -> None:
    keys = keys_of(24, 15)
    with settings_of(), ExitStack() as stack:
        one, other = (
            stack.enter_context(Side(sglang_pools.mha(64), sglang_pools.mamba(16)))
            for _ in range(2)
        )
        one.fill(7)
        other.fill(8)
        assert all(one.put(keys))
        asked = [state(keys[-1:], [0])]
        assert one.backend.batch_exists_v2(keys, asked).kv_hit_pages == 0
        for page, slot in ((7, 3), (15, 5)):
            stored = one.backend.batch_set_v2([state([keys[page]], [slot])], after(keys[:page]))
            assert stored == {PoolName.MAMBA: [True]}
        found = other.backend.batch_exists_v2(keys, asked)
        assert found.kv_hit_pages == 16
        assert found.extra_pool_hit_pages == {PoolName.KV: 24, PoolName.MAMBA: 16}
        assert getattr(found, "restorable_prefix_pages", [8, 16]) == [8, 16]
        loaded = other.backend.batch_get_v2([state([keys[15]], [9])], after(keys[:15]))
        assert loaded == {PoolName.MAMBA: [True]}
        for mine, theirs in zip(
            one.mamba.get_hybrid_pool_buffer(), other.mamba.get_hybrid_pool_buffer(), strict=True
        ):
            if mine.numel():
                assert torch.equal(mine[5].view(torch.uint8), theirs[9].view(torch.uint8))
        missing = other.backend.batch_get_v2([state([keys[3]], [2])], after(keys[:3]))
        assert missing == {PoolName.MAMBA: [False]}


def case_every_page_of_a_pool_may_be_asked_for() -> None:
    keys = keys_of(6, 16)
    with settings_of(), Side(sglang_pools.mha(64), sglang_pools.mamba(16)) as side:
        assert all(side.put(keys))
        sets = side.backend.batch_set_v2([state(keys[:4], range(4))], after([]))
        assert sets == {PoolName.MAMBA: [True] * 4}
        found = side.backend.batch_exists_v2(keys, [state(keys, range(6), "all_pages")])
        assert found.kv_hit_pages == 4


# ---- a draft model


@contextmanager
def drafted(
    seed: int, tier: dict[str, Any] | None = None, **said: Any
) -> Iterator[tuple[Any, Any]]:
    """An engine with a draft model whose pages look as its target's do, and the draft's host pool:
    SGLang hands it to the target's backend, so nothing but its name tells the two apart."""
    with settings_of(**said), Side(sglang_pools.mha(64), tier=tier) as side:
        draft = sglang_pools.mha(64)
        side.backend.register_mem_host_pool_v2(side.pool, PoolName.KV)
        side.backend.register_mem_host_pool_v2(draft, PoolName.DRAFT)
        side.fill(seed)
        draft.kv_buffer.view(torch.uint8).copy_(side.pool.kv_buffer.view(torch.uint8) ^ 0xFF)
        yield side, draft


def of_draft(keys: Sequence[str], first: int = 0) -> PoolTransfer:
    """Its pages that go with the target's, as SGLang hands them over."""
    indices = slots(first, len(keys))
    return PoolTransfer(name=PoolName.DRAFT, host_indices=indices, keys=list(keys))


def case_a_draft_models_pages_are_never_its_targets() -> None:
    keys = keys_of(8, 31)
    with drafted(31) as (one, draft_of_one):
        assert all(one.put(keys))
        # What the target put is not taken for the draft's, which is as long and as wide.
        found = one.backend.batch_exists_v2(keys, [of_draft(keys)])
        assert (found.kv_hit_pages, found.extra_pool_hit_pages) == (0, {PoolName.KV: 8})
        loaded = one.backend.batch_get_v2([of_draft(keys, 20)], after([]))
        assert loaded == {PoolName.DRAFT: [False] * 8}
        stored = one.backend.batch_set_v2([of_draft(keys)], after([]))
        assert stored == {PoolName.DRAFT: [True] * 8}
        with drafted(32) as (other, draft_of_other):
            found = other.backend.batch_exists_v2(keys, [of_draft(keys)])
            assert found.kv_hit_pages == 8
            assert other.get(keys, 20) == [True] * 8
            loaded = other.backend.batch_get_v2([of_draft(keys, 40)], after([]))
            assert loaded == {PoolName.DRAFT: [True] * 8}
            for i in range(8):
                assert other.page(20 + i) == one.page(i)
                theirs, ours = (
                    content_of(pool, slots(at, 1))
                    for pool, at in ((draft_of_one, i), (draft_of_other, 40 + i))
                )
                assert theirs == ours != one.page(i)


def case_a_draft_that_was_put_alone_is_no_page_of_the_target() -> None:
    keys = keys_of(4, 33)
    with drafted(33) as (side, _):
        assert all(side.backend.batch_set_v2([of_draft(keys)], after([]))[PoolName.DRAFT])
        assert side.backend.batch_exists(keys) == 0
        assert not any(side.get(keys))


def hub(folder: Path, name: str, revision: str, **said: Any) -> None:
    """A model's configuration in a cache of Hugging Face's, without its weights."""
    place = folder / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs/main").write_text(revision)
    (snapshot / "config.json").write_text(json.dumps(said))


def case_drafts_by_name_are_told_apart_though_weights_are_named_by_hand() -> None:
    """A draft's name was once looked for as a folder, and its configuration did not count."""
    keys = keys_of(4, 34)
    named: dict[str, Any] = {"speculative_algorithm": "EAGLE", "tier": {"weights": "mine"}}
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        hub(Path(first), "org/draft", "a" * 40, hidden_size=8)
        hub(Path(second), "org/draft", "b" * 40, hidden_size=16)
        of_first = {**named, "download_dir": first, "speculative_draft_model_path": "org/draft"}
        with drafted(35, **of_first) as (side, _):
            assert all(side.put(keys))
        for said, shared in (
            ({}, True),
            ({"download_dir": second}, False),
            ({"speculative_draft_model_path": "org/nowhere"}, False),
        ):
            with drafted(36, **{**of_first, **said}) as (side, _):
                assert (side.backend.batch_exists(keys) == 4) is shared, said
        # Of what is nowhere to be read the whole name counts, and the revision.
        nowhere = {**of_first, "speculative_draft_model_path": "org/nowhere"}
        others = keys_of(4, 37)
        with drafted(37, **nowhere) as (side, _):
            assert all(side.put(others))
        for said, shared in (
            ({}, True),
            ({"speculative_draft_model_path": "other/nowhere"}, False),
            ({"speculative_draft_model_revision": "rev2"}, False),
        ):
            with drafted(38, **{**nowhere, **said}) as (side, _):
                assert (side.backend.batch_exists(others) == 4) is shared, said


# ---- as SGLang's own backends answer


def case_nothing_is_asked_for() -> None:
    keys = keys_of(3, 40)
    with settings_of(), Side(sglang_pools.mha(64), sglang_pools.mamba(8)) as side:
        assert all(side.put(keys))
        for transfers in ([], None, [state([], [])]):
            nothing = side.backend.batch_exists_v2([], transfers)
            assert (nothing.kv_hit_pages, nothing.extra_pool_hit_pages) == (0, {})
            assert not getattr(nothing, "restorable_prefix_pages", [])
        for transfers in ([], None):
            found = side.backend.batch_exists_v2(keys, transfers)
            assert (found.kv_hit_pages, found.extra_pool_hit_pages) == (3, {PoolName.KV: 3})
        assert side.backend.batch_get_v2([]) == {}
        assert side.backend.batch_set_v2([], after([])) == {}


def case_a_rule_that_nobody_knows_is_a_miss() -> None:
    keys = keys_of(3, 41)
    with settings_of(), Side(sglang_pools.mha(64), sglang_pools.mamba(8)) as side:
        assert all(side.put(keys))
        unknown = state(keys[-1:], [0])
        unknown.hit_policy = "every_other_page"
        assert side.backend.batch_exists_v2(keys, [unknown]).kv_hit_pages == 0
        if hasattr(PoolHitPolicy, "BLOCK_GROUPS"):  # of a pool that shortens no prefix
            unknown.hit_policy = PoolHitPolicy.BLOCK_GROUPS
            assert side.backend.batch_exists_v2(keys, [unknown]).kv_hit_pages == 3


def case_prefixes_end_where_they_do_for_sglangs_file_backend() -> None:
    """Pages of three pools that are there or not by dice, and the same question to both."""
    dice = random.Random(42)
    with tempfile.TemporaryDirectory() as folder, drafted(42) as (side, _):
        mamba = sglang_pools.mamba(16)
        side.backend.register_mem_host_pool_v2(mamba, PoolName.MAMBA)
        theirs = HiCacheFile(storage_config({}, extra_config={}), folder)
        for trial in range(40):
            keys = keys_of(dice.randrange(1, 13), 1000 + trial)
            there = {
                name: [dice.random() < share for _ in keys]
                for name, share in (
                    (PoolName.KV, 0.95),
                    (PoolName.DRAFT, 0.9),
                    (PoolName.MAMBA, 0.5),
                )
            }
            for name, has in there.items():
                for page in (i for i, is_there in enumerate(has) if is_there):
                    put_one(side, theirs, name, keys, page)
            window = dice.randrange(1, 4)
            asked = [of_draft(keys), state(keys[-window:], range(min(window, len(keys))))]
            dice.shuffle(asked)
            asked = asked[: dice.randrange(1, 3)]
            compare(side.backend.batch_exists_v2(keys, asked), theirs, keys, asked, trial)


def put_one(side: Side, theirs: HiCacheFile, name: PoolName, keys: list[str], page: int) -> None:
    """Puts a page of a pool into both backends; into theirs just its name, as nobody reads it."""
    key, before = keys[page], after(keys[:page])
    (Path(theirs.file_path) / f"{theirs._get_component_key(key, name)}.bin").touch()
    if name == PoolName.KV:
        assert side.put([key], page, keys[:page]) == [True]
    else:
        transfer = of_draft([key], page) if name == PoolName.DRAFT else state([key], [page])
        assert side.backend.batch_set_v2([transfer], before) == {name: [True]}


def compare(
    ours: PoolTransferResult,
    theirs: HiCacheFile,
    keys: list[str],
    asked: list[PoolTransfer],
    trial: int,
) -> None:
    wanted = theirs.batch_exists_v2(keys, asked)
    if getattr(wanted, "restorable_prefix_pages", None) is None and len(asked) > 1:
        # 0.5.21's takes the shortest of what each pool reaches, whether it ends at a state or not.
        assert ours.kv_hit_pages <= wanted.kv_hit_pages, trial
        return
    assert ours.kv_hit_pages == wanted.kv_hit_pages, trial
    assert ours.extra_pool_hit_pages == wanted.extra_pool_hit_pages, trial
    if getattr(wanted, "restorable_prefix_pages", None) is not None:
        assert ours.restorable_prefix_pages == wanted.restorable_prefix_pages, trial
