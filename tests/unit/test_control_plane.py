"""Which replica of a control plane is asked next."""

from __future__ import annotations

import pytest

from memkv_nixl._config import load_settings
from memkv_nixl._control_plane import Replicas
from memkv_nixl._errors import ConfigError


def test_each_is_asked_at_once_and_a_round_ends_with_a_pause() -> None:
    replicas = Replicas(["a:1", "b:2", "c:3"])
    assert (replicas.current, str(replicas)) == ("a:1", "a:1,b:2,c:3")
    assert replicas.turn()
    assert replicas.current == "b:2"
    assert replicas.turn()
    assert not replicas.turn()
    assert replicas.current == "a:1"
    assert replicas.turn()
    replicas.found()
    assert [replicas.turn(), replicas.turn(), replicas.turn()] == [True, True, False]


def test_a_leader_that_is_named_is_next_also_when_it_is_no_address_of_ours() -> None:
    replicas = Replicas(["a:1", "b:2"])
    assert replicas.turn("x:9")
    assert replicas.current == "x:9"
    assert not replicas.turn(), "it does not answer either: the list begins again, after a pause"
    assert replicas.current == "a:1"


def test_the_only_one_is_asked_again_after_a_pause() -> None:
    replicas = Replicas(["a:1"])
    assert not replicas.several
    assert not replicas.turn()
    assert replicas.current == "a:1"


def test_addresses_come_from_everywhere() -> None:
    env = {"MEMKV_NODE_CONTROL": "a:1, b:2", "MEMKV_CONTROL_ETCD": "e:1,e:2"}
    settings = load_settings({}, environment=env)
    assert settings.node.control == ("a:1", "b:2")
    assert settings.control.etcd == ("e:1", "e:2")


@pytest.mark.parametrize(
    ("control", "sentence"),
    [
        ({"etcd": "http://e:1"}, "control.etcd"),
        ({"advertise": "here"}, "control.advertise"),
        ({"pool": "a/b"}, "control.pool"),
        ({"lease_s": 1}, "control.lease_s"),
    ],
)
def test_what_is_wrong_is_said(control: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_settings({"control": control}, environment={})
