"""A planted mixture of 1,000 components shaped like CLIP embeddings, of any size, written as a finished `embed_images`.

What the benchmarks of the semantic space and of the neighbour graph share. Images lie in a cone around one direction,
the spectrum about it falls as that of CLIP ViT-B/32 on photographs (its 100th eigenvalue is 1/50 of the first), sizes
of components are log-normal, and one row in a hundred is a copy of another: half of them to the bit, half nearly.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import IMAGES
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.method.unit_rows import unit_rows
from dxmc_core.stages.build_semantic_space import noun_table

WIDTH = 512
NUM_COMPONENTS = 1000
#: As many as WordNet's.
NUM_NOUNS = 117_798
FINGERPRINT = "0" * 32
_ROWS_PER_PART = 8192

#: Shares of a row's squared length: what all images have in common, the component's own part, the image's own.
#: On ucf101 (CLIP ViT-B/32) random pairs have a mean cosine of 0.58 and the 50th neighbours one of 0.77.
_CONE, _COMPONENT, _OWN = 0.58, 0.20, 0.22
_SPECTRUM = np.arange(1, WIDTH + 1) ** -0.85
_SIZE_SPREAD = 0.7
_COPIES = 0.01
#: Own part of a near copy, relative to the whole: cosine 0.995 to its original.
_NEAR_COPY_NOISE = 0.1
#: Shares of a noun: what all nouns have in common, the component it names, its own.
_NOUN_CONE, _NOUN_COMPONENT, _NOUN_OWN = 0.70, 0.05, 0.25


def planted_parts(num_images: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Parts (n, D) float16 of unit rows; a smaller mixture of the same seed is the beginning of a larger one."""
    for rows, _ in planted_parts_with_components(num_images, seed=seed):
        yield rows


def planted_parts_with_components(num_images: int, *, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The parts of `planted_parts`, and the components (n,) int16 that their rows were drawn from."""
    cone, centers, shares = _components(seed)
    for start in range(0, num_images, _ROWS_PER_PART):
        rng = np.random.default_rng([seed, 1, start])
        components = rng.choice(NUM_COMPONENTS, _ROWS_PER_PART, p=shares)
        rows = math.sqrt(_CONE) * cone + math.sqrt(_COMPONENT) * centers[components]
        rows += math.sqrt(_OWN) * _directions(_ROWS_PER_PART, rng)
        rows = unit_rows(rows, name="rows")
        copies = rng.choice(_ROWS_PER_PART, 2 * int(_COPIES * _ROWS_PER_PART), replace=False).reshape(2, -1)
        rows[copies[0]], components[copies[0]] = rows[copies[1]], components[copies[1]]
        near = copies[0, ::2]
        rows[near] += _NEAR_COPY_NOISE * _directions(len(near), rng)
        kept = slice(num_images - start)
        yield unit_rows(rows, name="rows")[kept].astype(np.float16), components[kept].astype(np.int16)


def planted_nouns(*, seed: int = 0) -> np.ndarray:
    """Embeddings (M, D) float32 of a vocabulary in which every component has a hundred nouns or so."""
    _, centers, _ = _components(seed)
    rng = np.random.default_rng([seed, 2])
    rows = math.sqrt(_NOUN_CONE) * _directions(1, rng) + math.sqrt(_NOUN_OWN) * _directions(NUM_NOUNS, rng)
    rows += math.sqrt(_NOUN_COMPONENT) * centers[rng.integers(NUM_COMPONENTS, size=NUM_NOUNS)]
    return unit_rows(rows, name="nouns")


def _components(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The direction of the cone (1, D), the centres (1000, D) about it, and the components' shares (1000,)."""
    rng = np.random.default_rng([seed, 0])
    shares = np.exp(_SIZE_SPREAD * rng.normal(size=NUM_COMPONENTS))
    return _directions(1, rng), _directions(NUM_COMPONENTS, rng), shares / shares.sum()


def _directions(count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (count, D) float32 of length about 1, with the falling spectrum."""
    scale = np.sqrt(_SPECTRUM / _SPECTRUM.sum()).astype(np.float32)
    return rng.standard_normal((count, WIDTH), dtype=np.float32) * scale


def planted_run(folder: Path, num_images: int) -> RunDir:
    """A run directory whose embed_images is done, and `nouns.npz` beside it; written at the first call."""
    run_dir = RunDir.at(str(folder / f"planted-{num_images}"))
    stage = run_dir.stage("embed_images")
    if stage.manifest() is None:
        parts, start = [], 0
        for rows in planted_parts(num_images):
            row_ids = np.arange(start, start + len(rows))
            columns = {"row_id": row_ids, "image_id": row_ids.astype(str), "embedding": embedding_column(rows)}
            table = pa.table(columns).cast(IMAGES.schema(WIDTH))
            parts.append(stage.write_part("images", table, fingerprint=FINGERPRINT))
            start += len(rows)
        stage.publish(fingerprint=FINGERPRINT, inputs={}, tables={"images": parts}, seconds=0)
    return run_dir


def planted_noun_table() -> pa.Table:
    """The planted vocabulary as `build_semantic_space` publishes one."""
    embeddings = planted_nouns()
    names = [f"noun {number}" for number in range(len(embeddings))]
    return noun_table(Vocabulary(names, [None] * len(names), embeddings), embeddings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the run directory is written")
    arguments = parser.parse_args()
    print(planted_run(arguments.folder, arguments.num_images).uri)


if __name__ == "__main__":
    main()
