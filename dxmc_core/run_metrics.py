"""Figures of a scheduled run for people and machines who were not there: JSON, Prometheus' text format, a webhook.

Stands at the end of `dxmc recluster`, whatever end that is.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from dxmc_core.artifacts.manifest import Manifest

METRICS_NAME = "metrics.json"
PROMETHEUS_NAME = "metrics.prom"
#: The variable that holds the webhook's address. It is a secret, so it has no place in a configuration.
WEBHOOK_VARIABLE = "DXMC_WEBHOOK_URL"
_WEBHOOK_TIMEOUT_S = 10.0

#: Stages that use GPUs where there are any.
_GPU_STAGES = ("embed_images", "build_semantic_space", "mine_neighbors", "train_heads")

_HELP = {
    "dxmc_last_run_success": "1 when the last scheduled run ended well, also with nothing to do.",
    "dxmc_last_run_timestamp_seconds": "When the last scheduled run ended.",
    "dxmc_last_success_timestamp_seconds": "When the last scheduled run that ended well did.",
    "dxmc_last_run_seconds": "Wall time of the last scheduled run.",
    "dxmc_generation": "Number of the generation that the last run made or found current.",
    "dxmc_images": "Images with a cluster.",
    "dxmc_rejects": "Images that could not be used, by reason.",
    "dxmc_listing_changes": "Images that the listing shows as new, changed or deleted.",
    "dxmc_embedded_images": "Images that were embedded, or read from a file of embeddings, rejects included.",
    "dxmc_embedded_images_per_second": "Their rate.",
    "dxmc_stage_seconds": "Wall time of each stage that ran.",
    "dxmc_gpu_hours": "GPUs in use times the hours of the stages that use them.",
    "dxmc_full_clustering": "1 when all was clustered anew, 0 when new images were assigned.",
    "dxmc_drift": "Drift of the newest images against the last full clustering.",
    "dxmc_turnover": "Images that came and went since that clustering, as a fraction of those it had.",
    "dxmc_churn": "Share of the images in both generations whose cluster has another id.",
    "dxmc_clusters": "Clusters that were kept, born or ended.",
}


def stage_metrics(manifests: Mapping[str, Manifest], *, num_gpus: int) -> dict[str, Any]:
    """Figures of the stages that a run made, by the manifests of these stages.

    Args:
        num_gpus: that the run used.
    """
    embedded, assigned = manifests["embed_images"], manifests["assign_clusters"].metrics
    counts = embedded.metrics
    num_embedded = counts["images"] + counts["rejects"] - counts["rows_resumed"]
    gpu_seconds = num_gpus * sum(manifests[name].seconds for name in _GPU_STAGES if name in manifests)
    changes = counts.get("changes", {})
    return {
        "images": counts["images"],
        "rejects": counts["reject_reasons"],
        "listing_changes": {name: changes[name] for name in ("new", "changed", "deleted") if name in changes},
        "embedded_images": num_embedded,
        "embedded_images_per_second": round(num_embedded / max(embedded.seconds, 1e-9), 3),
        "stage_seconds": {name: manifest.seconds for name, manifest in manifests.items()},
        "gpu_hours": round(gpu_seconds / 3600, 6),
        "mean_confidence": assigned["mean_confidence"],
        "lineage": assigned["lineage"],
    }


def prometheus_text(metrics: Mapping[str, Any], *, run_dir: str) -> str:
    """The metrics of a run in the text format that node_exporter's textfile collector reads.

    Args:
        metrics: as `metrics.json` has them; what a run that failed could not measure is left out.
        run_dir: becomes a label of every sample, so that files of several places can lie side by side.
    """
    lines, described = [], ""
    for name, labels, value in _samples(metrics):
        if name != described:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            described = name
        pairs = {"run_dir": run_dir, **labels}
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in pairs.items())
        lines.append(f"{name}{{{shown}}} {float(value):.12g}")
    return "\n".join(lines) + "\n"


def _samples(metrics: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample, those of one name together."""
    scalars = ("last_run_success", "last_run_timestamp_seconds", "last_success_timestamp_seconds", "last_run_seconds")
    more = ("generation", "images", "embedded_images", "embedded_images_per_second", "gpu_hours", "turnover")
    for key in (*scalars, *more):
        if metrics.get(key) is not None:
            yield f"dxmc_{key}", {}, metrics[key]
    if "mode" in metrics:
        yield "dxmc_full_clustering", {}, metrics["mode"] == "full"
    groups = (("rejects", "reason"), ("listing_changes", "change"), ("stage_seconds", "stage"), ("drift", "figure"))
    for key, label in groups:
        for found, value in metrics.get(key, {}).items():
            yield f"dxmc_{key}", {label: found}, value
    if lineage := metrics.get("lineage"):
        yield "dxmc_churn", {}, lineage["churn"]
        for change in ("kept", "born", "died"):
            yield "dxmc_clusters", {"change": change}, lineage[change]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def summary_line(metrics: Mapping[str, Any], *, run_dir: str) -> str:
    """What happened, in one line for a chat."""
    if not metrics["last_run_success"]:
        return f"dxmc {run_dir}: failed after {metrics['last_run_seconds']:.0f} s: {metrics['error']}"
    if "mode" not in metrics:
        return f"dxmc {run_dir}: nothing to do, generation {metrics['generation']} is up to date"
    lineage = metrics["lineage"]
    clusters = ""
    if lineage:
        clusters = f", {lineage['new_images']} came, {lineage['removed_images']} went, churn {lineage['churn']:.1%}"
    return (
        f"dxmc {run_dir}: generation {metrics['generation']} ({metrics['mode']}: {metrics['reason']}), "
        f"{metrics['images']} images{clusters}, {metrics['last_run_seconds']:.0f} s"
    )


def post_webhook(url: str, metrics: Mapping[str, Any], *, run_dir: str) -> str | None:
    """Send the metrics as JSON, with `text` for a chat; None, or what went wrong, which never tells the address."""
    body = json.dumps({"text": summary_line(metrics, run_dir=run_dir), "run_dir": run_dir, **metrics}).encode()
    if not url.startswith(("https://", "http://")):
        return "its address does not start with https:// or http://"
    try:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 (see above)
        with urllib.request.urlopen(request, timeout=_WEBHOOK_TIMEOUT_S):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:  # what these say may hold the address
        return type(error).__name__
