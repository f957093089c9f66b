"""The parts of the TensorRT-LLM connector that need neither a GPU nor a node.

The interface is held to what was recorded of it (tests/golden/trtllm_connector.json).
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._trtllm_meaning import (
    namespace_of,
    refuse_scattered,
    refuse_unfit,
    settings_of,
)
from memkv_nixl.kvbm._trtllm_requests import Geometry, Promise, RequestState, TokenChain, root_of
from memkv_nixl.kvbm._trtllm_staging import Rows
from tests.kvbm.trtllm_stand_in import (
    CLASSES,
    RECORD,
    CacheSettings,
    Request,
    RequestData,
    SchedulerOutput,
    Settings,
)

BLOCK = 32
CACHE = SimpleNamespace(dtype="torch.bfloat16", shape=(100, 4, 2, 4096))
DEVICE = "cuda (9, 0)"
NAMED = TierSettings(nodes=("a:1",), weights="rev1")


# ---- the interface

SHOW = """
import inspect, json, sys
from tests.kvbm.trtllm_stand_in import install
install(sys.argv[1])
from memkv_nixl.kvbm import trtllm
ours = {
    "KvCacheConnectorScheduler": trtllm.MemKVScheduler,
    "KvCacheConnectorWorker": trtllm.MemKVWorker,
}
print(json.dumps({
    name: {
        "abstract": sorted(cls.__abstractmethods__),
        "own": {m: list(inspect.signature(f).parameters)[1:]
                for m, f in vars(cls).items() if callable(f) and not m.startswith("_")},
    } for name, cls in ours.items()
}))
"""


@pytest.mark.parametrize("which", ["released", "moved"])
def test_both_classes_have_the_recorded_methods(which: str, repo: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SHOW, which], cwd=repo, capture_output=True, text=True, check=True
    )
    said = json.loads(ran.stdout)
    for name in CLASSES:
        assert said[name]["abstract"] == []
        recorded = {
            method: shape
            for part in ("released", "moved", "optional_later")
            for method, shape in RECORD[part].get(name, {}).items()
        }
        needed = {method for method, shape in recorded.items() if shape.get("needed")}
        assert needed <= set(said[name]["own"])
        for method, parameters in said[name]["own"].items():
            assert parameters == recorded[method]["parameters"], method


def test_the_stand_in_tells_what_is_recorded() -> None:
    for kind in (RequestData, SchedulerOutput):
        assert list(inspect.signature(kind).parameters) == RECORD["released"][kind.__name__]


def test_without_tensorrt_llm_it_says_so(repo: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import memkv_nixl.kvbm.trtllm"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "TensorRT-LLM is not installed" in ran.stderr


# ---- what a request is


def root(**said: Any) -> bytes | None:
    return root_of(Request(1, [], **said), with_lora=False)


def test_salts_and_adapters_are_other_roots() -> None:
    assert root() is not None
    assert root() == root()
    assert len({root(), root(cache_salt_id=1), root(cache_salt_id=2)}) == 3
    assert root(lora_task_id=7) is None
    fixed = {root_of(Request(1, [], lora_task_id=i), with_lora=True) for i in (None, 7, 8)}
    assert len(fixed) == 3
    assert None not in fixed


def test_what_tokens_do_not_say_is_nobodys() -> None:
    assert root(multimodal_hashes=[[1, 2]]) is None
    assert root(multimodal_hashes=[]) is not None
    unhashed = SimpleNamespace(cache_salt_id=None, py_multimodal_data={"image": {"pixels": 1}})
    assert root_of(unhashed, with_lora=False) is None
    assert root_of(SimpleNamespace(request_id=1), with_lora=False) is None  # of a salt it is silent
    dummy = SimpleNamespace(cache_salt_id=None, is_dummy_request=True)
    assert root_of(dummy, with_lora=False) is None


def chain(tokens: list[int], start: bytes = b"r", group: int = 4) -> TokenChain:
    made = TokenChain(start, BLOCK, group)
    assert made.tell(0, tokens)
    return made


def test_a_key_stands_for_all_tokens_before_it() -> None:
    tokens = list(range(5 * BLOCK + 3))
    one = chain(tokens)
    assert len(one) == 5
    first = [one.block(i).key for i in range(5)]
    assert len(set(first)) == 5
    for changed in (0, 2 * BLOCK, 4 * BLOCK):
        other = chain([*tokens[:changed], 99_999, *tokens[changed + 1 :]])
        same = [other.block(i).key == first[i] for i in range(5)]
        assert same == [i < changed // BLOCK for i in range(5)]
    assert chain(tokens, b"s").block(0).key != first[0]
    assert [one.block(i).group for i in range(5)] == [first[0]] * 4 + [first[4]]


def test_first_blocks_lie_each_for_itself() -> None:
    made = TokenChain(b"r", BLOCK, 2, 1)
    assert made.tell(0, list(range(4 * BLOCK)))
    keys = [made.block(i).key for i in range(4)]
    assert [made.block(i).group for i in range(4)] == [keys[0], keys[1], keys[1], keys[3]]


def test_tokens_may_come_in_pieces_and_again() -> None:
    tokens = list(range(100))
    pieces = TokenChain(b"r", BLOCK, 4)
    assert pieces.tell(0, tokens[:40])
    assert pieces.tell(0, tokens[:70])
    assert pieces.tell(70, tokens[70:])
    assert pieces.block(2) == chain(tokens).block(2)
    assert not pieces.tell(30, [1, 2])  # another story
    assert not pieces.tell(101, [1])  # a gap


@pytest.mark.parametrize(
    ("seen", "proven", "wrong"),
    [
        ([(4 * BLOCK, 4, True)], True, False),
        ([(4 * BLOCK, 5, True)], True, False),
        ([(3 * BLOCK, 3, True)], False, False),  # too short a prompt to tell
        ([(4 * BLOCK, 8, True)], False, False),  # blocks of half as many tokens
        ([(2 * BLOCK, 1, True)], False, True),  # of twice as many
        ([(8 * BLOCK, 8, False)], False, False),  # of twice as many, too: half of a prompt
        ([(8 * BLOCK, 8, False), (16 * BLOCK, 8, True)], False, True),
        ([(8 * BLOCK, 16, False), (16 * BLOCK, 16, True)], True, False),
        ([(9 * BLOCK, 9, True), (33, 1, True)], True, True),
    ],
)
def test_the_size_of_blocks_is_shown(
    seen: list[tuple[int, int, bool]], proven: bool, wrong: bool
) -> None:
    geometry = Geometry(BLOCK)
    for tokens, blocks, whole in seen:
        geometry.see(tokens, blocks, whole=whole)
    assert (geometry.proven, geometry.wrong) == (proven, wrong)
    assert geometry.holds is (proven and not wrong)


def state(tokens: list[int], prompt: int) -> RequestState:
    return RequestState(chain(tokens[:prompt]), prompt)


def test_blocks_are_saved_when_they_are_whole_and_once() -> None:
    tokens = list(range(150))
    request = state(tokens, 100)

    def step(new: int, blocks: list[int], position: int, scheduled: int) -> list[int]:
        data = RequestData(
            1, tokens[request.told : request.told + new], blocks, position, scheduled
        )
        request.learn(data)
        return [save.block_id for save in request.take_saves(data)]

    assert step(100, [7, 8, 9, 10], 0, 64) == [7, 8]  # the prompt's first chunk
    assert step(0, [], 64, 36) == [9]
    assert step(28, [], 127, 1) == []  # 127 tokens are computed
    assert step(1, [11], 128, 1) == [10]
    assert step(1, [], 129, 4) == []


def test_guesses_and_matches_are_never_counted_as_computed() -> None:
    tokens = list(range(200))
    request = state(tokens, 100)
    request.saved = 1  # one block was promised
    data = RequestData(1, tokens[:100], [7, 8, 9, 10], 0, 68)
    request.learn(data)
    assert [save.block_id for save in request.take_saves(data)] == [8]
    data = RequestData(
        1, tokens[100:129], [11], 120, 60
    )  # sixty are scheduled, most of them guessed
    request.learn(data)
    assert [save.block_id for save in request.take_saves(data)] == [9]


def test_a_request_that_contradicts_itself_is_not_saved() -> None:
    request = state(list(range(100)), 100)
    data = RequestData(1, [5] * 100, [7, 8, 9, 10], 0, 100)
    request.learn(data)
    assert request.take_saves(data) == []


def test_a_promise_without_a_place_is_an_error() -> None:
    for block_ids in ([7], [7, -1]):
        request = state(list(range(100)), 100)
        request.promised = [Promise(0, 3), Promise(1, 4)]
        request.learn(RequestData(1, list(range(100)), block_ids, 0, 36))
        with pytest.raises(LookupError):
            request.take_loads()


def test_rows_are_lent_once_and_some_are_kept() -> None:
    rows = Rows(8)
    taken = rows.take(5, keep=2)
    assert len(set(taken)) == 5
    more = rows.take(5, keep=2)
    assert len({*taken, *more}) == 6
    assert rows.take(5, keep=2) == []
    assert len(rows.take(5)) == 2
    rows.free(taken)
    assert rows.free_count == 5


# ---- what blocks mean


def settings(**said: Any) -> Settings:
    return Settings(model="org/model", **said)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"max_beam_width": 4}, "max_beam_width"),
        ({"enable_attention_dp": True}, "enable_attention_dp"),
        ({"speculative_config": {"decoding_type": "MTP"}}, "speculative_config"),
        ({"kv_cache_config": CacheSettings(host_cache_size=1 << 30)}, "host_cache_size"),
        ({"kv_cache_config": CacheSettings(max_attention_window=[4096])}, "max_attention_window"),
    ],
)
def test_what_does_not_fit_is_refused(said: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        refuse_unfit(settings(**said))
    refuse_unfit(settings())


def test_blocks_that_are_more_than_their_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nvfp4"):
        refuse_scattered(settings(kv_cache_config=CacheSettings(dtype="nvfp4")), CACHE)
    refuse_scattered(settings(), CACHE)
    for said, fits in (
        ({"num_hidden_layers": 4}, True),
        ({"num_hidden_layers": 5}, False),
        ({"text_config": {"num_hidden_layers": 5}}, False),
        ({"architectures": ["Other"]}, True),
    ):
        (tmp_path / "config.json").write_text(json.dumps(said))
        if fits:
            refuse_scattered(Settings(model=str(tmp_path)), CACHE)
            continue
        with pytest.raises(ConfigError, match="5 layers"):
            refuse_scattered(Settings(model=str(tmp_path)), CACHE)


def name(
    cache: Any = CACHE,
    version: str = "1.2.1",
    tier: TierSettings = NAMED,
    device: str = DEVICE,
    **said: Any,
) -> bytes:
    return namespace_of(settings(**said), tier, cache, version, device).fingerprint


def test_everything_but_the_harmless_is_in_the_namespace() -> None:
    others = [
        name(version="1.2.2"),
        name(device="cuda (10, 0)"),
        name(SimpleNamespace(dtype="torch.float8_e4m3fn", shape=CACHE.shape)),
        name(SimpleNamespace(dtype=CACHE.dtype, shape=(100, 4, 2, 8192))),
        name(tier=TierSettings(nodes=("a:1",), weights="rev2")),
        name(tier=TierSettings(nodes=("a:1",), weights="rev1", salt="s")),
        name(tier=TierSettings(nodes=("a:1",), weights="rev1", generation=1)),
        name(dtype="float16"),
        name(model_kwargs={"rope_theta": 1}),
        name(odd=CacheSettings()),  # what a later version may add
        name(kv_cache_config=CacheSettings(dtype="fp8")),
        name(kv_cache_config=CacheSettings(tokens_per_block=64)),
    ]
    assert len({name(), *others}) == len(others) + 1
    assert name(max_batch_size=16) == name()
    assert name(kv_cache_config=CacheSettings(free_gpu_memory_fraction=0.1)) == name()
    assert name(SimpleNamespace(dtype=CACHE.dtype, shape=(7, *CACHE.shape[1:]))) == name()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="odd is a builtins"):
        name(odd=object())


def test_weights_that_cannot_be_read_have_to_be_named(tmp_path: Path) -> None:
    unnamed = TierSettings(nodes=("a:1",))
    with pytest.raises(ConfigError, match="Name them yourself: MEMKV_TRTLLM="):
        name(tier=unnamed)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    args = Settings(model=str(tmp_path))
    before = namespace_of(args, unnamed, CACHE, "1.2.1", DEVICE).fingerprint
    (tmp_path / "model.safetensors").write_bytes(b"two, longer")
    assert namespace_of(args, unnamed, CACHE, "1.2.1", DEVICE).fingerprint != before


@pytest.mark.parametrize("tier", [NAMED, TierSettings(nodes=("a:1",))])
def test_the_models_configuration_is_in_the_namespace(tmp_path: Path, tier: TierSettings) -> None:
    """Weights stay the same where somebody makes a model's context longer."""
    (tmp_path / "model.safetensors").write_bytes(b"one")
    seen = []
    for file, text in (
        ("config.json", '{"rope_theta": 1}'),
        ("config.json", '{"rope_theta": 2}'),
        ("hf_quant_config.json", "{}"),
        ("tokenizer_config.json", "{}"),
    ):
        (tmp_path / file).write_text(text, encoding="utf-8")
        seen.append(
            namespace_of(Settings(model=str(tmp_path)), tier, CACHE, "1.2.1", DEVICE).fingerprint
        )
    assert len(set(seen)) == 3
    assert seen[2] == seen[3]  # how tokens are spelled is not in the bytes


def test_settings_come_from_the_environment() -> None:
    said = {"MEMKV_NODES": "a:1", "MEMKV_TRTLLM": '{"weights": "rev1", "staging": "1GiB"}'}
    tier, staging = settings_of(said)
    assert (tier.nodes, tier.weights, staging) == (("a:1",), "rev1", 1 << 30)
    assert settings_of({"MEMKV_NODES": "a:1"})[1] == 4 << 30
    for text in ("{", "[]", '{"staging": "much"}', '{"fetch": 1}'):
        with pytest.raises(ConfigError, match="MEMKV_TRTLLM"):
            settings_of({"MEMKV_NODES": "a:1", "MEMKV_TRTLLM": text})
