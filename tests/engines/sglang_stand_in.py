"""A stand-in for torchvision, whose PyPI builds want CUDA: just the names that SGLang imports.

Nothing of it is called here. `python -m tests.engines.sglang_stand_in MODEL NODES [CASE...]` puts
it there before anything of SGLang's is imported, and runs the cases of sglang_cases.py.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import transformers.utils.import_utils


class _Anything(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"BICUBIC": 3, "BILINEAR": 2, "NEAREST": 0})


def stand_in() -> None:
    """Puts it where no torchvision is."""
    if transformers.utils.import_utils.is_torchvision_available():
        return
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        module = _Anything(name)
        module.__path__ = []
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


if __name__ == "__main__":
    stand_in()
    from tests.engines import sglang_cases

    sglang_cases.main(sys.argv[1:])
