"""Image centres, nouns and text counterparts of a planted mixture, beside the procedure of the authors' code.

    python benchmarks/semantic_space.py --folder DIR --num-images 10000 100000
    python benchmarks/semantic_space.py --folder DIR --num-images 100000 --reference-restarts 10

Prints JSON. Objectives are the mean cosine of all images to their nearest centre, measured alike for both. The
reference is faiss' spherical k-means of 300 iterations on all images, the best of so many restarts (the authors make
10; with fewer, `kmeans_seconds_of_10_restarts` is in proportion), and a dense centres x nouns softmax.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from measured import measured
from planted import NUM_COMPONENTS, planted_noun_table, planted_run

from dxmc_core.artifacts.matrices import StoredRows, load_matrix, matrix_of
from dxmc_core.method.nouns.noun_selection import num_image_centers
from dxmc_core.method.nouns.text_counterparts import compute_text_counterparts
from dxmc_core.method.preparation import CLIP_RETRIEVAL_TEMPERATURE
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.runtime.cpu_products import prefer_onednn
from dxmc_core.stages.build_semantic_space import build_semantic_space
from dxmc_core.stages.settings.build_semantic_space import BuildSemanticSpaceConfig

_NOUNS_PER_CENTER = 5
_COMPARED_COUNTERPARTS = 8192
_ROWS_PER_BLOCK = 8192


def dxmc(folder: Path, num_images: int) -> dict[str, Any]:
    """The stage's own functions on its own artifact."""
    prefer_onednn()
    rows = StoredRows.open(planted_run(folder, num_images).stage("embed_images"), "images")
    nouns = planted_noun_table()
    started = time.perf_counter()
    space = build_semantic_space(rows, nouns, BuildSemanticSpaceConfig(), num_clusters=NUM_COMPONENTS // 10, seed=0)
    chosen_after = time.perf_counter()
    selected = matrix_of(space.selected_nouns["embedding"])
    for block in rows.blocks(_ROWS_PER_BLOCK):
        compute_text_counterparts(block, selected, temperature=CLIP_RETRIEVAL_TEMPERATURE)
    return {
        "centers_and_nouns_seconds": round(chosen_after - started, 1),
        "counterparts_seconds": round(time.perf_counter() - chosen_after, 1),
        "objective": space.metrics["kmeans_objective"],
        "kmeans_sample": space.metrics["kmeans_sample"],
        "noun_ids": space.selected_nouns["noun_id"].to_pylist(),
        **_top_nouns(rows.take(np.arange(min(_COMPARED_COUNTERPARTS, num_images))), selected),
    }


def _top_nouns(images: np.ndarray, selected: np.ndarray) -> dict[str, Any]:
    """How far counterparts of the 64 nearest nouns are from those of all selected nouns, and how much faster."""
    counterparts, seconds = [], []
    for top_k in (None, 64):
        started = time.perf_counter()
        mixed = compute_text_counterparts(images, selected, temperature=CLIP_RETRIEVAL_TEMPERATURE, top_k=top_k)
        counterparts.append(mixed)
        seconds.append(time.perf_counter() - started)
    cosines = np.einsum("nd,nd->n", *counterparts)
    return {
        "top_64_cosine_mean": round(float(cosines.mean()), 6),
        "top_64_cosine_min": round(float(cosines.min()), 6),
        "top_64_speedup": round(seconds[0] / seconds[1], 2),
    }


def reference(folder: Path, num_images: int, num_restarts: int) -> dict[str, Any]:
    """The authors' procedure, on everything at once."""
    stage = planted_run(folder, num_images).stage("embed_images")
    images = unit_rows(load_matrix(stage, "images").values, name="images")
    nouns = unit_rows(matrix_of(planted_noun_table()["embedding"]), name="nouns")
    num_centers = num_image_centers(num_images, NUM_COMPONENTS // 10)
    started = time.perf_counter()
    kmeans = faiss.Kmeans(
        images.shape[1],
        num_centers,
        niter=300,
        nredo=num_restarts,
        spherical=True,
        max_points_per_centroid=num_images,
        seed=0,
    )
    kmeans.train(images)
    kmeans_seconds = time.perf_counter() - started
    cosines, labels = kmeans.index.search(images, 1)
    sums = np.zeros_like(kmeans.centroids)
    np.add.at(sums, labels[:, 0], images)
    centers = unit_rows(np.where(np.linalg.norm(sums, axis=1, keepdims=True) > 0, sums, kmeans.centroids), name="c")
    noun_started = time.perf_counter()
    probabilities = torch.softmax(torch.from_numpy(nouns @ centers.T), dim=1).numpy()
    best = probabilities.argmax(axis=1)
    noun_ids: list[int] = []
    for center in range(num_centers):
        members = np.flatnonzero(best == center)
        order = np.argsort(-probabilities[members, center], kind="stable")
        noun_ids += members[order[:_NOUNS_PER_CENTER]].tolist()
    counterparts_started = time.perf_counter()
    selected = torch.from_numpy(nouns[sorted(noun_ids)])
    weights = torch.softmax(torch.from_numpy(images) @ selected.T / CLIP_RETRIEVAL_TEMPERATURE, dim=1)
    torch.nn.functional.normalize(weights @ selected, dim=1)
    return {
        "restarts": num_restarts,
        "kmeans_seconds": round(kmeans_seconds, 1),
        "kmeans_seconds_of_10_restarts": round(kmeans_seconds * 10 / num_restarts, 1),
        "nouns_seconds": round(counterparts_started - noun_started, 1),
        "counterparts_seconds": round(time.perf_counter() - counterparts_started, 1),
        "objective": round(float(cosines.mean()), 6),
        "noun_ids": sorted(noun_ids),
    }


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Ours against the reference; takes the noun ids out of both."""
    nouns, reference_nouns = set(ours["noun_ids"]), set(theirs["noun_ids"])
    our_seconds = ours["centers_and_nouns_seconds"] + ours["counterparts_seconds"]
    their_seconds = theirs["kmeans_seconds_of_10_restarts"] + theirs["nouns_seconds"] + theirs["counterparts_seconds"]
    return {
        "speedup": round(their_seconds / our_seconds, 2),
        "objective_difference": round(ours["objective"] / theirs["objective"] - 1, 5),
        "nouns": [len(nouns), len(reference_nouns)],
        "nouns_overlap": round(len(nouns & reference_nouns) / len(nouns | reference_nouns), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the planted data")
    parser.add_argument("--num-images", type=int, nargs="+", required=True)
    parser.add_argument("--reference-restarts", type=int, default=0, help="0 leaves the reference out")
    arguments = parser.parse_args()
    results = []
    for num_images in arguments.num_images:
        planted_run(arguments.folder, num_images)
        result: dict[str, Any] = {"num_images": num_images, "dxmc": measured(dxmc, arguments.folder, num_images)}
        if arguments.reference_restarts:
            result["reference"] = measured(reference, arguments.folder, num_images, arguments.reference_restarts)
            result["comparison"] = compare(result["dxmc"], result["reference"])
        for procedure in ("dxmc", "reference"):
            result.get(procedure, {}).pop("noun_ids", None)
        results.append(result)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
