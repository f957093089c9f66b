"""MemKVLMCacheConnector: LMCache's own connector of vLLM, which says what its blocks mean.

    --kv-transfer-config '{"kv_connector": "MemKVLMCacheConnector", "kv_role": "kv_both",
      "kv_connector_module_path": "memkv_nixl.kvbm.lmcache_connector",
      "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {
        "lmcache.mp.host": "tcp://localhost", "lmcache.mp.port": 5555}}'

It is LMCacheMPConnector in everything but the model's name, which bears a fingerprint of the
weights and of how they are computed (`_lmcache_meaning.py`). What the server keeps then misses when
anything of it differs, in LMCache's own memory and in the pool.
"""

from __future__ import annotations

import logging
from typing import Any

import lmcache
import vllm
from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector

from memkv_nixl.kvbm._lmcache_meaning import marked_config
from memkv_nixl.kvbm._lmcache_version import engine_name, refuse_unknown_lmcache
from memkv_nixl.kvbm._vllm_version import engine_name as vllm_name
from memkv_nixl.kvbm._vllm_version import refuse_unknown_vllm

_log = logging.getLogger("vllm.memkv")  # so that it is heard where vLLM's own log is


class MemKVLMCacheConnector(LMCacheMPConnector):  # type: ignore[misc]  # not there when checked
    """See the module. Of `kv_connector_extra_config` it reads `memkv.weights`."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        """Raises ConfigError with the sentence that helps; vLLM then does not start."""
        refuse_unknown_lmcache(lmcache.__version__)
        refuse_unknown_vllm(vllm.__version__)
        engine = f"{engine_name(lmcache.__version__)} {vllm_name(vllm.__version__)}"
        changed = marked_config(vllm_config, engine)
        _log.info("MemKV: LMCache keeps this model as %s", changed.model_config.model)
        super().__init__(changed, role, kv_cache_config)
