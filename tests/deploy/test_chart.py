"""The Helm chart: rendered by Helm's engine, held against its own schema, Kubernetes' schemas, the
commands that its pods start, and itself."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from memkv_nixl import __version__
from memkv_nixl._config import check_address
from memkv_nixl._daemon import STOP_DEADLINE_S
from memkv_nixl._errors import ConfigError
from memkv_nixl._sizes import parse_size
from memkv_nixl.cli import _parser
from memkv_nixl.control._etcd import etcd_of
from tests.deploy.chart import (
    CHART,
    DEPLOY,
    NEWEST,
    OLDEST,
    VALUES,
    Object,
    Release,
    arguments,
    default_values,
    findings,
    helm,
    merged,
    render,
    settings_of,
    values_schema,
)

POD_MEMORY = 4 << 30  # what memkvd, its index and the agent need beside the blocks


@pytest.fixture(params=sorted(VALUES))
def values(request: pytest.FixtureRequest) -> Object:
    chosen: Object = VALUES[request.param]
    return chosen


@pytest.fixture
def release(values: Object) -> Release:
    return render(values)


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


# ---- the values


def test_the_versions_are_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert f'version="{__version__}"' in (DEPLOY / "docker/Dockerfile").read_text()


def test_helm_lint_finds_nothing(values: Object) -> None:
    report = helm().lint(CHART, values, strict=True)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    assert [
        one for one in report["messages"] if one["severity"] > 1
    ] == []  # 1: an icon would be nice


def test_the_schema_knows_what_the_values_have_and_nothing_else() -> None:
    schema = values_schema()
    definitions = schema["definitions"]

    def compare(value: Any, part: Object, where: str) -> None:
        part = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if "properties" not in part or not isinstance(value, dict):
            return
        optional = set(part["properties"]) - set(part["required"])
        assert set(value) | optional == set(part["properties"]), where
        for name, item in value.items():
            compare(item, part["properties"][name], f"{where}.{name}")

    compare(default_values(), schema, "values")


def test_every_object_of_the_schema_is_closed() -> None:
    def objects(part: Any) -> Iterator[Object]:
        if isinstance(part, dict):
            if "properties" in part and part.get("type") == "object":
                yield part
            for item in part.values():
                yield from objects(item)

    found = list(objects(values_schema()))
    assert len(found) > 15
    assert [one for one in found if one["additionalProperties"] is not False] == []


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("control.replicas", 3, "/control/etcd"),  # a snapshot has one process
        ("control.etcd", ["etcd-0"], "/control/etcd/0"),
        ("control.relicas", 1, "relicas"),
        ("tls.insecure", False, "/tls/"),  # and no certificates
        ("tls.nodeSecret", "memkv-node-tls", "/tls/nodeSecret"),  # and insecure
        ("tls.data", True, "/tls/data"),  # and no certificate to show
        ("control.etcdTls", {"secret": "memkv-etcd-tls"}, "/control/etcd"),  # and no etcd
        ("control.etcdTls", {"certificate": "x"}, "certificate"),
        ("control.pool", "a/b", "/control/pool"),
        ("node.anonymous", False, "/node/anonymous"),  # what YAML makes of a plain no
        ("node.alsoKnownAs", ["memkv-0.memkv"], "/node/alsoKnownAs/0"),
        ("node.alsoKnownAs", ["$(NODE_NAME):9900"], "/node/alsoKnownAs/0"),
        ("node.alsoKnownAs", [f"a{i}:1" for i in range(7)], "/node/alsoKnownAs"),
        ("node.dram", "16Gi", "/node/dram"),  # a size of ours, no quantity of Kubernetes
        ("node.volume.size", "1TiB", "/node/volume/size"),  # the other way round
        ("node.volume.capacity", "", "/node/volume/capacity"),  # of a file
        ("node.volume.mode", "Block", "/node/volume/capacity"),  # a device has its own
        ("node.resources.limits.memory", "plenty", "/node/resources/limits/memory"),
        ("node.resources.claims", {}, "claims"),
        ("node.image.tag", "a b", "/node/image/tag"),
        ("node.podLabels", {"app.kubernetes.io/component": "x"}, "io/component"),
        ("node.tolerations", [{"operator": "Sometimes"}], "/node/tolerations/0/operator"),
        ("seccomp.path", "../node.json", "/seccomp/path"),
        ("networkPolicy.clients", [{}], "/networkPolicy/clients/0"),  # would be everybody
        ("networkPolicy.clients", [{"podSelecter": {}}], "podSelecter"),
        ("metrics.scrapers", [{}], "/metrics/scrapers/0"),  # would be everybody, too
        ("metrics.port", 9901, "port"),
        ("extra", {}, "extra"),
    ],
)
def test_what_is_wrong_is_refused(path: str, value: Any, where: str) -> None:
    values = copy.deepcopy(VALUES["first-day"])
    part = values
    *parts, last = path.split(".")
    for name in parts:
        part = part.setdefault(name, {})
    part[last] = value
    with pytest.raises(helm().HelmValuesError) as refused:
        render(values)
    assert where in str(refused.value)


def test_without_a_word_on_certificates_nothing_is_installed() -> None:
    with pytest.raises(helm().HelmValuesError, match="/tls/controlSecret"):
        render({})


# ---- what Kubernetes says


@pytest.mark.parametrize("version", [OLDEST, "1.32", NEWEST])
def test_kubernetes_takes_every_object(release: Release, version: str) -> None:
    assert [found for one in release.objects for found in findings(one, version)] == []


def test_the_oldest_is_what_the_chart_says() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


@pytest.mark.parametrize(
    ("kind", "path", "value", "words"),
    [
        ("StatefulSet", ("spec", "serviceNam"), "x", "serviceNam"),
        ("StatefulSet", ("spec", "replicas"), "3", "replicas"),
        ("Service", ("spec", "ports"), "9900", "ports"),
        ("NetworkPolicy", ("spec", "policyTypes"), "Ingress", "policyTypes"),
        ("PodDisruptionBudget", ("spec", "maxUnavailible"), 1, "maxUnavailible"),
    ],
)
def test_kubernetes_refuses_what_is_wrong(
    kind: str, path: tuple[str, ...], value: Any, words: str
) -> None:
    spoilt = copy.deepcopy(next(iter(render(VALUES["production"]).of(kind).values())))
    part = spoilt
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    assert [one for one in findings(spoilt, NEWEST) if words in one]


# ---- the objects fit together


def test_what_is_named_is_there(release: Release) -> None:
    for name, owner in release.of("StatefulSet").items():
        pod = release.pod(name)
        spec = pod["spec"]
        claims = {one["metadata"]["name"] for one in owner["spec"].get("volumeClaimTemplates", [])}
        volumes = {one["name"] for one in spec.get("volumes", [])}
        assert claims.isdisjoint(volumes)
        used = {
            mount["name"]
            for container in containers(pod)
            for key in ("volumeMounts", "volumeDevices")
            for mount in container.get(key, [])
        }
        assert used == claims | volumes
        assert release.of("Service")[owner["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
        maps = {one["configMap"]["name"] for one in spec.get("volumes", []) if "configMap" in one}
        assert maps <= set(release.of("ConfigMap"))
        account = spec.get("serviceAccountName")
        assert account is None or account in release.of("ServiceAccount")


def test_everything_that_selects_selects_one_component(release: Release) -> None:
    pods = {name: release.pod(name)["metadata"]["labels"] for name in release.of("StatefulSet")}
    owners, budgets, policies = (
        release.of(kind).values()
        for kind in ("StatefulSet", "PodDisruptionBudget", "NetworkPolicy")
    )
    selectors = [
        *(one["spec"]["selector"]["matchLabels"] for one in (*owners, *budgets)),
        *(one["spec"]["selector"] for one in release.of("Service").values()),
        *(one["spec"]["podSelector"]["matchLabels"] for one in policies),
    ]
    chosen = []
    for selector in selectors:
        hits = [name for name, labels in pods.items() if selector.items() <= labels.items()]
        assert len(hits) == 1, selector
        chosen += hits
    for name in pods:  # itself, Services, a budget, a policy
        assert chosen.count(name) == (4 if name == "memkv" else 5)


def test_an_upgrade_of_the_chart_alone_restarts_nothing(release: Release) -> None:
    for name, owner in release.of("StatefulSet").items():
        own = release.pod(name)["metadata"]["labels"]
        assert own == owner["spec"]["selector"]["matchLabels"]


def test_ports_are_those_of_the_pods(release: Release) -> None:
    for service, pod in (
        ("memkv", "memkv"),
        ("memkv-control", "memkv-control"),
        ("memkv-control-pods", "memkv-control"),
    ):
        (port,) = release.of("Service")[service]["spec"]["ports"]
        there = release.main(pod)["ports"][0]
        assert (port["targetPort"], port["port"]) == (there["name"], there["containerPort"])


def test_a_long_name_fits() -> None:
    release = render(VALUES["first-day"], name="a" * 53)
    assert all(len(name) <= 52 for name in release.of("StatefulSet"))
    assert [found for one in release.objects for found in findings(one, NEWEST)] == []


# ---- the pods


def test_nodes_are_started_as_memkv_takes_it(values: Object, release: Release) -> None:
    settings = settings_of(arguments(release.main("memkv"), "node", "serve")).node
    chosen = merged(values)["node"]
    assert settings.advertise == "memkv-0.memkv.pool.svc:9900"
    assert settings.control == control_addresses(values)
    assert settings.anonymous == (chosen["anonymous"] or None)
    assert settings.insecure  # beyond loopback, and tls.data is not set
    assert settings.dram == parse_size(chosen["dram"], "dram")
    assert settings.failure_domain == ("" if chosen["failureDomainLabel"] else "machine-7")
    (claim,) = release.of("StatefulSet")["memkv"]["spec"]["volumeClaimTemplates"]
    if claim["spec"]["volumeMode"] == "Block":
        (device,) = release.main("memkv")["volumeDevices"]
        assert settings.device == device["devicePath"]
        assert settings.capacity is None
    else:
        mounts = {one["name"]: one["mountPath"] for one in release.main("memkv")["volumeMounts"]}
        assert settings.device == f"{mounts['blocks']}/blocks"
        size = parse_size(chosen["volume"]["size"] + "B", "size")
        assert 0 < (settings.capacity or 0) <= 0.9 * size


def control_addresses(values: Object) -> tuple[str, ...]:
    """Where the control plane is found: the Service of one, or each of several."""
    replicas = merged(values)["control"]["replicas"]
    if replicas == 1:
        return ("memkv-control.pool.svc:9910",)
    return tuple(f"memkv-control-{i}.memkv-control-pods.pool.svc:9910" for i in range(replicas))


def test_nodes_know_what_clients_call_them() -> None:
    """A token is shown only to a node that goes by the name that the client has for it."""
    more = ["memkv.example.org:9900", "$(POD_NAME).memkv.pool.svc.cluster.local:9900"]
    changed = {"node": VALUES["production"]["node"] | {"alsoKnownAs": more}}
    words = arguments(render(VALUES["production"] | changed).main("memkv"), "node", "serve")
    settings = settings_of(words).node
    names = {settings.advertise, *(settings.also_known_as or "").split(",")}
    shorter = [f"memkv-0.memkv{rest}:9900" for rest in ("", ".pool", ".pool.svc")]
    assert names == {*shorter, more[0], "memkv-0.memkv.pool.svc.cluster.local:9900"}
    assert all(address_fits(name) for name in names)


def address_fits(name: str) -> bool:
    check_address(name, "a name")
    return True


def test_the_control_plane_is_started_as_memkv_takes_it(values: Object, release: Release) -> None:
    settings = settings_of(arguments(release.main("memkv-control"))).control
    chosen = merged(values)["control"]
    assert settings.etcd == tuple(chosen["etcd"])
    assert settings.pool == chosen["pool"]
    mounts = {one["mountPath"] for one in release.main("memkv-control")["volumeMounts"]}
    assert settings.state in mounts
    assert settings.listen == "0.0.0.0:9910"
    # It listens everywhere, so others hear from it by which name they find it: one that nodes use.
    if chosen["replicas"] == 1:
        assert settings.advertise is None
    else:
        assert settings.advertise == control_addresses(values)[0]


@pytest.mark.parametrize("shows", [True, False])
def test_etcd_is_spoken_to_as_memkv_takes_it(shows: bool) -> None:
    tls = {"etcdTls": {"secret": "memkv-etcd-tls", "clientCertificate": shows}}
    release = render(VALUES["production"] | {"control": VALUES["production"]["control"] | tls})
    settings = settings_of(arguments(release.main("memkv-control"))).control
    (mount,) = [
        one
        for one in release.main("memkv-control")["volumeMounts"]
        if one["name"] == "etcd-tls" and one["readOnly"]
    ]
    (volume,) = [
        one for one in release.pod("memkv-control")["spec"]["volumes"] if one["name"] == "etcd-tls"
    ]
    assert volume["secret"] == {"secretName": "memkv-etcd-tls", "defaultMode": 0o440}
    folder = mount["mountPath"]
    assert settings.etcd_ca == f"{folder}/ca.crt"
    shown = (f"{folder}/tls.crt", f"{folder}/tls.key") if shows else (None, None)
    assert (settings.etcd_cert, settings.etcd_key) == shown
    with pytest.raises(ConfigError, match="cannot be read"):  # nothing but the files is missing
        etcd_of(settings)


def test_a_control_plane_without_etcd_mounts_no_secret_of_its() -> None:
    spec = render(VALUES["first-day"]).pod("memkv-control")["spec"]
    assert not spec.get("volumes")


def test_tls_is_all_or_nothing(values: Object, release: Release) -> None:
    tls = merged(values)["tls"]
    for name, words, secret in (
        ("memkv", arguments(release.main("memkv"), "node", "serve"), tls["nodeSecret"]),
        ("memkv-control", arguments(release.main("memkv-control")), tls["controlSecret"]),
    ):
        files = [word.partition("=")[2] for word in words if word.startswith("--tls-")]
        pod = release.pod(name)["spec"]
        secrets = [
            one["secret"]["secretName"] for one in pod.get("volumes", []) if one["name"] == "tls"
        ]
        assert secrets == ([] if tls["insecure"] else [secret])
        mounts = [one["mountPath"] for one in release.main(name)["volumeMounts"]]
        wanted = [f"/etc/memkv/tls/{file}" for file in ("tls.crt", "tls.key", "ca.crt")]
        assert files == ([] if tls["insecure"] else wanted)
        assert ("/etc/memkv/tls" in mounts) is (not tls["insecure"])
    assert ("--insecure" in words) is tls["insecure"]


def test_nodes_show_engines_their_certificate_where_that_is_asked() -> None:
    values = copy.deepcopy(VALUES["production"])
    values["tls"]["data"] = True
    container = render(values).main("memkv")
    words = arguments(container, "node", "serve")
    node = settings_of(words).node
    assert node.data_tls_cert == "/etc/memkv/tls/tls.crt"
    assert node.data_tls_key == "/etc/memkv/tls/tls.key"
    assert node.data_tls_ca == "/etc/memkv/tls/ca.crt"
    assert not node.insecure
    said = {one["name"]: one.get("value") for one in container["env"]}
    assert said["MEMKV_TLS_CA"] == "/etc/memkv/tls/ca.crt"
    # memkvd is asked where it listens, and shows the name that others know it by.
    shell, flag, line = container["livenessProbe"]["exec"]["command"]
    assert (shell, flag) == ("sh", "-c")
    assert line.endswith("--tls-server-name=$POD_NAME.memkv.pool.svc")
    assert _parser().parse_args(line.split()[2:]).nodes == "0.0.0.0:9900"


def test_the_memory_holds_the_blocks(values: Object, release: Release) -> None:
    for chosen in (merged(values)["node"], default_values()["node"]):
        limits = chosen["resources"]["limits"]
        dram = parse_size(chosen["dram"], "dram")
        memory = parse_size(limits["memory"] + "B", "memory")
        if huge := limits.get("hugepages-2Mi"):
            assert parse_size(huge + "B", "huge pages") >= dram
            assert memory >= POD_MEMORY
        else:
            assert memory >= dram + min(POD_MEMORY, dram)  # 1 GiB of blocks needs no 4 GiB beside


def test_a_clean_stop_has_time(release: Release) -> None:
    # The agent waits for memkvd, kills it, and waits again.
    grace = release.pod("memkv")["spec"]["terminationGracePeriodSeconds"]
    assert grace > 2 * STOP_DEADLINE_S


def test_pods_may_do_little(values: Object, release: Release) -> None:
    for name in release.of("StatefulSet"):
        pod = release.pod(name)
        shared = pod["spec"]["securityContext"]
        assert shared["runAsNonRoot"] is True
        assert shared["runAsUser"] > 0
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            if own.get("runAsUser") == 0:
                assert container["name"] == "seccomp-profile"
    host = [one["name"] for one in release.pod("memkv")["spec"]["volumes"] if "hostPath" in one]
    for container in containers(release.pod("memkv")):
        if container["name"] != "seccomp-profile":
            assert not [one for one in container["volumeMounts"] if one["name"] in host]


@pytest.mark.parametrize("install", [True, False])
def test_the_profile_is_where_kubelet_looks(values: Object, install: bool) -> None:
    release = render(values | {"seccomp": {"install": install}})
    profile = release.main("memkv")["securityContext"]["seccompProfile"]
    assert profile == {"type": "Localhost", "localhostProfile": "memkv/node.json"}
    writers = [
        one
        for one in release.pod("memkv")["spec"].get("initContainers", [])
        if one["name"] == "seccomp-profile"
    ]
    assert len(writers) == install == len(release.of("ConfigMap"))
    for writer in writers:
        (mount,) = [one for one in writer["volumeMounts"] if not one.get("readOnly")]
        (volume,) = [
            one for one in release.pod("memkv")["spec"]["volumes"] if one["name"] == mount["name"]
        ]
        target = writer["command"][-1].replace(mount["mountPath"], volume["hostPath"]["path"], 1)
        assert target == "/var/lib/kubelet/seccomp/memkv/node.json"
        (config_map,) = release.of("ConfigMap").values()
        said = config_map["data"]["seccomp.json"]
        assert said.strip() == (CHART / "files/seccomp.json").read_text().strip()


def test_only_the_failure_domain_asks_the_api_server() -> None:
    plain = render(VALUES["first-day"])
    assert not plain.of("ClusterRole")
    asking = render(VALUES["production"])
    (role,) = asking.of("ClusterRole").values()
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    (binding,) = asking.of("ClusterRoleBinding").values()
    (subject,) = binding["subjects"]
    account = asking.pod("memkv")["spec"]["serviceAccountName"]
    assert (subject["name"], subject["namespace"]) == (account, "pool")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    with_token = [
        one["name"]
        for one in containers(asking.pod("memkv"))
        if [mount for mount in one["volumeMounts"] if mount["name"] == "api-token"]
    ]
    assert with_token == ["failure-domain"]
    (writer,) = [one for one in containers(asking.pod("memkv")) if one["name"] == "failure-domain"]
    environment = {one["name"]: one.get("value") for one in asking.main("memkv")["env"]}
    assert writer["command"][-1] == environment["MEMKV_CONFIG"]


# ---- who may reach whom


def test_who_may_reach_whom(values: Object, release: Release) -> None:
    chosen = merged(values)["networkPolicy"]
    policies = release.of("NetworkPolicy")
    labels = {name: release.pod(name)["metadata"]["labels"] for name in ("memkv", "memkv-control")}
    into_nodes, *pages_of_nodes = policies["memkv-node"]["spec"]["ingress"]
    nodes = {"podSelector": {"matchLabels": labels["memkv"]}}
    assert into_nodes["from"] == [nodes, *chosen["clients"]]
    assert into_nodes["ports"] == [{"protocol": "TCP", "port": "memkv"}]
    into_control, *pages_of_control = policies["memkv-control"]["spec"]["ingress"]
    assert into_control["from"] == [nodes, *chosen["operators"]]
    assert into_control["ports"] == [{"protocol": "TCP", "port": "grpc"}]
    scrapers = merged(values)["metrics"]["scrapers"]
    page = {"from": scrapers, "ports": [{"protocol": "TCP", "port": "metrics"}]}
    assert pages_of_nodes == pages_of_control == [page] * bool(scrapers)
    (to_nodes, to_control, names, *rest) = policies["memkv-node"]["spec"]["egress"]
    assert to_nodes == {"to": [nodes], "ports": into_nodes["ports"]}
    assert to_control["to"] == [{"podSelector": {"matchLabels": labels["memkv-control"]}}]
    assert {port["port"] for port in names["ports"]} == {53}
    asks = bool(merged(values)["node"]["failureDomainLabel"])
    assert [[port["port"] for port in one["ports"]] for one in rest] == [[443, 6443]] * asks
    out = policies["memkv-control"]["spec"].get("egress", [])
    ports = {int(member.rpartition(":")[2]) for member in merged(values)["control"]["etcd"]}
    assert {port["port"] for rule in out[1:] for port in rule["ports"]} == ports


def test_without_clients_nobody_else_reaches_a_node() -> None:
    release = render(VALUES["first-day"] | {"networkPolicy": {"clients": []}})
    policy = release.of("NetworkPolicy")["memkv-node"]["spec"]
    assert "Ingress" in policy["policyTypes"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": policy["podSelector"]}]


# ---- what people read


def test_the_notes_say_the_next_command(release: Release) -> None:
    assert "memkv-0.memkv.pool.svc:9900,memkv-1.memkv.pool.svc:9900" in release.notes
    environment = {one["name"]: one.get("value") for one in release.main("memkv")["env"]}
    said = []
    for line in (one for one in release.notes.splitlines() if " exec " in one):
        words = shlex.split(line.removesuffix("\\"))
        said.append(_parser().parse_args(words[words.index("memkv") + 1 :]))
        assert words[words.index("-c") + 1] == release.main("memkv")["name"]
    assert [one.command for one in said] == ["status", "nodes", "tenants", "token"]
    # Who says nothing of the control plane means the one that this names.
    (flag,) = [one for one in release.main("memkv")["args"] if one.startswith("--control=")]
    assert f"--control={environment['MEMKV_CONTROL']}" == flag
    files = [one for one in release.main("memkv")["args"] if one.startswith("--tls-")]
    for one in said:
        tls = {name: getattr(one, f"tls_{name}") for name in ("cert", "key", "ca")}
        assert [f"--tls-{name}={path}" for name, path in tls.items() if path] == files


@pytest.mark.parametrize("anonymous", ["", "no", "yes"])
def test_the_notes_say_who_needs_a_token(anonymous: str) -> None:
    node = VALUES["first-day"]["node"] | {"anonymous": anonymous}
    notes = render(VALUES["first-day"] | {"node": node}).notes
    assert ("Until the first tenant" in notes) is (anonymous == "")
    assert ("Nobody gets a block without a token" in notes) is (anonymous == "no")
    assert ("memkv token issue" in notes) is (anonymous != "yes")


@pytest.mark.parametrize("data", [True, False])
def test_the_notes_say_what_is_not_encrypted(data: bool) -> None:
    values = copy.deepcopy(VALUES["production"]) | {"networkPolicy": {"enabled": False}}
    values["tls"]["data"] = data
    notes = render(values).notes
    assert "No NetworkPolicy is set" in notes
    assert ("nothing is encrypted" in notes) is (not data)


def test_the_nodes_of_the_dynamo_manifests_are_these() -> None:
    names = "memkv-0.memkv:9900,memkv-1.memkv:9900,memkv-2.memkv:9900"
    manifests = sorted((DEPLOY / "dynamo").glob("*.yaml"))
    assert manifests
    assert all(names in path.read_text() for path in manifests)
    release = render(VALUES["first-day"], namespace="dynamo")
    for name in names.split(","):
        short, _, port = name.partition(":")
        assert f"{short}.dynamo.svc:{port}" in release.notes
