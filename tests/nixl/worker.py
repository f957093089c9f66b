"""Runs cases with one NIXL, each in a process of its own that is forked off before NIXL does
anything: the imports, which take seconds with an older NIXL, are paid once.

Reads a line of JSON per case, {"case", "arguments", "environment", "output"}, and answers with its
exit status. Started by conftest.py in an environment of venvs.py.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from tests.nixl import drop_cases, obj_cases, registrations  # noqa: F401 - they add their cases
from tests.nixl.cases import CASES


def run(order: dict[str, object]) -> int:
    """The case, in the child. It leaves as any program does, through all its destructors."""
    output = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    try:
        CASES[str(order["case"])](**order["arguments"])  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        traceback.print_exc()
        return 1
    return 0


def main() -> int:
    orders = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.dup(1)
    os.write(answers, b"ready\n")
    line = b""
    while byte := orders.read(1):
        line += byte
        if byte != b"\n":
            continue
        order = json.loads(line)
        line = b""
        child = os.fork()
        if child == 0:
            return run(order)
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
