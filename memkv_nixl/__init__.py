"""MemKV-NIXL: a shared, flash-backed tier for the KV cache of LLM inference."""

__all__ = ["__version__"]

__version__ = "0.1.0"
