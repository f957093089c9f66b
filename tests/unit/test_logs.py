"""Log lines of Python and of the native client in one process: one form, one level."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging, socket, sys
from memkv_nixl._errors import MemKVError
from memkv_nixl._native import Client
from memkv_nixl.cli._logs import log_natively, log_to_stderr

level, form = sys.argv[1:]
log_to_stderr(level, as_json=form == "json", node=lambda: "before")
logging.getLogger("ours").error("ours")
if form == "json":
    log_natively(level, "after")
with socket.create_server(("127.0.0.1", 0)) as taken:
    address = f"127.0.0.1:{taken.getsockname()[1]}"
try:
    Client([address], timeout_ms=2000).stat(0, 2000)  # nobody listens there any more
except MemKVError:
    pass
"""


def said(level: str, form: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, level, form]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()


def test_the_native_client_logs_as_json_where_its_process_does() -> None:
    ours, *theirs = [json.loads(line) for line in said("info", "json")]
    assert (ours["what"], ours["node"]) == ("ours", "before")
    assert theirs
    for line in theirs:
        assert list(line) == list(ours)
        assert (line["level"], line["node"], line["fields"]) == ("warning", "after", {})
        assert line["what"].startswith("client: node 127.0.0.1:")


def test_as_text_it_says_who_it_is() -> None:
    ours, *theirs = said("info", "text")
    assert ours.endswith("ERROR ours")
    assert theirs
    assert all(line.startswith("memkv warning: client: node 127.0.0.1:") for line in theirs)


def test_the_level_is_that_of_the_native_client_too() -> None:
    (ours,) = said("error", "json")
    assert json.loads(ours)["what"] == "ours"
