"""Promises of `cluster/deploy`, checked with the schemas of Kubernetes and Ray and with the command line's parser."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
import yaml
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard import http_server_agent
from ray.scripts.scripts import cli as ray_cli

from tests.support.paths import ROOT
from tests.support.s3_server import free_port
from vrshq.cluster.ray.metrics import METRICS
from vrshq.pipelines.cli.main import app

DEPLOY = ROOT / "cluster" / "deploy"
KUBERNETES = "1.30"
# Health page of Ray's agent on every node, which KubeRay's own probes use since Ray 2.53.
HEALTH_PATH, HEALTH_PORT = "/api/healthz", 52365

# The fields of KubeRay's resources with their JSON types, as its CRDs of version ray.io/v1 list them (release 1.5 and later).
RAY_JOB_SPEC = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "clusterSelector": dict,
    "deletionStrategy": dict,
    "entrypoint": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "jobId": str,
    "managedBy": str,
    "metadata": dict,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "submitterConfig": dict,
    "submitterPodTemplate": dict,
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
RAY_CLUSTER_SPEC = {
    "authOptions": dict,
    "autoscalerOptions": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec": dict,
    "headServiceAnnotations": dict,
    "managedBy": str,
    "rayVersion": str,
    "suspend": bool,
    "upgradeStrategy": dict,
    "workerGroupSpecs": list,
}
HEAD_GROUP = {
    "enableIngress": bool,
    "headService": dict,
    "labels": dict,
    "rayStartParams": dict,
    "resources": dict,
    "serviceType": str,
    "template": dict,
}
WORKER_GROUP = {
    "groupName": str,
    "idleTimeoutSeconds": int,
    "labels": dict,
    "maxReplicas": int,
    "minReplicas": int,
    "numOfHosts": int,
    "rayStartParams": dict,
    "replicas": int,
    "resources": dict,
    "scaleStrategy": dict,
    "suspend": bool,
    "template": dict,
}
AUTOSCALER_OPTIONS = {
    "env": list,
    "envFrom": list,
    "idleTimeoutSeconds": int,
    "image": str,
    "imagePullPolicy": str,
    "resources": dict,
    "securityContext": dict,
    "upscalingMode": str,
    "version": str,
    "volumeMounts": list,
}


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def cluster_of(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = load(name)["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return cluster


def templates(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (group, pod template) of the pods of a resource that run Ray."""
    cluster = cluster_of(name)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


NODES = [
    pytest.param(template, id=f"{name}-{group}")
    for name in ("rayjob.yaml", "raycluster.yaml")
    for group, template in templates(name)
]
PODS = [*NODES, pytest.param(load("rayjob.yaml")["spec"]["submitterPodTemplate"], id="submitter")]


def check_fields(given: dict[str, Any], known: dict[str, type], required: tuple[str, ...] = ()) -> None:
    assert set(given) <= set(known)
    assert set(required) <= set(given)
    for name, value in given.items():
        assert type(value) is known[name] or (known[name] is float and type(value) is int), name


@pytest.mark.parametrize(("name", "kind"), [("rayjob.yaml", "RayJob"), ("raycluster.yaml", "RayCluster")])
def test_ray_resources_have_only_fields_that_kuberay_knows(name: str, kind: str) -> None:
    resource, cluster = load(name), cluster_of(name)
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", kind)
    assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
    if kind == "RayJob":
        check_fields(resource["spec"], RAY_JOB_SPEC)
        assert resource["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode")
    check_fields(cluster, RAY_CLUSTER_SPEC, ("headGroupSpec",))
    check_fields(cluster["autoscalerOptions"], AUTOSCALER_OPTIONS)
    assert cluster["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    assert cluster["autoscalerOptions"]["version"] in ("v1", "v2")
    assert cluster["authOptions"] == {"mode": "token"}
    check_fields(cluster["headGroupSpec"], HEAD_GROUP, ("template",))
    for group in cluster["workerGroupSpecs"]:
        check_fields(group, WORKER_GROUP, ("groupName", "minReplicas", "maxReplicas", "template"))
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        # Flags of `ray start` without their dashes; KubeRay wants all values to be strings.
        known = {option for parameter in ray_cli.commands["start"].params for option in parameter.opts}
        for flag, value in group["rayStartParams"].items():
            assert f"--{flag}" in known
            assert type(value) is str


def test_the_job_starts_the_same_cluster_as_the_one_that_stays() -> None:
    assert cluster_of("rayjob.yaml") == cluster_of("raycluster.yaml")
    assert [name for name, _ in templates("rayjob.yaml")] == ["head", "cpu", "gpu"]


def test_the_job_cleans_up_and_tries_a_bounded_number_of_times() -> None:
    spec = load("rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert 1 <= spec["backoffLimit"] <= 10


@pytest.mark.parametrize("template", PODS)
def test_pod_templates_are_valid_pods(template: dict[str, Any]) -> None:
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}, KUBERNETES, strict=True
    )


def test_the_autoscaler_beside_the_head_is_a_valid_container() -> None:
    options = cluster_of("raycluster.yaml")["autoscalerOptions"]
    container = {"name": "autoscaler", **{key: options[key] for key in ("resources", "securityContext")}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    assert options["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("template", PODS)
def test_no_pod_runs_as_root(template: dict[str, Any]) -> None:
    user = template["spec"]["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] == int(image_user().partition(":")[0])
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in template["spec"]["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


@pytest.mark.parametrize("template", NODES)
def test_nodes_have_bounded_resources_scratch_and_a_large_enough_object_store(template: dict[str, Any]) -> None:
    (container,) = template["spec"]["containers"]
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    # A full node kills pods that use more memory than they requested.
    assert limits["memory"] == requests["memory"]
    assert {"cpu", "memory", "ephemeral-storage"} <= set(requests)
    volumes = {volume["name"]: volume["emptyDir"] for volume in template["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    environment = {item["name"]: item["value"] for item in container["env"]}
    scratch = mounts[environment["VRSHQ_SCRATCH"]]
    assert gibibytes(scratch["sizeLimit"]) <= gibibytes(limits["ephemeral-storage"])
    assert Path(environment["VRSHQ_CACHE"]).is_relative_to(environment["VRSHQ_SCRATCH"])
    # Ray's object store takes 30 % of the memory; it falls back to a slow disk if /dev/shm is smaller.
    shm = mounts["/dev/shm"]
    assert shm["medium"] == "Memory"
    assert 0.3 <= gibibytes(shm["sizeLimit"]) / gibibytes(limits["memory"]) <= 0.5


@pytest.mark.parametrize("template", NODES)
def test_nodes_are_probed_and_get_credentials_from_a_secret_only(template: dict[str, Any]) -> None:
    (container,) = template["spec"]["containers"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": HEALTH_PATH, "port": HEALTH_PORT}
    assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["vrshq-store"]
    assert not [item["name"] for item in container["env"] if re.search("KEY|TOKEN|SECRET|PASS", item["name"])]


def test_health_probes_ask_rays_agent() -> None:
    assert HEALTH_PORT == DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    # The agent answers probes without the cluster's token.
    assert HEALTH_PATH in http_server_agent.PUBLIC_EXACT_PATHS


def test_only_the_gpu_group_asks_for_gpus() -> None:
    for name, template in templates("raycluster.yaml"):
        limits = template["spec"]["containers"][0]["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == ("1" if name == "gpu" else None)


def vrshq_commands() -> list[str]:
    readme = re.findall(r"^.*?\b(vrshq (?:submit|label|plan) .*)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    return [load("rayjob.yaml")["spec"]["entrypoint"], *readme]


@pytest.mark.parametrize("line", vrshq_commands())
def test_every_command_parses(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "vrshq"
    if "--" in words:
        at = words.index("--")
        parse(words[:at])
        words = words[at + 1 :]
    parse(words)


def parse(words: list[str]) -> None:
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    command.make_context(words[0], list(words[1:]))


def test_the_check_of_commands_finds_an_unknown_option() -> None:
    with pytest.raises(Exception, match="--no-such-option"):
        parse(["label", "table", "--output", "run", "--no-such-option"])


def test_at_least_three_commands_are_checked() -> None:
    assert len(vrshq_commands()) >= 3


# --- the image


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    lines = instructions()
    return lines[max(index for index, (word, _) in enumerate(lines) if word == "FROM") :]


def image_user() -> str:
    return [rest for word, rest in final_stage() if word == "USER"][-1].strip()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_image_ends_as_a_user_who_is_not_root_and_has_a_health_check() -> None:
    user = image_user()
    # A number, because Kubernetes cannot check that a name is not root.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert f"--uid {user.partition(':')[0]} " in " ".join(rest for _, rest in final_stage())
    assert f"localhost:{HEALTH_PORT}{HEALTH_PATH}'" in dict(final_stage())["HEALTHCHECK"]


def test_the_health_check_fails_where_a_node_does_not_answer_and_passes_where_there_is_no_node() -> None:
    check = dict(final_stage())["HEALTHCHECK"].partition("CMD")[2]
    # The same command as if a raylet ran and nothing answered on its port, then as if no raylet ran.
    on_a_node = check.replace("pgrep -x raylet", "true").replace(str(HEALTH_PORT), "1")
    elsewhere = check.replace("pgrep -x raylet", "false")
    assert subprocess.run(["sh", "-c", on_a_node], capture_output=True).returncode == 1
    assert subprocess.run(["sh", "-c", elsewhere], capture_output=True).returncode == 0


def test_the_image_has_the_pinned_torch_and_builds_sam2_against_it() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert all("--constraint constraints.txt" in line for line in installs)
    # constraints.txt is the only place of versions.
    assert not re.search(r"\b(torch|torchvision|sam2|ray)(\[\w+\])?[=<>~]=", (DEPLOY / "Dockerfile").read_text())
    assert {"torch", "torchvision", "sam2", "ray"} <= set(pins())
    order = [next(i for i, line in enumerate(installs) if name in line.split()) for name in ("torch", "sam2")]
    project = next(i for i, line in enumerate(installs) if '".[' in line)
    assert order[0] < order[1] < project
    assert all("--no-build-isolation" in installs[index] for index in (order[1], project))


def test_the_image_has_a_python_that_the_project_takes_in_both_stages() -> None:
    bases = {rest.split()[0] for word, rest in instructions() if word == "FROM"}
    assert len(bases) == 1
    found = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", bases.pop())
    assert found
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert (int(found[1]), int(found[2])) >= tuple(int(part) for part in wanted.removeprefix(">=").split("."))


def test_the_image_takes_only_the_program_and_no_secrets() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for sources in copied for source in sources}
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()[0] == "*"
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    settings = " ".join(rest for word, rest in instructions() if word in ("ENV", "ARG"))
    assert not re.search("KEY|TOKEN|SECRET|PASSWORD", settings)


# --- one version everywhere


def test_every_manifest_uses_the_same_image_and_the_pinned_ray() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {load("aws.yaml")["docker"]["image"]}
    for parameter in PODS:
        images |= {container["image"] for container in parameter.values[0]["spec"]["containers"]}  # type: ignore[index]
    assert len(images) == 1
    assert images.pop().endswith(f"/vrshq:{version}")
    assert {cluster_of(name)["rayVersion"] for name in ("rayjob.yaml", "raycluster.yaml")} == {pins()["ray"]}


# --- ray up


def test_ray_accepts_the_configuration_of_ray_up() -> None:
    prepared = prepare_config(load("aws.yaml"))
    validate_config(prepared)
    # None of Ray's default commands installs another Ray over that of the image.
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert not prepared[key]
    with pytest.raises(Exception, match="no_such_field"):
        validate_config({**prepared, "no_such_field": 1})


def test_gpu_workers_of_ray_up_are_spot_machines_that_scale_from_zero() -> None:
    config = load("aws.yaml")
    workers = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    assert workers["gpu"]["resources"]["GPU"] >= 1
    for kind in workers.values():
        assert kind["min_workers"] == 0 < kind["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "IamInstanceProfile" in kind["node_config"]
    assert sum(kind["max_workers"] for kind in workers.values()) == config["max_workers"]
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_the_ray_commands_of_ray_up_parse(key: str) -> None:
    for line in load("aws.yaml")[key]:
        program, command, *words = shlex.split(line)
        assert program == "ray"
        ray_cli.commands[command].make_context(command, words)


# --- the dashboard


def queries() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def queried_names() -> set[str]:
    return {name for query in queries() for name in re.findall(r"\bray_\w+", query)}


def test_the_dashboard_draws_every_metric_that_is_declared_and_no_other() -> None:
    plain = {re.sub("_(total|bucket|sum|count)$", "", name.removeprefix("ray_")) for name in queried_names()}
    assert plain == set(METRICS)


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


EXPORTER = """
import os, re, sys, time, urllib.request
import ray
from vrshq.cluster.ray.metrics import RunMetrics
port, wanted = int(sys.argv[1]), set(sys.argv[2:])
ray.init(num_cpus=1, include_dashboard=False, configure_logging=False, _metrics_export_port=port)
RunMetrics(2).unit(
    statuses={"ok": 1, "error": 1}, frames=10, error_types=["ValueError"], attempt=2, seconds=3.0,
    stage_seconds={"decode": 1.0},
)
for _ in range(120):
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    except OSError:
        continue
    found = set(re.findall(r"^(ray_vrshq_\\w+)\\{(.*)\\}", text, re.MULTILINE))
    if wanted <= {name for name, _ in found}:  # the exporter publishes them one by one
        break
for name, labels in found:
    print(name, *re.findall(r"(\\w+)=", labels))
"""


@pytest.mark.ray
def test_ray_exports_the_names_and_labels_that_the_dashboard_queries() -> None:
    said = subprocess.run(
        [sys.executable, "-c", EXPORTER, str(free_port()), *queried_names()],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    exported: dict[str, set[str]] = {}
    for name, *labels in (line.split() for line in said.stdout.splitlines() if line.startswith("ray_vrshq_")):
        exported.setdefault(name, set()).update(labels)
    assert queried_names() <= set(exported)
    for query in queries():
        (first, *_) = re.findall(r"\bray_\w+", query)
        asked = re.findall(r"by \((\w+)\)", query) + re.findall(r"[{,](\w+)=", query)
        assert set(asked) <= exported[first], query


def test_a_gpu_machine_on_ec2_gives_its_gpu_to_the_container() -> None:
    """A driver for the CUDA of torch, the runtime's option, and the variables that the runtime asks the image for."""
    kind = load("aws.yaml")["available_node_types"]["gpu"]
    assert kind["docker"]["worker_run_options"] == ["--gpus all"]
    assert "nvidia-driver-gpu-ubuntu" in kind["node_config"]["ImageId"]
    assert kind["resources"]["GPU"] == 1
    image = (DEPLOY / "Dockerfile").read_text()
    assert "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility" in image
