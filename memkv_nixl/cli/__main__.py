"""`python -m memkv_nixl.cli` is `memkv`."""

import sys

from memkv_nixl.cli import main

sys.exit(main())
