"""The Kubernetes manifests against the fields that KubeRay and Kubernetes know, and the script with a fake kubectl."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

FOLDER = Path(__file__).parents[2] / "deploy" / "kuberay"

#: Fields by object, from the API references of KubeRay (ray.io/v1) and Kubernetes; those that the manifests may use. A
#: field maps to the object it holds; None is a plain value, "map" any keys with plain values, a list a list of objects.
METADATA = {"name": None, "generateName": None, "namespace": None, "labels": "map", "annotations": "map"}
RESOURCES = {"requests": "map", "limits": "map"}
CONTAINER = {
    "name": None, "image": None, "command": None, "args": None, "resources": RESOURCES,
    "securityContext": {
        "allowPrivilegeEscalation": None, "readOnlyRootFilesystem": None, "capabilities": {"drop": None},
    },
    "env": [{"name": None, "value": None, "valueFrom": {"fieldRef": {"fieldPath": None}}}],
    "volumeMounts": [{"name": None, "mountPath": None, "readOnly": None}],
}  # fmt: skip
POD = {
    "metadata": METADATA,
    "spec": {
        "serviceAccountName": None, "automountServiceAccountToken": None, "restartPolicy": None, "nodeSelector": "map",
        "securityContext": {"runAsNonRoot": None, "runAsUser": None, "fsGroup": None, "seccompProfile": {"type": None}},
        "tolerations": [{"key": None, "operator": None, "value": None, "effect": None}],
        "containers": [CONTAINER],
        "volumes": [{"name": None, "configMap": {"name": None}}],
    },
}  # fmt: skip
RAY_CLUSTER = {
    "rayVersion": None, "enableInTreeAutoscaling": None,
    "autoscalerOptions": {"idleTimeoutSeconds": None, "upscalingMode": None, "resources": RESOURCES},
    "headGroupSpec": {"serviceType": None, "rayStartParams": "map", "template": POD},
    "workerGroupSpecs": [
        {
            "groupName": None, "replicas": None, "minReplicas": None, "maxReplicas": None, "numOfHosts": None,
            "rayStartParams": "map", "template": POD,
        }
    ],
}  # fmt: skip
RAY_JOB = {
    "entrypoint": None, "runtimeEnvYAML": None, "submissionMode": None, "shutdownAfterJobFinishes": None,
    "ttlSecondsAfterFinished": None, "activeDeadlineSeconds": None, "backoffLimit": None, "suspend": None,
    "metadata": "map", "rayClusterSpec": RAY_CLUSTER,
}  # fmt: skip
BATCH_JOB = {"backoffLimit": None, "activeDeadlineSeconds": None, "ttlSecondsAfterFinished": None, "template": POD}
OBJECTS = {
    ("ray.io/v1", "RayJob"): {"spec": RAY_JOB},
    ("ray.io/v1", "RayCronJob"): {"spec": {"schedule": None, "suspend": None, "jobTemplate": RAY_JOB}},
    ("batch/v1", "CronJob"): {
        "spec": {
            "schedule": None, "timeZone": None, "concurrencyPolicy": None, "startingDeadlineSeconds": None,
            "suspend": None, "successfulJobsHistoryLimit": None, "failedJobsHistoryLimit": None,
            "jobTemplate": {"metadata": METADATA, "spec": BATCH_JOB},
        }
    },
    ("v1", "ServiceAccount"): {"automountServiceAccountToken": None},
    ("rbac.authorization.k8s.io/v1", "Role"): {"rules": [{"apiGroups": None, "resources": None, "verbs": None}]},
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): {
        "roleRef": {"apiGroup": None, "kind": None, "name": None},
        "subjects": [{"kind": None, "name": None, "namespace": None}],
    },
}  # fmt: skip


def unknown_fields(value, allowed, where):
    """Paths of the fields that `allowed` does not have."""
    if allowed is None:
        return [where] if isinstance(value, dict) else []
    if allowed == "map":
        return [f"{where}.{key}" for key, inner in value.items() if isinstance(inner, dict | list)]
    if isinstance(allowed, list):
        return [path for i, one in enumerate(value) for path in unknown_fields(one, allowed[0], f"{where}[{i}]")]
    found = []
    for key, inner in value.items():
        path = f"{where}.{key}"
        found += unknown_fields(inner, allowed[key], path) if key in allowed else [path]
    return found


def objects(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def by_kind(name, kind):
    return next(manifest for manifest in objects(name) if manifest["kind"] == kind)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycronjob.yaml", "nightly.yaml", "access.yaml"])
def test_every_field_is_known(name):
    for manifest in objects(name):
        fields = OBJECTS[manifest["apiVersion"], manifest["kind"]]
        allowed = {"apiVersion": None, "kind": None, "metadata": METADATA, **fields}
        assert unknown_fields(manifest, allowed, manifest["kind"]) == []


def test_an_unknown_field_is_seen():
    manifest = by_kind("rayjob.yaml", "RayJob")
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    assert unknown_fields(manifest["spec"], RAY_JOB, "spec") == ["spec.rayClusterSpec.workerGroupSpecs[0].minReplica"]


def test_both_schedules_run_the_same_job():
    job = by_kind("rayjob.yaml", "RayJob")
    cron = by_kind("raycronjob.yaml", "RayCronJob")
    assert cron["spec"]["jobTemplate"] == job["spec"]
    assert cron["spec"]["schedule"] == by_kind("nightly.yaml", "CronJob")["spec"]["schedule"]


def test_the_autoscaler_reads_the_worker_group():
    job = by_kind("rayjob.yaml", "RayJob")
    cluster = {"metadata": {"name": "dxmc", "namespace": "dxmc"}, "spec": job["spec"]["rayClusterSpec"]}
    kinds = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert kinds["gpu"]["resources"] == {"CPU": 14, "GPU": 1, "memory": 56 * 2**30}
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"]) == (0, 8)
    assert "GPU" not in kinds["headgroup"]["resources"]


def test_the_schedule_never_overlaps_and_may_only_create_and_look():
    cron = by_kind("nightly.yaml", "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert by_kind("access.yaml", "Role")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    ]
    accounts = {
        manifest["metadata"]["name"] for manifest in objects("access.yaml") if manifest["kind"] == "ServiceAccount"
    }
    pods = [cron["spec"]["jobTemplate"]["spec"]["template"]]
    ray_cluster = by_kind("rayjob.yaml", "RayJob")["spec"]["rayClusterSpec"]
    pods += [
        ray_cluster["headGroupSpec"]["template"],
        *(group["template"] for group in ray_cluster["workerGroupSpecs"]),
    ]
    for pod in pods:
        assert pod["spec"]["serviceAccountName"] in accounts
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    mounted = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"][0]
    assert mounted["name"] == cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
    assert all((FOLDER / name).is_file() for name in mounted["files"])


FAKE_KUBECTL = """#!/bin/sh
# Keeps the created manifest in $STATE/created.yaml; `get` tells the next line of $STATE/statuses.
case "$*" in
    create*) test ! -e "$STATE/created.yaml" || exit 9; cat > "$STATE/created.yaml" ;;
    *--ignore-not-found*) if [ -e "$STATE/created.yaml" ]; then echo rayjob/it; fi ;;
    *) test -s "$STATE/statuses" || exit 1; head -n 1 "$STATE/statuses"; sed -i 1d "$STATE/statuses" ;;
esac
"""


@pytest.fixture
def nightly(tmp_path):
    """Runs nightly.sh with a fake kubectl that tells the given statuses one after another."""
    (tmp_path / "kubectl").write_text(FAKE_KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    script = (FOLDER / "nightly.sh").read_text().replace("/etc/dxmc", str(FOLDER))

    def run(*statuses):
        (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": str(tmp_path), "JOB_NAME": "dxmc-nightly-29",
            "JOB_UID": "5a1c", "POLL_S": "0",
        }  # fmt: skip
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_night_makes_the_job_that_it_owns_and_waits_for_its_end(nightly, tmp_path):
    result = nightly(" ", "Initializing", "Running RUNNING", "Complete SUCCEEDED Job finished.")
    assert (result.returncode, result.stdout) == (0, "dxmc-nightly-29 succeeded\n")
    created, original = yaml.safe_load((tmp_path / "created.yaml").read_text()), by_kind("rayjob.yaml", "RayJob")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "dxmc-nightly-29", "uid": "5a1c"}
    assert created["metadata"] == {"name": "dxmc-nightly-29", "ownerReferences": [owner]}
    assert created["spec"] == original["spec"]


@pytest.mark.parametrize("status", ["Failed FAILED error: no images", "Complete FAILED error: no images", "Failed  "])
def test_a_failed_run_is_a_failed_night(nightly, status):
    result = nightly("Running RUNNING", status)
    assert result.returncode == 1
    assert f"dxmc-nightly-29 failed: {status}".strip() in result.stderr


def test_a_pod_that_is_started_anew_waits_for_the_same_job(nightly):
    lost = nightly("Running RUNNING")
    assert lost.returncode == 1
    assert "cannot be read any more" in lost.stderr
    assert nightly("Running RUNNING", "Complete SUCCEEDED").returncode == 0
