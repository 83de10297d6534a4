"""Report data must be complete: what it refers to is there."""

from dataclasses import replace

import numpy as np
import pytest

from dxmc_core.report.data import MapPoints, ReportCluster, check_report_data, rows_shown


def test_rows_shown_has_every_row_once_and_clusters_first(make_report_data):
    data = make_report_data(pictures=False, low_confidence=[3, 19], outliers=[19, 0])
    rows = rows_shown(data)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(range(80))
    assert rows[:18] == list(range(18))
    assert rows.index(19) < min(rows.index(18), rows.index(39))


def test_rows_shown_needs_no_images(make_report_data):
    data = make_report_data(pictures=False)
    assert rows_shown(replace(data, images={})) == rows_shown(data)


def test_complete_data_pass(make_report_data):
    check_report_data(make_report_data(pictures=False))


def test_missing_row_is_named(make_report_data):
    data = make_report_data(pictures=False)
    images = {row: image for row, image in data.images.items() if row != 5}
    with pytest.raises(ValueError, match=r"row 5.*ReportData\.images"):
        check_report_data(replace(data, images=images))


def test_unknown_nearest_cluster_is_named(make_report_data):
    data = make_report_data(pictures=False)
    clusters = [*data.clusters, ReportCluster(cluster_id=9, size=1, name="x", nearest_clusters=[77])]
    with pytest.raises(ValueError, match="cluster 77"):
        check_report_data(replace(data, clusters=clusters))


def test_repeated_cluster_is_refused(make_report_data):
    data = make_report_data(pictures=False)
    with pytest.raises(ValueError, match="found 5 for 4 ids"):
        check_report_data(replace(data, clusters=[*data.clusters, data.clusters[0]]))


@pytest.mark.parametrize("xy", [np.zeros((80, 3)), np.zeros((79, 2)), np.full((80, 2), np.nan)])
def test_map_positions_must_fit(make_report_data, xy):
    data = make_report_data(pictures=False)
    points = MapPoints(row_ids=np.arange(80), xy=xy)
    with pytest.raises(ValueError, match=r"\(80, 2\)"):
        check_report_data(replace(data, map_points=points))
