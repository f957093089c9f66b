"""The folder for NIXL_PLUGIN_DIR: what is linked, what is renewed, and what is never touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkv_nixl._errors import NixlError, UsageError
from memkv_nixl._plugin_folder import make_plugin_folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """NIXL as its wheel lays it out."""
    plugins = tmp_path / "site/.nixl_cu12.mesonpy.libs/plugins"
    plugins.mkdir(parents=True)
    for name in ("POSIX", "OBJ"):
        (plugins / f"libplugin_{name}.so").write_text(f"NIXL's {name}")
    (plugins.parent / "libnixl.so").write_text("NIXL")
    (tmp_path / "site/nixl_cu12.libs").mkdir()
    (tmp_path / "site/nixl_cu12.libs/libucp.so.0").write_text("UCX")
    return plugins


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "ours/libplugin_MEMKV.so"
    path.parent.mkdir()
    path.write_text("ours")
    return path


def texts_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_ours_takes_the_name_in_the_folder_only(own: Path, plugin: Path, tmp_path: Path) -> None:
    before = texts_in(own)
    made = make_plugin_folder(own, plugin, tmp_path / "d", "OBJ")
    assert texts_in(made) == {
        "libplugin_POSIX.so": "NIXL's POSIX",
        "libplugin_OBJ.so": "ours",
        "libplugin_MEMKV.so": "ours",
    }
    assert texts_in(own) == before
    # Where NIXL's plugins look for what they need: above them, and in the wheel's own folder.
    assert (made / "../libnixl.so").read_text() == "NIXL"
    assert (made / "../../nixl_cu12.libs/libucp.so.0").read_text() == "UCX"


def test_by_its_own_name_nixls_obj_stays(own: Path, plugin: Path, tmp_path: Path) -> None:
    made = make_plugin_folder(own, plugin, tmp_path / "d", "MEMKV")
    assert texts_in(made)["libplugin_OBJ.so"] == "NIXL's OBJ"
    assert texts_in(made)["libplugin_MEMKV.so"] == "ours"


def test_a_folder_is_renewed(own: Path, plugin: Path, tmp_path: Path) -> None:
    made = make_plugin_folder(own, plugin, tmp_path / "d", "OBJ")
    (own / "libplugin_POSIX.so").rename(own / "libplugin_NEW.so")
    plugin = plugin.rename(plugin.parent / "moved.so")
    assert make_plugin_folder(own, plugin, tmp_path / "d", "OBJ") == made
    assert sorted(texts_in(made)) == [f"libplugin_{name}.so" for name in ("MEMKV", "NEW", "OBJ")]
    assert texts_in(made)["libplugin_OBJ.so"] == "ours"


def test_where_the_system_keeps_libraries_none_are_linked(
    own: Path, plugin: Path, tmp_path: Path
) -> None:
    (tmp_path / "site/nixl_cu12.libs/libucp.so.0").unlink()
    (tmp_path / "site/nixl_cu12.libs").rmdir()
    make_plugin_folder(own, plugin, tmp_path / "d", "OBJ")
    assert [path.name for path in (tmp_path / "d/nixl").iterdir()] == ["plugins"]


def test_what_is_somebody_elses_is_left_alone(own: Path, plugin: Path, tmp_path: Path) -> None:
    kept = tmp_path / "d/nixl/plugins/libplugin_OBJ.so"
    kept.parent.mkdir(parents=True)
    kept.write_text("theirs")
    for folder in (tmp_path / "d", own, own / "below", plugin):
        with pytest.raises(UsageError, match="name a new"):
            make_plugin_folder(own, plugin, folder, "OBJ")
    assert kept.read_text() == "theirs"
    assert plugin.read_text() == "ours"


def test_a_nixl_without_plugins_is_said(plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(NixlError, match="is no folder"):
        make_plugin_folder(tmp_path / "none", plugin, tmp_path / "d", "OBJ")
