"""What deploy/ holds is valid by the schemas of Kubernetes, its operators and Compose, and speaks of what there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import compose_spec
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.kubernetes.apps.v1 import Deployment
from cloudcoil.models.kubernetes.autoscaling.v2 import HorizontalPodAutoscaler
from cloudcoil.models.kubernetes.core.v1 import Service
from cloudcoil.models.kubernetes.policy.v1 import PodDisruptionBudget
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

from provider.cli import cli
from provider.configuration import load_settings
from provider.http.routes import LIVE_PATHS, READY_PATHS
from provider.settings import SECTIONS, Settings, environment_variable, options_of
from provider.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
KUBERNETES, COMPOSE = ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "compose"
KINDS = {
    each.__name__: each
    for each in (Deployment, HorizontalPodAutoscaler, PodDisruptionBudget, ScaledObject, Service, ServiceMonitor)
}
LABELS = {"app.kubernetes.io/name": "emb-provider"}


def document(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def objects() -> dict[str, Any]:
    """By kind, but for kustomize's own file and our configuration."""
    found = [document(path) for path in KUBERNETES.glob("*.yaml") if path.name != "litestar.yaml"]
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def pod() -> Any:
    return objects()["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: Any) -> Any:
    return pod["containers"][0]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(KUBERNETES / "litestar.yaml", {}).settings


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_kubernetes_is_valid_and_has_no_unknown_field(kind: str) -> None:
    given = objects()[kind]
    read = KINDS[kind].model_validate(given)
    # Fields that the schema does not know are lost.
    assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == given


def test_every_file_is_checked_and_kustomize_names_files_that_there_are() -> None:
    found = objects()
    assert found.keys() == {*KINDS, "Kustomization"}
    named = [*found["Kustomization"]["resources"], *found["Kustomization"]["configMapGenerator"][0]["files"]]
    assert all((KUBERNETES / name).is_file() for name in named)


def test_ports_probes_and_paths_are_those_of_the_server(container: Any, settings: Settings) -> None:
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": settings.server.port, "admin": settings.server.admin_port}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert all(each["port"] in ports for each in probes.values())
    assert {probes["startup"]["path"], probes["liveness"]["path"]} <= {*LIVE_PATHS}
    assert probes["readiness"]["path"] in READY_PATHS
    service, monitor = objects()["Service"]["spec"], objects()["ServiceMonitor"]["spec"]
    assert {each["name"]: (each["port"], each["targetPort"]) for each in service["ports"]} == {
        name: (port, name) for name, port in ports.items()
    }
    assert [each["port"] for each in monitor["endpoints"]] == ["admin"]


def test_labels_select_the_pods() -> None:
    found = objects()
    deployment = found["Deployment"]
    assert deployment["spec"]["template"]["metadata"]["labels"] == LABELS
    assert deployment["spec"]["selector"]["matchLabels"] == LABELS
    assert found["Service"]["spec"]["selector"] == LABELS == found["Service"]["metadata"]["labels"]
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert found["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == LABELS
    for scaler in ("HorizontalPodAutoscaler", "ScaledObject"):
        assert found[scaler]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_a_pod_gets_more_time_to_stop_than_the_server_takes(pod: Any, container: Any, settings: Settings) -> None:
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + settings.server.shutdown_seconds


def test_the_image_is_run_as_the_containerfile_makes_it(pod: Any, container: Any) -> None:
    text = (ROOT / "Containerfile").read_text()
    user, group = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(user), int(group))
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/models", "/tmp"} <= mounts
    assert "VOLUME /models" in text
    assert container["securityContext"]["readOnlyRootFilesystem"]
    compose = document(COMPOSE / "compose.yaml")["services"]["emb-provider"]
    assert compose["read_only"]
    for command in (container["args"], compose["command"]):
        name, *rest = command
        assert cli.get_command(click.Context(cli), name).make_context(name, [*rest], resilient_parsing=True)
        configuration = rest[rest.index("--config") + 1]
        assert any(configuration.startswith(each) for each in (*mounts, "/etc/emb-provider"))


def texts() -> Iterator[tuple[Path, str]]:
    for path in (ROOT / "deploy").rglob("*.yaml"):
        yield path, path.read_text()


def test_every_metric_and_variable_there_is_one_of_ours() -> None:
    metrics = {each.name for each in Metrics(["m"], {"m": "m"}).registry.collect()}
    variables = {environment_variable(section, each) for section in SECTIONS for each in options_of(section)}
    suffix = re.compile(r"_(total|count|sum|bucket)$")
    for path, text in texts():
        for name in re.findall(r"\bemb_provider_(?!ray\b)[a-z_]+[a-z]\b", text):  # emb_provider_ray is a package
            assert suffix.sub("", name) in metrics, (path.name, name)
        for name in re.findall(r"\bEMB_PROVIDER_[A-Z_]+\b", text):
            assert name in variables, (path.name, name)


def test_autoscalers_go_by_queued_tokens() -> None:
    found = objects()
    pods = found["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]
    trigger = found["ScaledObject"]["spec"]["triggers"][0]["metadata"]
    assert pods["metric"]["name"] == "emb_provider_queue_tokens"
    assert trigger["query"] == 'sum(emb_provider_queue_tokens{service="emb-provider"})'
    assert pods["target"]["averageValue"] == trigger["threshold"]


def test_compose_is_valid_and_mounts_files_that_there_are() -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    compose_spec.PyCompose.from_yaml(text).validate()
    services = yaml.safe_load(text)["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            if (source := volume.split(":")[0]).startswith("."):
                assert (COMPOSE / source).is_file(), source
    settings = load_settings(COMPOSE / "litestar.yaml", {}).settings
    assert services["emb-provider"]["ports"] == [f"127.0.0.1:{settings.server.port}:{settings.server.port}"]
    targets = document(COMPOSE / "prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"emb-provider:{settings.server.port}"]
    grace = int(services["emb-provider"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.server.shutdown_seconds


def test_grafana_finds_the_dashboard_where_compose_puts_it() -> None:
    provider = document(COMPOSE / "grafana-dashboards.yaml")["providers"][0]
    volumes = document(COMPOSE / "compose.yaml")["services"]["grafana"]["volumes"]
    assert any(f":{provider['options']['path']}/" in each and "monitoring/dashboard.json" in each for each in volumes)
