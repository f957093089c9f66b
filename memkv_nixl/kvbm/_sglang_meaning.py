"""The meaning of SGLang's pages: the namespace that its settings amount to.

SGLang's keys are hashes of tokens, and what it hands a backend beside them is a model's name and
the parallel sizes. Other weights under that name, another type of the cache or another version
would be read as if they were one's own. All of it stands in SGLang's own settings, which its
runtime context holds; every one counts unless `_sglang_fields.py` says why not. What cannot be
known is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import Namespace
from memkv_nixl.kvbm._device import device_of_kernels
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._sglang_fields import meaning_of, variables_of
from memkv_nixl.kvbm._weights import configuration_digest, configuration_of, weights_digest

# Formats whose loaders read the weights at the top of the model's folder, and nothing else.
READ_THE_FOLDER = (
    *("auto", "pt", "safetensors", "npcache", "mistral", "layered", "gguf"),
    *("fastsafetensors", "instanttensor"),
)
# What may be said to these loaders that does not change which weights they load.
_HOW_NOT_WHAT = {"enable_multithread_load", "num_threads"}
# Settings that bring weights from elsewhere, and what they are where they do not.
_BRING_OTHERS: dict[str, tuple[Any, ...]] = {
    "custom_weight_loader": (None, []),
    "modelopt_checkpoint_restore_path": (None,),
    "checkpoint_engine_wait_weights_before_ready": (False, None),
    "rl_quant_profile": (None,),
    "weight_cache_mode": ("off", None),
    "decrypted_config_file": (None,),
    "decrypted_draft_config_file": (None,),
    "kt_weight_path": (None,),
    "uno_lora_path": (None,),
    "modelexpress_config": (None,),
}
_COARSE_IMAGES = ("sglang/0.5.21", "sglang/0.5.22")
_SENSES = ("vision_config", "audio_config", "video_config", "thinker_config", "image_token_id")
_NAME_THEM = 'Name them: "weights": "<a word that changes when they do>"'


class Settings:
    """SGLang's settings as they are in effect, and a watch over its weights."""

    def __init__(self) -> None:
        """Raises ConfigError where they are not to be seen."""
        from sglang.srt.arg_groups.arg_utils import namespace_of as groups_of
        from sglang.srt.arg_groups.overrides import resolution_result
        from sglang.srt.runtime_context import get_context, get_server_args

        try:
            arguments = get_server_args()
            self._context = get_context()
            self.groups: Mapping[str, str] = groups_of(type(arguments))
            self._leaves = {name: self._context.config_leaf(name) for name in _WATCHED}
            self._updates = self._count_updates()
        except (ValueError, AttributeError) as error:
            raise ConfigError(
                f"MemKV cannot see SGLang's settings ({error}), and without them cannot tell which "
                "weights computed a page. This happens when the backend is made by something "
                "other than SGLang's scheduler"
            ) from error
        self.values = {name: resolution_result(arguments, name) for name in self.groups}

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    @property
    def weights_changed(self) -> bool:
        """Whether SGLang was given other weights since it was started, as far as it notes that."""
        if self._count_updates() != self._updates:  # also where they have the old ones' name
            return True
        return any(self._context.config_leaf(name) != was for name, was in self._leaves.items())

    def _count_updates(self) -> int:
        return sum(
            1 for _, said in self._context.overrides_log() if not said.keys().isdisjoint(_WATCHED)
        )


_WATCHED = ("model_path", "load_format", "weight_version")


def namespace_of(
    said: Settings, storage: Any, settings: TierSettings, tag: str, engine: str
) -> Namespace:
    """The namespace of an engine's pages. Raises ConfigError for what cannot be told apart."""
    _refuse_what_cannot_be_told(said, settings)
    model = _place_of(said["model_path"], said["revision"], said["download_dir"], settings)
    _refuse_coarse_images(model, engine)
    return Namespace(
        model=_architecture_of(model),
        revision=settings.weights or _weights_of(said, settings),
        dtype=str(said["kv_cache_dtype"]),
        quantization=str(said["quantization"] or ""),
        layout=_layout(said, model, _draft_of(said, settings), storage),
        tokens_per_block=int(said["page_size"] or 1),
        tp=storage.tp_size,
        pp=storage.pp_size,
        cp=storage.attn_cp_size,
        engine=engine,
        salt=f"{settings.salt}/{tag}" if tag else settings.salt,
        generation=settings.generation,
    )


def _refuse_what_cannot_be_told(said: Settings, settings: TierSettings) -> None:
    if said["enable_lora"] and settings.lora != "fixed":
        raise ConfigError(
            "SGLang serves LoRA adapters, and its keys say their names and paths only. If what "
            'lies under a path never changes, say so with "lora": "fixed"; else run without MemKV'
        )
    if settings.weights:
        return
    for name, without in _BRING_OTHERS.items():
        if said[name] not in without:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} may bring other weights than the model's. {_NAME_THEM}")
    for name in ("load_format", "speculative_draft_load_format"):
        _refuse_other_loaders(str(getattr(said[name], "value", said[name]) or "auto"))
    extra = said["model_loader_extra_config"] or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    unknown = set(extra) - _HOW_NOT_WHAT if isinstance(extra, Mapping) else {type(extra).__name__}
    if unknown:
        raise ConfigError(
            f"--model-loader-extra-config says {', '.join(sorted(map(str, unknown)))}, which may "
            f"name other weights than the model's folder holds. {_NAME_THEM}"
        )


def _refuse_other_loaders(name: str) -> None:
    if name == "dummy":
        raise ConfigError(f"SGLang makes up its weights (--load-format dummy). {_NAME_THEM}")
    if name not in READ_THE_FOLDER:
        raise ConfigError(
            f"nobody can tell which files --load-format {name} loads; MemKV knows it of "
            f"{', '.join(READ_THE_FOLDER)}. {_NAME_THEM}"
        )


def _weights_of(said: Settings, settings: TierSettings) -> str:
    """A digest of the weights of the model, of its draft and of the cache's scales."""
    with_code = bool(said["trust_remote_code"])
    places = [(said["model_path"], said["revision"])]
    draft = said["speculative_draft_model_path"]
    if draft and draft != said["model_path"]:
        places.append((draft, said["speculative_draft_model_revision"]))
    digests = []
    for path, revision in places:
        place = _place_of(path, revision, said["download_dir"], settings)
        digests.append(weights_digest(place, with_code=with_code))
        if with_code:
            _refuse_foreign_code(place, str(path))
    if said["quantization_param_path"]:
        digests.append(weights_digest(Path(said["quantization_param_path"])))
    return "+".join(digests)


def _refuse_foreign_code(place: Path, path: str) -> None:
    """Raises ConfigError where a model's code lies in another repository."""
    homes = _homes_in(configuration_of(place).get("auto_map"))
    if homes - {path}:
        raise ConfigError(
            f"the model's code comes from {', '.join(sorted(homes))} (--trust-remote-code), where "
            f"nobody looks whether it changed. {_NAME_THEM}"
        )


def _homes_in(value: Any) -> set[str]:
    """The repositories that an auto_map names."""
    if isinstance(value, Mapping):
        return {home for item in value.values() for home in _homes_in(item)}
    if isinstance(value, list):
        return {home for item in value for home in _homes_in(item)}
    home, found, _ = str(value).partition("--")
    return {home} if found else set()


def _place_of(path: str, revision: str | None, folder: str | None, settings: TierSettings) -> Path:
    """Where a model lies on this machine."""
    if Path(path).exists():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache

    held = try_to_load_from_cache(path, "config.json", cache_dir=folder, revision=revision)
    if isinstance(held, str):
        return Path(held).parent
    if settings.weights:
        return Path(path)
    raise ConfigError(
        f"weights: {path} is neither a folder nor in the Hugging Face cache here, so nobody can "
        f"tell which weights these are. {_NAME_THEM}"
    )


def _refuse_coarse_images(model: Path, engine: str) -> None:
    """Old SGLangs put 30 bits of an image's hash into the tokens: too few for a lasting pool."""
    said = configuration_of(model)
    if engine in _COARSE_IMAGES and any(part in said for part in _SENSES):
        raise ConfigError(
            f"{model.name} sees images or hears sounds, of which {engine} puts 30 bits of a hash "
            "into its keys, so two of them could be taken for one. Use SGLang 0.5.23 for it"
        )


def _architecture_of(model: Path) -> str:
    named = configuration_of(model).get("architectures")
    if isinstance(named, list) and named:
        return "+".join(map(str, named))
    return model.name if model.is_dir() else str(model)  # ORGANISATION/NAME, not read from here


def _draft_of(said: Settings, settings: TierSettings) -> str:
    """What a draft model is beside its weights; its name, where they are named by hand and it is
    nowhere to be read."""
    path = said["speculative_draft_model_path"]
    if not path:
        return ""
    revision = said["speculative_draft_model_revision"]
    place = _place_of(path, revision, said["download_dir"], settings)
    return configuration_digest(place) or f"{path}@{revision or ''}"


def _layout(said: Settings, model: Path, draft: str, storage: Any) -> str:
    """Everything that decides how a page's bytes are computed, in one line.

    How they are arranged in each host pool stands in the blocks' own keys.
    """
    counted = [meaning_of(said.values, said.groups), variables_of(os.environ)]
    settings = json.dumps(counted, sort_keys=True)
    meaning = {
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        "model": configuration_digest(model),
        "draft": draft,
        "mla": bool(storage.is_mla_model),
        "device": device_of_kernels(),
    }
    return json.dumps(meaning, sort_keys=True, separators=(",", ":"))
