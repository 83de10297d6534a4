"""When a run is stopped for its rejects, and when it is not."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from dxmc_core.artifacts.stage_dir import StageDir
from dxmc_core.artifacts.storage import Storage
from dxmc_core.artifacts.tables import REJECTS
from dxmc_core.images.decode import RejectReason
from dxmc_core.images.quarantine import TRANSIENT, Quarantine, forget_transient_rejects, scouts_first

CHUNK_ROWS = 100


def stopped_after(shares, *, max_fraction, num_rows=None):
    """The number of chunks, with the given shares of rejects, after which a run is stopped; None when never."""
    quarantine = Quarantine(num_rows or len(shares) * CHUNK_ROWS, max_fraction=max_fraction)
    for chunk, share in enumerate(shares):
        rejects = round(share * CHUNK_ROWS)
        if rejects:
            quarantine.add(chunk, rejects, rejected=True)
        if rejects < CHUNK_ROWS:
            quarantine.add(chunk, CHUNK_ROWS - rejects, rejected=False)
        if quarantine.is_exceeded:
            return chunk + 1
    return None


def test_run_in_which_everything_fails_is_stopped_early():
    assert stopped_after([1.0] * 1000, max_fraction=0.5) == 8


def test_run_in_which_most_fails_is_stopped_early():
    chance = random.Random(0)
    shares = [min(max(chance.gauss(0.8, 0.1), 0), 1) for _ in range(1000)]
    assert 8 <= stopped_after(shares, max_fraction=0.5) <= 20


def test_damaged_folder_at_the_start_stops_nothing():
    assert stopped_after([1.0] * 7 + [0.0] * 93, max_fraction=0.5) is None


@pytest.mark.parametrize("seed", range(20))
def test_share_below_the_limit_is_let_pass(seed):
    chance = random.Random(seed)
    shares = [1.0 if chance.random() < 0.35 else 0.0 for _ in range(300)]  # whole chunks fail together
    assert stopped_after(shares, max_fraction=0.5) is None


def test_limit_passed_for_certain_stops_at_once_whatever_the_sample():
    assert stopped_after([0.3] * 3, max_fraction=0.5) is None
    assert stopped_after([0.6, 0.6, 0.6], max_fraction=0.5) == 3
    assert Quarantine(100, max_fraction=0.1, done=np.array([[0, 11]])).is_exceeded
    assert not Quarantine(100, max_fraction=0.1, done=np.array([[0, 10]])).is_exceeded


def test_no_reject_allowed_and_all_allowed():
    assert stopped_after([0.0, 0.0, 0.01, 0.0], max_fraction=0) == 3
    assert stopped_after([1.0] * 50, max_fraction=1) is None


def test_rerun_that_begins_with_the_rejects_of_the_attempt_before_goes_on():
    """Rejects that may pass are tried again with the part that they are in: whole chunks of nothing but rejects."""
    done = np.tile([88, 0], (20, 1))
    quarantine = Quarantine(10_000, max_fraction=0.5, done=done)
    for chunk in range(20):
        quarantine.add(chunk, 12, rejected=True)
        assert not quarantine.is_exceeded
    for chunk in range(20, 80):
        quarantine.add(chunk, 100, rejected=True)
    assert quarantine.is_exceeded


def test_finding_has_the_numbers():
    quarantine = Quarantine(1000, max_fraction=0.25, done=np.array([[0, 0], [30, 200]]))
    quarantine.add(0, 90, rejected=True)
    quarantine.add(0, 10, rejected=False)
    assert quarantine.finding == (
        "290 of 1000 images are rejected, 100 were tried by this run; source.max_reject_fraction is 0.25"
    )


@pytest.mark.parametrize("count", [0, 5, 32, 33, 64, 1000])
def test_scouts_come_from_everywhere_and_every_chunk_once(count):
    order = scouts_first(list(range(count)))
    assert sorted(order) == list(range(count))
    if count > 100:
        assert order[0] == 0
        assert order[31] == count - 1
        assert max(later - earlier for earlier, later in itertools.pairwise(order[:32])) < count / 30
        assert order[32:] == sorted(order[32:])


def test_rejects_that_may_pass_are_tried_again(tmp_path):
    stage = StageDir(Storage(str(tmp_path)), "embed_images")
    fingerprint = "d" * 32

    def write(row, *reasons):
        rows = [
            {"row_id": row + at, "image_id": "x", "uri": "u", "reason": str(reason), "message": "m"}
            for at, reason in enumerate(reasons)
        ]
        stage.write_part("rejects", pa.Table.from_pylist(rows, schema=REJECTS.schema()), fingerprint=fingerprint)

    write(0, RejectReason.TRUNCATED, RejectReason.EMPTY)
    write(10, RejectReason.TRUNCATED, RejectReason.ACCESS_DENIED)
    write(20, RejectReason.UNREACHABLE)
    assert forget_transient_rejects(stage, fingerprint=fingerprint) == 3
    left = [row_ids.tolist() for _, row_ids in stage.staged_row_ids("rejects", fingerprint=fingerprint)]
    assert left == [[0, 1]]
    assert forget_transient_rejects(stage, fingerprint=fingerprint) == 0


def test_damage_is_not_transient():
    assert TRANSIENT.isdisjoint({RejectReason.TRUNCATED, RejectReason.UNREADABLE, RejectReason.NOT_AN_IMAGE})
