"""The relay between the engines of a pool and Dynamo's router.

    python -m memkv_nixl.kvbm.mooncake_relay --listen tcp://*:5556 --publish tcp://*:5557

Engines name the first address as "events_endpoint", the router's frontend the second as
DYN_MOONCAKE_KV_EVENTS_ENDPOINT. It holds no data of anybody's, only keys: after a restart it learns
them again as pages are stored or found. docs/guides/sglang.md is the guide.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from memkv_nixl._errors import MemKVError
from memkv_nixl.kvbm._mooncake_events import Publisher


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m memkv_nixl.kvbm.mooncake_relay")
    parser.add_argument("--listen", default="tcp://*:5556", help="where engines send their events")
    parser.add_argument("--publish", default="tcp://*:5557", help="where the router listens")
    given = parser.parse_args(arguments)
    try:
        publisher = Publisher(given.publish, given.listen)
    except MemKVError as error:
        sys.stderr.write(f"mooncake_relay: {error}\n")
        return 2
    sys.stdout.write(
        f"engines send to {publisher.listening}, the router listens to {publisher.published}\n"
    )
    sys.stdout.flush()
    try:
        return 0 if publisher.wait() else 1
    except KeyboardInterrupt:
        publisher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
