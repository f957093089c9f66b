"""Names only."""

import enum

InterpolationMode = enum.Enum(
    "InterpolationMode",
    {
        name.upper().replace("-", "_"): name
        for name in (
            *("nearest", "nearest-exact", "bilinear", "bicubic"),
            *("box", "hamming", "lanczos"),
        )
    },
)
