"""What deploy/kubernetes/ray holds is valid by the schemas of KubeRay, Kubernetes and Ray Serve, and fits together."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cloudcoil.models.kubernetes.core.v1 import PodTemplateSpec
from emb_provider_ray import build_app
from emb_provider_ray.options import RayOptions
from emb_provider_ray.placement import ray_options
from packaging.requirements import Requirement
from ray.serve.schema import ServeDeploySchema

from provider.configuration import load_settings
from provider.settings import Settings

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes" / "ray"
# Of KubeRay 1.7, config/crd/bases/ray.io_rayservices.yaml (Apache-2.0), without descriptions and unused parts.
SCHEMA = Path(__file__).with_name("rayservice.schema.json")


def document(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def service() -> Any:
    return document("rayservice.yaml")


@pytest.fixture(scope="module")
def groups(service: Any) -> list[Any]:
    """Of pods: the head and the workers."""
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.fixture(scope="module")
def serve_config(service: Any) -> Any:
    return yaml.safe_load(service["spec"]["serveConfigV2"])


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(FOLDER / "litestar.yaml", {}).settings


@pytest.fixture(scope="module")
def options(settings: Settings) -> RayOptions:
    return ray_options(settings.model)


def test_the_service_is_valid_and_has_no_unknown_field(service: Any, groups: list[Any]) -> None:
    jsonschema.validate(service, json.loads(SCHEMA.read_text()))
    for group in groups:
        template = PodTemplateSpec.model_validate(group["template"])
        assert template.model_dump(by_alias=True, exclude_unset=True, mode="json") == group["template"]


def test_ray_serve_takes_its_configuration(serve_config: Any) -> None:
    read = ServeDeploySchema.model_validate(serve_config)
    assert read.model_dump(exclude_unset=True, mode="json") == serve_config
    (application,) = serve_config["applications"]
    module, name = application["import_path"].split(":")
    assert (module, name) == ("emb_provider_ray", build_app.__name__)
    # The file is where pods mount it; here it is in its folder.
    assert build_app({**application["args"], "config": str(FOLDER / "litestar.yaml")}) is not None


def test_pods_have_the_configuration_and_the_port(
    service: Any, groups: list[Any], serve_config: Any, settings: Settings
) -> None:
    path = Path(serve_config["applications"][0]["args"]["config"])
    kustomization = document("kustomization.yaml")
    (generated,) = kustomization["configMapGenerator"]
    assert [path.name] == generated["files"]
    assert all((FOLDER / name).is_file() for name in [*kustomization["resources"], *generated["files"]])
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
        assert mounts[str(path.parent)]["configMap"]["name"] == generated["name"]
        assert {"/models", "/tmp"} <= mounts.keys()
        # KubeRay's service and probes find Ray Serve's port by this name.
        assert container["ports"] == [{"name": "serve", "containerPort": serve_config["http_options"]["port"]}]
        assert pod["terminationGracePeriodSeconds"] > settings.server.shutdown_seconds


def test_the_image_has_the_version_of_ray_that_kuberay_is_told(service: Any) -> None:
    lines = (FOLDER.parents[2] / "constraints.txt").read_text().splitlines()
    (pinned,) = [Requirement(line) for line in lines if line.startswith("ray==")]
    assert service["spec"]["rayClusterConfig"]["rayVersion"] in pinned.specifier


def test_replicas_and_ingresses_fit_into_the_workers(
    groups: list[Any], serve_config: Any, settings: Settings, options: RayOptions
) -> None:
    head, workers = groups
    assert head["rayStartParams"]["num-cpus"] == "0"
    cores = int(workers["rayStartParams"]["num-cpus"])
    assert cores == int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    of_ingress = serve_config["applications"][0]["args"]["ingress_cpus"]
    assert options.num_cpus + of_ingress <= cores
    assert options.replicas <= workers["minReplicas"]
    assert settings.server.workers <= workers["minReplicas"]
    assert options.most <= workers["maxReplicas"]
