"""Buffers: where the bytes of an array, a tensor or any buffer lie, without a copy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from memkv_nixl._errors import UsageError


@dataclass(frozen=True)
class Extent:
    """A range of this process's memory, and what keeps it alive."""

    address: int
    length: int
    keeps: object

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.address + self.length


def extent_of(buffer: Any, *, writable: bool, what: str) -> Extent:
    """The memory of a numpy array, a torch tensor on the CPU, or a contiguous buffer.

    `what` names the buffer in the sentence of a refusal, say "buffers[3]".
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(buffer, torch.Tensor):
        return _of_tensor(buffer, what)
    return _of_buffer(buffer, writable, what)


def _of_tensor(tensor: Any, what: str) -> Extent:
    if tensor.device.type != "cpu":
        raise UsageError(
            f"{what}: a tensor on {tensor.device}; this version moves blocks from and to host "
            "memory, so copy it into a pinned tensor on the CPU first"
        )
    if not tensor.is_contiguous():
        raise UsageError(f"{what}: the tensor is not contiguous; call .contiguous() first")
    length = tensor.numel() * tensor.element_size()
    if length == 0:
        raise UsageError(f"{what}: is empty, and a block has at least one byte")
    return Extent(tensor.data_ptr(), length, tensor)


def _of_buffer(buffer: Any, writable: bool, what: str) -> Extent:
    import numpy as np

    if isinstance(buffer, np.ndarray):
        array = buffer  # also of a dtype that the buffer protocol does not know, such as bfloat16
    else:
        try:
            view = memoryview(buffer)
        except TypeError:
            raise UsageError(
                f"{what}: {type(buffer).__name__} is no buffer; give a numpy array, a torch "
                "tensor or anything with the buffer protocol"
            ) from None
        if not view.c_contiguous:
            raise UsageError(f"{what}: the buffer is not contiguous")
        if "O" in view.format:
            return _of_buffer(np.asarray(view), writable, what)
        # numpy cannot make a view of nothing; the length is refused below.
        array = np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
    if array.dtype.hasobject:
        raise UsageError(f"{what}: holds Python objects, whose addresses mean nothing elsewhere")
    if not array.flags.c_contiguous:
        raise UsageError(f"{what}: the array is not C-contiguous; use numpy.ascontiguousarray")
    if writable and not array.flags.writeable:
        raise UsageError(f"{what}: is read-only, and a get writes into it")
    if array.nbytes == 0:
        raise UsageError(f"{what}: is empty, and a block has at least one byte")
    return Extent(array.ctypes.data, array.nbytes, array)
