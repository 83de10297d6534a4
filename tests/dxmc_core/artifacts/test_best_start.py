"""The start of `best` as a file: round trip, damage, and files of another version."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from dxmc_core.artifacts.best_start import deserialize_start, evidence_of, serialize_start
from dxmc_core.errors import ArtifactError
from dxmc_core.method.best.best_start import BestStart, find_start, labels_of
from dxmc_core.method.heads import DualHeads


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4, 12))[np.arange(80) % 4] + 0.2 * rng.standard_normal((80, 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=[False, True], ids=["images alone", "with text"])
def start(request, rows) -> BestStart:
    text = {"text_counterparts": rows, "selected_nouns": rows[:9]} if request.param else {}
    return find_start(rows, num_clusters=4, **text)


def test_what_is_read_is_what_was_written(start, rows):
    read = deserialize_start(serialize_start(start), where="here")
    assert evidence_of(read) == evidence_of(start)
    assert (read.agreements, read.is_done) == (start.agreements, True)
    assert (read.text_agreement is None) == (start.text_agreement is None)
    found, expected = read.discriminant, start.discriminant
    for one, other in [
        (read.cluster_shares, start.cluster_shares),
        (found.labels, expected.labels),
        (found.centers, expected.centers),
        (found.whitening.mean, expected.whitening.mean),
        (found.whitening.matrix, expected.whitening.matrix),
    ]:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    np.testing.assert_array_equal(labels_of(found, rows), labels_of(expected, rows))


def test_the_same_start_is_the_same_file_and_its_evidence_is_json(start):
    assert serialize_start(start) == serialize_start(start)
    evidence = json.loads(json.dumps(evidence_of(start)))
    assert evidence == evidence_of(start)
    assert set(evidence["agreements"]) == {"1.0", "0.5", "0.25", "0.0"}


def test_a_look_can_be_gone_on_from_after_it_was_read(rows):
    looks: list[BestStart] = []
    whole = find_start(rows, num_clusters=4, on_look=looks.append)
    read = deserialize_start(serialize_start(looks[0]), where="here")
    resumed = find_start(rows, num_clusters=4, resume_from=read)
    np.testing.assert_array_equal(resumed.discriminant.labels, whole.discriminant.labels)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:40],
        lambda data: data[:-5],
        lambda data: b"\0" * 64,
        lambda data: b"\xff" * 64,
        lambda data: data[:8] + b"\xff" * (len(data) - 8),
    ],
)
def test_a_damaged_file_is_named(start, damage):
    with pytest.raises(ArtifactError, match=r"here/start does not hold a start of this version"):
        deserialize_start(damage(serialize_start(start)), where="here/start")


def _rewritten(start: BestStart, *, drop: str | None = None, evidence: dict | None = None) -> bytes:
    tensors = {name: tensor for name, tensor in load(serialize_start(start)).items() if name != drop}
    return save(tensors, metadata={"evidence": json.dumps(evidence_of(start) | (evidence or {}))})


def test_files_of_another_version_are_named(start):
    lacking = evidence_of(start)
    del lacking["num_looks"]
    tensors = load(serialize_start(start))
    for data in (
        _rewritten(start, drop="centers"),
        _rewritten(start, evidence={"num_partitions": 24}),
        _rewritten(start, evidence={"agreements": {"ward": 0.5}}),
        _rewritten(start, evidence={"agreements": None}),
        save(tensors, metadata={"evidence": json.dumps(lacking)}),
        save(tensors, metadata={"evidence": "[]"}),
        save(tensors, metadata={"other": "{}"}),
        save(tensors),
        save({"weights": torch.zeros(3)}),
        save(DualHeads(8, 3, projection_width=0, seed=0).state_dict()),
    ):
        with pytest.raises(ArtifactError, match="does not hold a start of this version"):
            deserialize_start(data, where="here")
