"""`python -m memkv_nixl.bench WHAT`."""

from __future__ import annotations

import argparse
import sys

from memkv_nixl.bench import _control, _copies, _crc, _nixl, _path, _tls


def main() -> int:
    """Runs one benchmark."""
    parser = argparse.ArgumentParser(prog="memkv-bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    _path.add_command(benches)
    _nixl.add_command(benches)
    _control.add_command(benches)
    _tls.add_command(benches)
    _copies.add_command(benches)
    _crc.add_command(benches)
    args = parser.parse_args()
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
