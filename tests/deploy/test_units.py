"""The systemd units: verified and judged by systemd itself, without one that runs."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memkv_nixl._config import load_settings
from memkv_nixl._daemon import STOP_DEADLINE_S
from memkv_nixl._errors import ConfigError
from memkv_nixl.cli import EXIT_DISMISSED, EXIT_USAGE, _parser
from memkv_nixl.control._etcd import etcd_of
from memkv_nixl.store._node_agent import NodeAgent
from tests.deploy.chart import DEPLOY

UNITS = DEPLOY / "systemd"
EXPOSURE_MAX = {"memkv-control.service": 1.5, "memkv-node@.service": 2.5}  # of 10


def analyzed(*words: str | Path) -> subprocess.CompletedProcess[str]:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    return subprocess.run([analyze, *words], capture_output=True, text=True, check=False)


class OneOfEach(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def service(name: str) -> configparser.SectionProxy:
    unit = OneOfEach(strict=False)
    unit.read(UNITS / name)
    return unit["Service"]


@pytest.fixture(params=sorted(EXPOSURE_MAX))
def unit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_all_units_are_here() -> None:
    assert {path.name for path in UNITS.glob("*.service")} == set(EXPOSURE_MAX)


def test_systemd_verifies_it(unit: str, tmp_path: Path) -> None:
    there = tmp_path / unit
    memkv = Path(sys.executable).parent / "memkv"
    text = (UNITS / unit).read_text().replace("/opt/memkv/bin/memkv", str(memkv))
    there.write_text(text)
    done = analyzed("verify", "--man=no", there)
    assert (done.returncode, done.stderr) == (0, "")
    there.write_text(text.replace("RestrictRealtime", "RestrictRealtimes"))
    assert "RestrictRealtimes" in analyzed("verify", "--man=no", there).stderr


def test_it_may_do_little(unit: str) -> None:
    done = analyzed("security", "--offline=true", "--no-pager", UNITS / unit)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= EXPOSURE_MAX[unit]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("memkv-control.service", "control"),
        ("memkv-control.service", "control-etcd"),
        ("memkv-node@.service", "node-nvme0"),
    ],
)
def test_its_command_and_settings_are_memkvs(name: str, file: str, tmp_path: Path) -> None:
    words = shlex.split(service(name)["ExecStart"])[1:]
    args = _parser().parse_args(words)
    there = f"/etc/memkv/{file.removesuffix('-etcd')}.yaml"
    assert args.config.replace("%i", "nvme0") == there
    assert (UNITS / f"{file}.yaml").read_text().startswith(f"# {there}")
    settings = load_settings({}, config=str(UNITS / f"{file}.yaml"), environment={})
    states = service(name)["StateDirectory"]
    if file == "control":
        assert settings.control.state == f"/var/lib/{states}"
        assert settings.control.metrics == settings.control.listen.replace(":9910", ":9911")
        assert settings.control.tls_ca
    elif file == "control-etcd":
        assert settings.control.metrics == settings.control.listen.replace(":9910", ":9911")
        assert settings.control.listen in [f"{one[:-5]}:9910" for one in settings.control.etcd]
        assert settings.control.tls_ca
        with pytest.raises(ConfigError, match=r"etcd_ca: .* cannot be read"):  # and nothing else
            etcd_of(settings.control)
    else:
        assert settings.node.also_known_as
        assert settings.node.metrics == settings.node.listen.replace(":9900", ":9901")
        assert service(name)["Environment"] == f"MEMKV_NODE_AGENT_DIR=/var/lib/{states}"
        assert settings.node.control
        with pytest.raises(Exception, match="tls"):  # the files are missing here, nothing else is
            NodeAgent(settings.node)


def test_what_a_node_may_have_instead_is_memkvs_too(tmp_path: Path) -> None:
    text = (UNITS / "node-nvme0.yaml").read_text()
    text, more = re.subn(r"^  # (\w+: )", r"  \1", text, flags=re.MULTILINE)
    assert more == 4
    (tmp_path / "node.yaml").write_text(text.replace("  insecure: true\n", ""))
    node = load_settings({}, config=str(tmp_path / "node.yaml"), environment={}).node
    assert (node.anonymous, node.insecure) == ("no", False)
    assert all((node.data_tls_cert, node.data_tls_key, node.data_tls_ca))


def test_the_agent_alone_is_stopped_and_has_time() -> None:
    node = service("memkv-node@.service")
    assert node["KillMode"] == "process"
    assert int(node["TimeoutStopSec"]) > 2 * STOP_DEADLINE_S
    assert node["Restart"] == "on-failure"
    assert node["RestartPreventExitStatus"].split() == [str(EXIT_USAGE), str(EXIT_DISMISSED)]
    assert service("memkv-control.service")["StateDirectoryMode"] == "0700"


def test_sysusers_makes_the_user() -> None:
    line = [one for one in (UNITS / "memkv.sysusers").read_text().splitlines() if one[:1] == "u"]
    assert [one.split()[1] for one in line] == [service("memkv-node@.service")["User"]]
