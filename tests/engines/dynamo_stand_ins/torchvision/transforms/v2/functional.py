"""Names only."""

from .. import InterpolationMode

__all__ = ["InterpolationMode"]
