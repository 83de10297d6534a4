"""A finished run as commands find it."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from dxmc_core.artifacts.matrices import matrix_of
from dxmc_core.artifacts.run_dir import RunDir
from dxmc_core.artifacts.tables import CENTERS, CLUSTERS, LINEAGE, NEAR_DUPLICATES
from dxmc_core.stages.assign_clusters import describe_tree

_FINGERPRINT = "d" * 32


@pytest.fixture
def publish_rest() -> Callable[[RunDir], None]:
    """Publishes what `make_color_run` leaves out, for which a report asks."""
    return _publish_rest


def _publish_rest(run_dir: RunDir) -> None:
    embedded, assigned = run_dir.stage("embed_images"), run_dir.stage("assign_clusters")
    _republish(embedded, {}, {"images": 12, "rejects": 0, "rows_resumed": 12, "reject_reasons": {}})
    clusters = assigned.read_table(CLUSTERS)
    centers = matrix_of(assigned.read_table(CENTERS)["embedding"])[clusters["cluster_id"].to_numpy()]
    more = {"cluster_tree": describe_tree(centers, clusters), "lineage": LINEAGE.schema().empty_table()}
    _republish(assigned, more, {"ids_given": 4, "mean_confidence": 0.8, "lineage": None})
    mined, trained = run_dir.stage("mine_neighbors"), run_dir.stage("train_heads")
    part = mined.write_part("near_duplicates", NEAR_DUPLICATES.schema().empty_table(), fingerprint=_FINGERPRINT)
    mined.publish(fingerprint=_FINGERPRINT, inputs={}, tables={"near_duplicates": [part]}, seconds=1.0)
    file = trained.write_file("metrics.jsonl", b"")
    trained.publish(fingerprint=_FINGERPRINT, inputs={}, tables={}, files={file.name: file}, seconds=1.0)


def _republish(stage: Any, tables: dict[str, pa.Table], metrics: dict[str, Any]) -> None:
    found = stage.require_manifest()
    written = {name: [stage.write_part(name, table, fingerprint=found.fingerprint)] for name, table in tables.items()}
    stage.publish(
        fingerprint=found.fingerprint, inputs={}, tables={**found.tables, **written}, metrics=metrics, seconds=1.0
    )
