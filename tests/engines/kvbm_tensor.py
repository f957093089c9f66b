"""TEST ONLY: a tensor in host memory as KVBM is shown it."""

from __future__ import annotations

import torch


class DeviceTensor:
    """A tensor that says that it lies on a GPU."""

    class device:  # noqa: N801 - torch's name
        type = "cuda"
        index = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.nbytes = tensor.nbytes
        self.shape = tuple(tensor.shape)

    def data_ptr(self) -> int:
        return self._tensor.data_ptr()

    def stride(self) -> tuple[int, ...]:
        return tuple(self._tensor.stride())
