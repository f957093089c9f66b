"""TEST ONLY, in torchvision's place: PyPI's wheel wants CUDA, and torch is a CPU's here.

It has the names that transformers imports when Dynamo reads a model's configuration, and does
nothing with images.
"""

__version__ = "0.28.0"
