"""The golden frames are those that their maker makes; it knows the page and none of our code."""

from __future__ import annotations

from tests.golden import make_wire


def test_the_golden_files_are_what_their_maker_makes() -> None:
    found = {file.name: file.read_text("utf-8") for file in make_wire.FOLDER.iterdir()}
    assert found == make_wire.files()
