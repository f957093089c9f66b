"""TEST ONLY: the one part of vLLM's offloading that does not run on a CPU, replaced.

vLLM refuses to copy blocks between "GPU" and host memory on the CPU platform. This spec copies them
with numpy; the scheduler, the manager of the tiers, the look-ups, the offload region and the tier
are vLLM's own, unmodified. Named in kv_connector_extra_config as
`"spec_name": "CpuCopySpec", "spec_module_path": "tests.engines.cpu_copy"`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuCopyWorker(OffloadingWorker):
    """Copies blocks of the engine's cache from and to its rows of the offload region."""

    def __init__(self, caches: Any, blocks_per_chunk: int, region: SharedOffloadRegion) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._region = region
        self._refs = caches.group_data_refs
        self._done: list[TransferResult] = []
        self._device = [
            cache.tensor.view(torch.int8).view(-1, cache.page_size_bytes).numpy()
            for cache in caches.tensors
        ]
        self._host = [
            region.create_next_worker_view(cache.page_size_bytes * blocks_per_chunk).numpy()
            for cache in caches.tensors
        ]

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, src_spec, dst_spec, store=True)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, dst_spec, src_spec, store=False)

    def get_finished(self) -> list[TransferResult]:
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        """Every copy is over when it was submitted."""

    def shutdown(self) -> None:
        self._device = self._host = []
        self._region.cleanup()

    def _copy(self, job_id: int, device: Any, host: Any, *, store: bool) -> bool:
        began = time.perf_counter()
        size, first_block, first_chunk = 0, 0, 0
        for group, (count, index) in enumerate(
            zip(device.group_sizes, device.block_indices, strict=True)
        ):
            if count == 0:
                continue
            skip = index % self._blocks_per_chunk
            chunks = -(-(count + skip) // self._blocks_per_chunk)
            blocks = device.block_ids[first_block : first_block + count]
            rows = host.chunk_ids[first_chunk : first_chunk + chunks]
            first_block, first_chunk = first_block + count, first_chunk + chunks
            inside = np.arange(skip, skip + count)
            where = zip(
                blocks,
                rows[inside // self._blocks_per_chunk],
                inside % self._blocks_per_chunk,
                strict=True,
            )
            size += self._copy_blocks(group, list(where), store)
        seconds = time.perf_counter() - began
        result = TransferResult(
            job_id=job_id, success=True, transfer_size=size, transfer_time=seconds
        )
        self._done.append(result)
        return True

    def _copy_blocks(self, group: int, where: list[tuple[int, int, int]], store: bool) -> int:
        size = 0
        for ref in self._refs[group]:
            device, host = self._device[ref.tensor_idx], self._host[ref.tensor_idx]
            page, used = device.shape[1], ref.page_size_bytes
            for block, row, part in where:
                place = host[row, part * page : part * page + used]
                if store:
                    place[:] = device[block, :used]
                else:
                    device[block, :used] = place
                size += used
        return size


class CpuCopySpec(TieringOffloadingSpec):
    """vLLM's tiering with the worker above."""

    def _uses_shared_region(self) -> bool:
        return True

    def get_worker(self, kv_caches: Any) -> Any:
        if not self._worker:
            region = SharedOffloadRegion(
                engine_id=self.config.engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
                barrier=None,
            )
            self._worker = CpuCopyWorker(kv_caches, self.blocks_per_chunk, region)
        return self._worker
