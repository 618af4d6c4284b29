"""The launch files are accepted by whom they are for, name the versions of this project, and run one same command."""

import re
import shlex
import subprocess
import sysconfig
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kuberay_schema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.config import SubmitSettings
from dataprep.runtime.command_line import read_settings
from pretrain.config import RunSettings

ROOT = Path(__file__).parents[3]
CLOUD = ROOT / "cluster" / "cloud"
LAUNCH_FILES = sorted(path for path in CLOUD.rglob("*") if path.suffix in (".yaml", ".sh"))
PROGRAMS = Path(sysconfig.get_path("scripts"))
WITHOUT_JOB = {"settings.yaml", "redis.yaml"}
TEXTS = {path.name: path.read_text() for path in (*LAUNCH_FILES, CLOUD / "Dockerfile")}
JOB = "python -m pretrain run --name first --model.size 37M --workers.count 16 --workers.gpu --precision bf16"


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLOUD / "kubernetes" / f"{name}.yaml").read_text()))


def cluster_config(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLOUD / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_accepts_the_files_of_ray_up(name):
    prepared = prepare_config(cluster_config(name))
    validate_config(prepared)

    assert prepared["available_node_types"]["gpu"]["resources"]["GPU"] == 8
    # nothing that Ray would run on machines beside what the file says
    assert not [
        prepared[f"{where}setup_commands"] for where in ("", "head_", "worker_") if prepared[f"{where}setup_commands"]
    ]


def test_ray_refuses_a_file_of_ray_up_with_a_misspelt_setting():
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config({**cluster_config("aws"), "idle_timeout_minute": 5}))


@pytest.mark.parametrize("name", ["settings", "redis"])
def test_kubernetes_accepts_its_own_resources(name):
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, kuberay_schema.KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_resources_of_kuberay_fit_its_fields_and_the_pods_fit_kubernetes(name):
    (manifest,) = manifests(name)

    assert kuberay_schema.errors(manifest) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "volumeMount"), "volumeMount"),
        (("spec", "workerGroupSpecs", 0, "minReplica"), "minReplica"),
        (("spec", "authOption"), "authOption"),
    ],
)
def test_misspelt_fields_of_kuberay_are_found(path, expected):
    (manifest,) = manifests("raycluster")
    place: Any = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = 1

    assert [error for error in kuberay_schema.errors(manifest) if expected in error]


def test_rays_autoscaler_reads_the_gpus_of_the_pods():
    for name in ("raycluster", "rayjob"):
        (manifest,) = manifests(name)
        spec = manifest["spec"] if name == "raycluster" else manifest["spec"]["rayClusterSpec"]
        resource = {"metadata": {"name": "c", "namespace": "n"}, "spec": spec}

        kinds = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]

        assert kinds["gpu"]["resources"]["GPU"] == 8
        assert kinds["gpu"]["max_workers"] == 2
        assert kinds["headgroup"]["resources"]["CPU"] == 0


def test_the_job_of_kubernetes_brings_the_cluster_of_the_other_file():
    (cluster,), (job,) = manifests("raycluster"), manifests("rayjob")

    own = dict(cluster["spec"])
    del own["gcsFaultToleranceOptions"]
    assert job["spec"]["rayClusterSpec"] == own
    assert job["spec"]["entrypoint"] == JOB


def test_shared_memory_of_a_pod_is_larger_than_the_usual_64_megabytes():
    (cluster,) = manifests("raycluster")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (volume,) = pod["volumes"]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert {"name": volume["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("name", sorted(set(TEXTS) - WITHOUT_JOB - {"Dockerfile"}))
def test_each_file_ends_in_the_same_command(name):
    # comments and indentation aside
    text = " ".join(re.sub(r"^[\s#]*", "", line).removesuffix("\\").strip() for line in TEXTS[name].splitlines())
    lines = re.findall(r"python -m cluster submit.*? -- python -m pretrain run.*?--precision bf16", text)

    assert lines
    for line in lines:
        own, _, job = line.removeprefix("python -m cluster submit").partition(" -- ")
        read_settings(SubmitSettings, shlex.split(own))
        assert job == JOB


def test_the_command_is_one_that_pretraining_takes(monkeypatch):
    settings = cluster_config("aws")["docker"]["run_options"]
    for option in settings:
        name, _, value = option.removeprefix("--env ").partition("=")
        if name.startswith("BULKFORMER_"):
            monkeypatch.setenv(name, value)

    run = read_settings(RunSettings, shlex.split(JOB)[4:])

    assert (run.corpus, run.storage) == ("s3://BUCKET/corpus", "s3://BUCKET/runs")
    assert run.workers.count == 16
    assert run.workers.gpu


@pytest.mark.parametrize("name", sorted({*TEXTS} - {"Dockerfile", "redis.yaml", "rayjob.yaml", "raycluster.yaml"}))
def test_bucket_and_mlflow_are_named_once(name):
    values = [line for line in TEXTS[name].splitlines() if not line.lstrip().startswith("#")]

    for setting in ("BULKFORMER_CORPUS", "BULKFORMER_STORAGE", "MLFLOW_TRACKING_URI"):
        assert sum(setting in line for line in values) == 1, setting


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_versions_are_those_of_the_project(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    text = TEXTS[name]

    assert set(re.findall(r"bulkformer-ray:([\w.]+)", text)) <= {project["project"]["version"]}
    assert set(re.findall(r'rayVersion: "([\w.]+)"', text)) <= {pins["ray"]}
    assert set(re.findall(r"--python (\d\.\d+)|FROM python:(\d\.\d+)", text)) <= {("3.11", ""), ("", "3.11")}
    # packages come by constraints.txt: no version of one stands here
    assert not [pin for pin in re.findall(r"\b([\w-]+)==[\d.]+", text) if pin in pins]
    assert version("ray") == pins["ray"]
    assert project["project"]["requires-python"] == ">=3.11"


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_machines_without_credentials_of_their_own_let_nobody_in(name):
    config = cluster_config(name)

    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert not re.search(r"(?i)(secret|password|access_key\w*)[=:]\s*\S", TEXTS[f"{name}.yaml"])


def test_the_head_of_ray_up_is_on_demand_and_its_workers_are_spot():
    aws, gcp = (cluster_config(name)["available_node_types"] for name in ("aws", "gcp"))

    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert aws["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "scheduling" not in gcp["head"]["node_config"]
    assert gcp["gpu"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"


@pytest.mark.parametrize(
    "command",
    [
        [PROGRAMS / "hadolint", CLOUD / "Dockerfile"],
        [PROGRAMS / "shellcheck", CLOUD / "slurm.sh"],
    ],
    ids=["hadolint", "shellcheck"],
)
def test_linters_find_nothing(command):
    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("step", ["setup", "run"])
def test_shellcheck_finds_nothing_in_the_scripts_of_skypilot(step):
    script = "#!/usr/bin/env bash\n" + yaml.safe_load(TEXTS["skypilot.yaml"])[step]

    done = subprocess.run([PROGRAMS / "shellcheck", "-"], input=script, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")
