"""Prometheus' pages of the chart's pods: served, announced, and for whom they are."""

from __future__ import annotations

import copy

import pytest

from tests.deploy.chart import VALUES, Object, Release, arguments, render, settings_of


@pytest.fixture(params=sorted(VALUES))
def release(request: pytest.FixtureRequest) -> Release:
    return render(VALUES[request.param])


def test_prometheus_finds_the_pages_that_are_served(release: Release) -> None:
    for pod, before in (("memkv", ["node", "serve"]), ("memkv-control", [])):
        settings = settings_of(arguments(release.main(pod), *before))
        said = settings.node.metrics if before else settings.control.metrics
        named = {one["name"]: one["containerPort"] for one in release.main(pod)["ports"]}
        assert said == f"0.0.0.0:{named['metrics']}"
        notes = release.pod(pod)["metadata"]["annotations"]
        assert notes["prometheus.io/scrape"] == "true"
        assert notes["prometheus.io/port"] == str(named["metrics"])
        assert notes["prometheus.io/path"] == "/metrics"


def test_there_are_no_pages_where_they_are_not_wanted() -> None:
    release = render(VALUES["production"] | {"metrics": {"enabled": False}})
    for pod in ("memkv", "memkv-control"):
        container = release.main(pod)
        assert [one["name"] for one in container["ports"]] == [
            "memkv" if pod == "memkv" else "grpc"
        ]
        assert not [word for word in container["args"] if word.startswith("--metrics")]
        notes = release.pod(pod)["metadata"].get("annotations", {})
        assert not [name for name in notes if name.startswith("prometheus.io/")]


def test_annotations_of_the_values_are_the_stronger_ones() -> None:
    values = copy.deepcopy(VALUES["first-day"])
    own = {"prometheus.io/scrape": "false", "example.org/team": "kv"}
    values["node"]["podAnnotations"] = values.setdefault("control", {})["podAnnotations"] = own
    release = render(values)
    for pod, port in (("memkv", "9901"), ("memkv-control", "9911")):
        notes = release.pod(pod)["metadata"]["annotations"]
        assert notes.items() >= own.items()
        assert notes["prometheus.io/port"] == port


@pytest.mark.parametrize("scrapers", [[], [{"ipBlock": {"cidr": "10.1.0.0/16"}}]])
@pytest.mark.parametrize("enabled", [True, False])
def test_prometheus_is_let_in_where_it_is_named_and_there_is_a_page(
    enabled: bool, scrapers: list[Object]
) -> None:
    metrics = {"enabled": enabled, "scrapers": scrapers}
    release = render(VALUES["first-day"] | {"metrics": metrics})
    for policy in release.of("NetworkPolicy").values():
        pages = [
            rule
            for rule in policy["spec"]["ingress"]
            if "metrics" in [port["port"] for port in rule["ports"]]
        ]
        assert [rule["from"] for rule in pages] == [scrapers] * (enabled and bool(scrapers))
    assert ("metrics.scrapers" in release.notes) is (enabled and not scrapers)
