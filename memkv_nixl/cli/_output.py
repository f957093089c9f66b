"""What a command says: lines for a person, or one JSON document for a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from memkv_nixl._errors import MemKVError


class Output:
    """Standard output belongs to the answer, standard error to everything else."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def answer(self, document: Mapping[str, Any], human: Sequence[str]) -> None:
        """Prints the document with --json, else the lines."""
        text = json.dumps(document) if self.as_json else "\n".join(human)
        if text:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """Says to a person how far it is; scripts do not hear it."""
        if not self.as_json:
            print(text, file=sys.stderr, flush=True)

    def error(self, error: MemKVError) -> None:
        """Says what went wrong, with its code."""
        if self.as_json:
            print(json.dumps({"error": {"code": error.code, "message": str(error)}}), flush=True)
        else:
            print(f"memkv: {error}", file=sys.stderr)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows under their heads, in columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
