"""What an engine computes on."""

from __future__ import annotations


def device_of_kernels() -> str:
    """The device, as far as it decides which kernels compute a block, and so its bytes."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.version.hip or 'cuda'} {torch.cuda.get_device_capability()}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"
