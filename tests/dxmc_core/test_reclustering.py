"""The rule of `--mode auto`, and which settings ask for a full clustering."""

import json
from dataclasses import asdict

import pytest

from dxmc_core.config import parse_config
from dxmc_core.method.clusters.drift import AssignmentFigures
from dxmc_core.reclustering import SinceFull, decide
from dxmc_core.stages.settings.recluster import ReclusterConfig, clustering_settings, describing_settings

REFERENCE = AssignmentFigures(num_images=1000, confidence=800, distance=1000, num_low_margin=100, num_far=10)


def arrivals(count=300, *, confidence=0.8, distance=1.0, low_margin=0.1, far=0.01):
    return AssignmentFigures(count, count * confidence, count * distance, round(count * low_margin), round(count * far))


def decision(night, *, removed=0, **settings):
    since = SinceFull(REFERENCE, far=2.0).with_night(night, num_removed=removed, min_arrivals=200)
    return decide(ReclusterConfig(**settings), since)


def test_images_like_those_before_are_assigned():
    found = decision(arrivals())
    assert found.mode == "assign"
    assert "far_rise 0.000 (max 0.03)" in found.reason
    assert "300 newest images" in found.reason


@pytest.mark.parametrize(
    ("name", "night"),
    [
        ("far_rise", {"far": 0.06}),
        ("distance_rise", {"distance": 1.2}),
        ("low_margin_rise", {"low_margin": 0.4}),
        ("confidence_drop", {"confidence": 0.6}),
    ],
)
def test_each_limit_alone_asks_for_a_full_clustering(name, night):
    found = decision(arrivals(**night))
    assert found.mode == "full"
    assert f"max_{name}" in found.reason
    assert decision(arrivals(**night), **{f"max_{name}": 1}).mode == "assign"


def test_a_few_images_say_nothing_and_nights_add_up():
    worse = arrivals(150, far=0.2)
    assert decision(worse).mode == "assign"
    assert "fewer than min_arrivals 200" in decision(worse).reason
    since = SinceFull(REFERENCE, far=2.0)
    for _ in range(2):
        since = since.with_night(worse, num_removed=5, min_arrivals=200)
    assert decide(ReclusterConfig(), since).mode == "full"
    assert since.turnover == pytest.approx(0.31)
    assert SinceFull.from_dict(json.loads(json.dumps(asdict(since)))) == since


def test_what_came_long_ago_does_not_hide_what_is_new():
    since = SinceFull(REFERENCE, far=2.0)
    for _ in range(10):
        since = since.with_night(arrivals(150), num_removed=0, min_arrivals=200)
    assert since.drift.num_arrivals == 300
    for _ in range(2):
        since = since.with_night(arrivals(150, far=0.06), num_removed=0, min_arrivals=200)
    assert (since.drift.num_arrivals, since.num_arrived) == (300, 1800)
    assert decide(ReclusterConfig(max_turnover=9), since).mode == "full"


def test_turnover_asks_for_a_full_clustering_whatever_the_drift():
    assert "turnover is 0.60" in decision(arrivals(100), removed=500).reason
    assert decision(arrivals(100), removed=300).mode == "assign"


def test_settings_that_decide_the_clusters_are_told_from_those_that_show_them():
    def settings(**changes):
        values = {"run_dir": "x", "source": {"uri": "photos"}, **changes}
        return parse_config(values, where="test").model_dump(mode="json")

    base = settings()
    copies = {"train_heads": {"count_near_duplicates_once": True}}
    for other in ({"num_clusters": 11}, {"method": {"name": "kmeans"}}, {"seed": 1}, copies):
        assert clustering_settings(settings(**other)) != clustering_settings(base)
    assert clustering_settings(settings(mine_neighbors={"search_index": "none"})) == clustering_settings(base)
    assert clustering_settings(settings(mine_neighbors={"num_neighbors": 20})) != clustering_settings(base)
    shown = (
        {"resources": {"num_cpus": 1}},
        {"assign_clusters": {"num_exemplars": 3}},
        {"write_report": {"title": "x"}},
    )
    for other in shown:
        assert clustering_settings(settings(**other)) == clustering_settings(base)
    assert [describing_settings(settings(**other), ()) == describing_settings(base, ()) for other in shown] == [
        True,
        False,
        False,
    ]
    assert describing_settings(base, [{"rename": 3}]) != describing_settings(base, ())
    moved = settings(assign_clusters={"keep_ids_from": "elsewhere", "renames": "names.yaml"})
    assert describing_settings(moved, ()) == describing_settings(base, ())
