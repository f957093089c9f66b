"""Settings: where they come from, which wins, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl._config import load_settings
from memkv_nixl._daemon import memkvd_flags
from memkv_nixl._errors import CODES, ConfigError, MissError, error_from_code
from memkv_nixl._sizes import format_size, parse_size


def test_defaults() -> None:
    settings = load_settings({}, environment={})
    assert settings.nodes == ()
    assert settings.timeout_ms == 5000
    assert settings.node.listen == "127.0.0.1:9900"


def test_the_later_wins(tmp_path: Path) -> None:
    file = tmp_path / "memkv.yaml"
    file.write_text(
        "nodes: a:1,b:2\ntimeout_ms: 1\nnode: {device: /f, capacity: 1GiB, weight: 7}\n"
    )
    env = {"MEMKV_CONFIG": str(file), "MEMKV_TIMEOUT_MS": "2", "MEMKV_NODE_DEVICE": "/e"}
    settings = load_settings({"timeout_ms": 3, "node": {"device": None}}, environment=env)
    assert settings.nodes == ("a:1", "b:2")
    assert settings.timeout_ms == 3
    assert settings.node.device == "/e"
    assert (settings.node.capacity, settings.node.weight) == (1 << 30, 7)


def test_sections_are_merged_like_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "memkv.yaml"
    file.write_text("control: {listen: 'a:1', state: /s}\nnode: {control: 'a:1'}\n")
    env = {"MEMKV_CONTROL_LISTEN": "b:2", "MEMKV_NODE_CONTROL": "b:2"}
    flags = {"control": {"listen": "c:3", "state": None}}
    settings = load_settings(flags, config=str(file), environment=env)
    assert (settings.control.listen, settings.control.state) == ("c:3", "/s")
    assert settings.node.control == ("b:2",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n", "top level"),
        ("nodes: 3\n", "not a list"),
        ("node: 3\n", "section"),
        ("timeout_ms: soon\n", "whole number"),
        ("timeout_ms: true\n", "whole number"),
        ("timeout_ms: 0\n", "not between"),
        ("node: {format: maybe}\n", "neither true nor false"),
        ("node: {capacity: [1]}\n", "not a size"),
        ("node: {listen: 9900x}\n", "HOST:PORT"),
        ("node: {listen: 'h:70000'}\n", "HOST:PORT"),
        ("node: {devise: /x}\n", "did you mean 'device'"),
        ("namespace: [x]\n", "not text"),
        ("control: 3\n", "control must be a section"),
        ("control: {listem: 'a:1'}\n", "control.listem: there is no such setting; did you mean"),
        ("control: {listen: 9910x}\n", "control.listen"),
        ("control: {heartbeat_ms: 5}\n", "control.heartbeat_ms: 5 is not 10 to 60000"),
        ("control: {deadline_ms: 1500}\n", "at least 2000"),
        ("control: {lost_after_ms: 4000}\n", "control.lost_after_ms"),
        ("node: {control: here}\n", "node.control"),
        ("nodes: [a:1\n", "not YAML"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "memkv.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_settings({}, config=str(file), environment={})


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "memkv.yaml"
    file.write_bytes(b"namespace: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings({}, config=str(file), environment={})


def test_other_variables_that_begin_with_memkv_are_no_settings() -> None:
    assert load_settings({}, environment={"MEMKV_JOBS": "2"}) == load_settings({}, environment={})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings({}, config="/no/such/file.yaml", environment={})


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("4096", 4096), ("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("2tb", 2 * 10**12), (7, 7)],
)
def test_sizes(text: str | int, bytes_: int) -> None:
    assert parse_size(text, "x") == bytes_


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XiB", "1e9", -1])
def test_wrong_sizes_are_named(text: str | int) -> None:
    with pytest.raises(ConfigError, match="x: "):
        parse_size(text, "x")


@given(st.integers(0, 1 << 50))
def test_a_plain_number_is_its_bytes(count: int) -> None:
    assert parse_size(str(count), "x") == count
    assert format_size(count)


def test_every_code_has_an_error() -> None:
    for number, name in enumerate(CODES):
        assert error_from_code(number, "").code == name
    assert isinstance(error_from_code(CODES.index("corrupt"), ""), MissError)


@pytest.mark.parametrize("more", [{"control": ["c:9910"]}, {"metrics": "127.0.0.1:0"}])
def test_who_keeps_a_node_with_tls_needs_its_ca(more: dict[str, Any]) -> None:
    node = {"data_tls_cert": "c", "data_tls_key": "k", **more}
    with pytest.raises(ConfigError, match=r"node\.data_tls_ca: "):
        load_settings({"node": node}, environment={})
    alone = load_settings({"node": {"data_tls_cert": "c", "data_tls_key": "k"}}, environment={})
    assert memkvd_flags(alone.node)[:4] == ["--listen", "127.0.0.1:9900", "--tls-cert", "c"]
    whole = load_settings({"node": {**node, "data_tls_ca": "ca"}}, environment={})
    assert "ca" not in memkvd_flags(whole.node)
