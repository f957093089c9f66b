"""Runs: which pages of a prompt lie together on one node.

A page's key is a hash over all tokens up to its end. A page begins a run where its key says so, one
in `run_pages` on the average, and so does the first page of a prompt; a run lies together under the
key of the page that begins it, so that a lost node costs whole runs. Whoever stores is told the
keys from the prompt's beginning on and knows every run.

Whoever loads is not: SGLang leaves out the pages of the last node of its tree that it has already.
Counting places, as vLLM's tier does, would go wrong from there on. Here only the pages before the
first one that begins a run are unsure, and they are looked for on every node.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from memkv_nixl._errors import ConfigError


def refuse_lead(lead_blocks: int | None) -> None:
    """Raises ConfigError where first pages are to lie alone: whoever loads could not find them."""
    if lead_blocks:
        raise ConfigError(
            f"lead_blocks: {lead_blocks}, but SGLang does not say which pages of a prompt it asks "
            "for; leave it out"
        )


def begins_run(key: bytes, run_pages: int) -> bool:
    """Whether a page begins a run wherever it stands."""
    return zlib.crc32(key) % run_pages == 0


def runs_of(prefix: Sequence[bytes], keys: Sequence[bytes], run_pages: int) -> list[bytes]:
    """For each of `keys`, which follow `prefix` from the prompt's beginning, its run's name."""
    name = b""
    for key in reversed(prefix):
        name = key  # the first page of the prompt, unless a run begins later
        if begins_run(key, run_pages):
            break
    names = []
    for key in keys:
        if not name or begins_run(key, run_pages):
            name = key
        names.append(name)
    return names


def sure_runs_of(keys: Sequence[bytes], run_pages: int) -> list[bytes | None]:
    """For each of consecutive keys, its run's name; None before the first that begins one."""
    name: bytes | None = None
    names = []
    for key in keys:
        if begins_run(key, run_pages):
            name = key
        names.append(name)
    return names
