"""Fixtures that more than one suite uses, what is said of skipped tests, and the rule that CI may not skip."""

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from s3_server import serve_s3
from s3fs import S3FileSystem

from dxmc_core.artifacts.index_file import METRICS_KEY
from dxmc_core.artifacts.matrices import embedding_column
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.s3 import S3
from dxmc_core.artifacts.tables import ASSIGNMENTS, CATALOG, CENTERS, CLUSTERS, IMAGES, NOUNS, REJECTS
from dxmc_core.config import PipelineConfig, parse_config
from dxmc_core.method.neighbors.search_index import IndexChoice
from dxmc_core.stages.search_index import FillShard, IndexSource, prepare_index, publish_index
from ray_jobs.context import record_of

_REPOSITORY = Path(__file__).parents[1]
#: The only reasons for which a test may be skipped in CI. What stands beside dxmc in benchmarks is no part of `dev`.
_MAY_BE_MISSING = ("no GPU", "this machine may not make namespaces", "it is in the extra benchmarks")


@pytest.fixture(scope="session")
def evaluation_data() -> Path:
    """The folder of evaluation data: DXMC_EVALUATION_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("DXMC_EVALUATION_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "clip_vitb32").is_dir():
        pytest.skip(f"no evaluation data in {folder}; set DXMC_EVALUATION_DATA to the folder that holds clip_vitb32")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The machine's Chromium, headless."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*flags, "--disable-sync", "--no-first-run"]
        )
        yield browser
        browser.close()


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own on the session's S3 server, which this process and the ones it starts find by environment.

    Attributes:
        uri: s3://<name>.
        environment: for processes whose environment is given explicitly.
        client: boto3's.
        faults: what the server breaks (`benchmarks/s3_server.py`); nothing at first.
    """

    name: str
    environment: dict[str, str]
    client: Any
    faults: Any

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server, monkeypatch) -> Iterator[Bucket]:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    _forget_endpoints()
    bucket = Bucket(f"test-{uuid.uuid4().hex[:12]}", s3_server.environment, s3_server.client(), s3_server.faults)
    bucket.client.create_bucket(Bucket=bucket.name)
    yield bucket
    bucket.faults.share = 0.0
    bucket.faults.every = None
    bucket.faults.always.clear()
    bucket.faults.counts.clear()
    _forget_endpoints()


def _forget_endpoints() -> None:
    """A file system keeps the endpoint that it was made with."""
    S3FileSystem.clear_instance_cache()
    S3.clear_instance_cache()


COLORS = {"red": (230, 25, 20), "green": (25, 230, 20), "blue": (20, 25, 230)}
_FINGERPRINT = "c" * 32
_PART_ROWS = 5


@dataclass(frozen=True)
class FinishedRun:
    """A run as it lies there when all is done.

    Attributes:
        photos: the folder of its images; None where they came as embeddings.
    """

    run_dir: RunDir
    config: PipelineConfig
    photos: Path | None
    image_ids: list[str]
    embeddings: np.ndarray


class ColorEncoder:
    """An encoder for plain pictures: an image is its mean colour, a word the colours that it names."""

    embedding_width = 3
    image_size = 8
    batch_size = 16
    retrieval_temperature = 0.05

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8)), dtype=np.uint8)

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        return _unit(pixels.reshape(len(pixels), -1, 3).mean(axis=1))

    def encode_nouns(self, nouns: Sequence[str]) -> np.ndarray:
        return _unit(np.array([sum(np.eye(3)[i] * (name in noun) for i, name in enumerate(COLORS)) for noun in nouns]))


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def color_encoder() -> ColorEncoder:
    return ColorEncoder()


@pytest.fixture
def make_color_run(tmp_path) -> Callable[..., FinishedRun]:
    """Makes finished runs of twelve plain pictures, four of each colour and a little brighter each; one cluster a
    colour. By default they come as files, with their colours as labels.

    Keyword arguments: name of the run directory, files (False: the images came as embeddings), clusters (another
    cluster for each row), image_ids, uri (of the run directory), rejected (rows that were not embedded).
    """

    def make(
        name: str = "run",
        *,
        files: bool = True,
        clusters: Sequence[int] = (0,) * 4 + (1,) * 4 + (2,) * 4,
        image_ids: Sequence[str] | None = None,
        labels: bool = True,
        uri: str | None = None,
        rejected: Sequence[int] = (),
    ) -> FinishedRun:
        folder = tmp_path / "photos"
        ids = list(image_ids or (f"{color}/{number}.png" for color in COLORS for number in range(4)))
        pictures = [
            Image.new("RGB", (40, 30), tuple(min(value + 25 * number, 255) for value in color))
            for color in COLORS.values()
            for number in range(4)
        ]
        uris = [str(folder / f"{row:02}.png") for row in range(12)]
        if files:
            folder.mkdir(exist_ok=True)
            for picture, path in zip(pictures, uris, strict=True):
                picture.save(path)
        encoder = ColorEncoder()
        embeddings = encoder.encode_images(np.stack([encoder.preprocess(picture) for picture in pictures]))
        source = {"kind": "images", "uri": str(folder)} if files else {"kind": "embeddings", "uri": "x.npz"}
        run_dir = RunDir.at(uri or str(tmp_path / name))
        values = {
            "run_dir": run_dir.uri,
            "source": source,
            "encoder": {"kind": "offline"},
            "vocabulary": {"kind": "wordnet"} if files else {"kind": "embeddings", "uri": "nouns.npz"},
            "num_clusters": 3,
        }
        config = parse_config(values, where="test")
        run_dir.write_record(record_of(config))
        colors = [color for color in COLORS for _ in range(4)]
        catalog = [
            {"row_id": row, "image_id": ids[row], "uri": uris[row], "size": 1, "etag": "", "label": color}
            for row, color in enumerate(colors)
        ]
        if not labels:
            catalog = [{**row, "label": None} for row in catalog]
        _write_color_run(run_dir, catalog, embeddings, np.array(clusters), rejected)
        return FinishedRun(run_dir, config, folder if files else None, ids, embeddings)

    return make


def _write_color_run(
    run_dir: RunDir, catalog: list[dict], embeddings: np.ndarray, clusters: np.ndarray, rejected: Sequence[int]
) -> None:
    rows = np.arange(len(catalog))
    ids = [row["image_id"] for row in catalog]
    images = pa.table({"row_id": rows, "image_id": ids, "embedding": embedding_column(embeddings.astype(np.float16))})
    assignments = pa.table(
        {
            "row_id": rows,
            "image_id": ids,
            "cluster_id": clusters,
            "confidence": np.linspace(1, 0.5, len(rows)),
            "runner_up": (clusters + 1) % 3,
            "margin": np.linspace(1, 0.2, len(rows)),
            "outlier_score": np.ones(len(rows)),
        }
    )
    kept = np.delete(rows, list(rejected))
    images, assignments = images.take(kept), assignments.take(kept)
    members = {int(cluster): np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)}
    centers = np.zeros((4, 3), dtype=np.float32)  # the last cluster has no images
    for cluster, own in members.items():
        centers[cluster] = _unit(embeddings[own].mean(axis=0, keepdims=True))
    nouns = np.array([*np.eye(3), [1, 1, 0]], dtype=np.float16)
    described = [
        {
            "cluster_id": cluster,
            "size": len(own),
            "name": list(COLORS)[cluster],
            "names": [list(COLORS)[cluster]],
            "name_evidence": [],
            "name_source": "noun",
            "exemplars": own.tolist(),
            "border": [],
            "cohesion": 0.9,
            "mean_confidence": 0.8,
            "nearest_clusters": [],
        }
        for cluster, own in members.items()
    ]
    tables: dict[str, dict[str, pa.Table]] = {
        "embed_images": {
            "catalog": pa.Table.from_pylist(catalog, schema=CATALOG.schema()),
            "images": images.cast(IMAGES.schema(3)),
            "rejects": REJECTS.schema().empty_table(),
        },
        "build_semantic_space": {
            "nouns": pa.table(
                {
                    "noun_id": pa.array(range(4), pa.int32()),
                    "noun": [*COLORS, "Lemon tree"],
                    "synset_id": pa.nulls(4, pa.string()),
                    "embedding": embedding_column(nouns / np.linalg.norm(nouns, axis=1, keepdims=True)),
                }
            ).cast(NOUNS.schema(3))
        },
        "assign_clusters": {
            "assignments": assignments.cast(ASSIGNMENTS.schema()),
            "centers": pa.table(
                {
                    "cluster_id": pa.array(range(4), pa.int32()),
                    "mean_distance": pa.array([0.1] * 4, pa.float32()),
                    "embedding": embedding_column(centers),
                }
            ).cast(CENTERS.schema(3)),
            "clusters": pa.Table.from_pylist(described, schema=CLUSTERS.schema()),
        },
    }
    for stage, of_stage in tables.items():
        folder = run_dir.stage(stage)
        parts = {
            name: [
                folder.write_part(name, table.slice(start, _PART_ROWS), fingerprint=_FINGERPRINT)
                for start in range(0, table.num_rows, _PART_ROWS)
            ]
            for name, table in of_stage.items()
        }
        folder.publish(fingerprint=_FINGERPRINT, inputs={}, tables=parts, seconds=1.0)


@pytest.fixture
def index_run() -> Callable[..., None]:
    """Publishes an index of a kind as the only file of a finished run's mine_neighbors."""

    def publish(run: FinishedRun, kind: str = "flat") -> None:
        images, space, output = (
            run.run_dir.stage(name) for name in ("embed_images", "build_semantic_space", "mine_neighbors")
        )
        source = IndexSource(images, "images", space, IndexChoice(kind, "asked for"), "image_neighbors", seed=0)
        output.begin(_FINGERPRINT)
        empty = prepare_index(source, output, fingerprint=_FINGERPRINT, has_cells=False)
        shards = []
        if source.choice.has_cells:
            fill = FillShard(source, output, fingerprint=_FINGERPRINT, empty=empty)
            count = images.require_manifest().rows("images")
            slices = pa.table({"start": [0, 5], "stop": [5, count]})
            shards = [row["name"] for row in fill(slices).to_pylist()]
        part, facts = publish_index(source, output, empty, shards, min_recall=0.98)
        output.publish(
            fingerprint=_FINGERPRINT,
            inputs={},
            tables={},
            files={source.file_name: part},
            metrics={METRICS_KEY: {source.file_name: facts}},
            seconds=1.0,
        )

    return publish


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where DXMC_TESTS_MAY_NOT_SKIP is set, a skipped test is a failed one."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("DXMC_TESTS_MAY_NOT_SKIP") and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not any(missing in reason for missing in _MAY_BE_MISSING):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped where it may not be: {reason}"


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_terminal_summary(terminalreporter):
    """Say in the last lines what this machine could not test: one line for each kind of test and reason."""
    yield
    skipped = Counter(_kind_and_reason(report) for report in terminalreporter.stats.get("skipped", []))
    for (kind, reason), count in skipped.most_common():
        tests = " ".join([*kind, "test" if count == 1 else "tests"])
        terminalreporter.write_line(f"not tested here: {count} {tests} ({reason})")


def _kind_and_reason(report: pytest.TestReport) -> tuple[tuple[str, ...], str]:
    """The markers that say what a skipped test needs, and the reason that it was skipped for."""
    needs = tuple(marker for marker in ("browser", "cluster", "data", "ray") if marker in report.keywords)
    return needs, report.longrepr[-1].removeprefix("Skipped: ")
