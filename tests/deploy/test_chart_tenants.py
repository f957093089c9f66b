"""A pool with tenants and certificates, by the chart's own command lines, on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.control import etcds
from tests.control.certificates import certificates
from tests.deploy.chart import VALUES, Object, render
from tests.deploy.pool import SCRIPTS, Served, ran, served
from tests.integration.scraping import get

AGENT = "/var/lib/memkv-node"
VOLUME = "/var/lib/memkv-blocks"


def words_of(container: Object, **places: str) -> list[str]:
    """What the container is started with, where its folders and addresses are others."""
    words = list(container["args"])
    for before, after in ({"$(POD_NAME)": "memkv-0", "$(NODE_NAME)": "machine"} | places).items():
        words = [word.replace(before, after) for word in words]
    return words


@contextmanager
def pool_of_the_chart(folder: Path) -> Iterator[tuple[Served, Served, list[str]]]:
    """A control plane, a node that listens everywhere, and how kubelet asks the node."""
    release = render(VALUES["first-day"])
    plane = words_of(
        release.main("memkv-control"),
        **{"0.0.0.0:9910": "127.0.0.1:0", "0.0.0.0:9911": "127.0.0.1:0"},
        **{"/var/lib/memkv-control": str(folder / "control")},
    )
    with served("memkv", *[word for word in plane if word != "--json"]) as control:
        node = words_of(
            release.main("memkv"),
            **{
                "0.0.0.0:9900": "0.0.0.0:0",
                "0.0.0.0:9901": "127.0.0.1:0",
                "memkv-control.pool.svc:9910": control.address,
                VOLUME: str(folder),
                "18GiB": "1GiB",
                "--dram=1GiB": "--dram=256MiB",
            },
        )
        with served(
            str(SCRIPTS / "memkv-node"),
            *[word for word in node if word != "--json"],
            MEMKV_NODE_AGENT_DIR=str(folder / "agent"),
        ) as running:
            probe = release.main("memkv")["livenessProbe"]["exec"]["command"]
            port = running.address.rpartition(":")[2]
            asks = [word.replace(":9900", f":{port}") for word in probe]
            yield control, running, [word.replace(AGENT, str(folder / "agent")) for word in asks]


def test_a_node_stays_alive_when_the_first_tenant_comes(tmp_path: Path) -> None:
    """The first tenant once cut kubelet's probe off, as everybody without a token."""
    with pool_of_the_chart(tmp_path) as (control, node, probe):
        assert ran(*probe).returncode == 0
        at = f"--control={control.address}"
        assert ran("memkv", "tenants", "create", "acme", at).returncode == 0
        anybody = [word for word in probe if not word.startswith("--token-file")]
        refused = until_refused(anybody)
        assert "wants a token" in refused
        alive = ran(*probe)
        assert alive.returncode == 0, alive.stdout + alive.stderr
        token = tmp_path / "acme.token"
        issued = ran("memkv", "token", "issue", "--tenant=acme", f"--out={token}", at)
        assert issued.returncode == 0, issued.stderr
        theirs = ran("memkv", "status", f"--nodes={node.address}", f"--token-file={token}")
        assert theirs.returncode == 0, theirs.stdout


def test_both_have_a_page_for_prometheus(tmp_path: Path) -> None:
    with pool_of_the_chart(tmp_path) as (control, node, _):
        for one, line in ((control, "memkv_control_nodes{"), (node, "\nmemkv_node_up 1\n")):
            status, page = get(one.said["metrics"])
            assert (status, line in page) == (200, True), page


def until_refused(probe: list[str]) -> str:
    """The map with the tenant is on its way; each question is a round trip."""
    for _ in range(200):
        asked = ran(*probe)
        if asked.returncode:
            return asked.stdout + asked.stderr
    pytest.fail("those without a token are let in still")


def test_the_chart_speaks_to_an_etcd_that_wants_certificates(tmp_path: Path) -> None:
    certificates(tmp_path)
    pem = {name: str(tmp_path / f"tls_{name}.pem") for name in ("cert", "key", "ca")}
    wants = ["--client-cert-auth", "--trusted-ca-file", pem["ca"]]
    wants += ["--cert-file", pem["cert"], "--key-file", pem["key"]]
    places = {"tls.crt": pem["cert"], "tls.key": pem["key"], "ca.crt": pem["ca"]}
    with etcds.running(tmp_path / "etcd", "https", *wants) as etcd:
        words = words_of(
            render(VALUES["production"]).main("memkv-control"),
            **{
                f"/etc/memkv/{folder}/{name}": path
                for folder in ("tls", "etcd-tls")
                for name, path in places.items()
            },
            **{",".join(VALUES["production"]["control"]["etcd"]): etcd.address},
            **{"0.0.0.0:9910": "127.0.0.1:0", "0.0.0.0:9911": "127.0.0.1:0"},
            **{"/var/lib/memkv-control": str(tmp_path / "unused")},
        )
        words = [word for word in words if word != "--json"]
        with served("memkv", *words) as control:
            assert control.said["state"] == f"etcd at {etcd.address}, /memkv/prod"
            flags = [f"--tls-{name}={path}" for name, path in pem.items()]
            at = f"--control={control.address}"
            listed = ran("memkv", "tenants", "list", at, *flags, "--json")
            assert listed.returncode == 0, listed.stderr
            assert [one["name"] for one in json.loads(listed.stdout)["tenants"]] == ["default"]
