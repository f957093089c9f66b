"""What an operator is to know of second copies: whether one failure takes both."""

from __future__ import annotations

from collections.abc import Iterable


def one_failure(nodes: Iterable[tuple[str, str]]) -> str:
    """Why one failure takes both copies of a block, "" where it does not. `nodes` are the address
    and the failure domain ("": itself) of each node that takes blocks."""
    known = list(nodes)
    if len(known) == 1:
        return f"{known[0][0]} is the only node that takes blocks, so there is no second copy"
    domains = {domain for _, domain in known}
    if len(domains) == 1 and "" not in domains:
        (domain,) = domains
        return (
            f"all nodes that take blocks are in the failure domain {domain!r}, so both copies of a "
            "block may fail together; start one with another --failure-domain"
        )
    return ""
