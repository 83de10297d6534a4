"""Chart geometry against values worked out by hand."""

import math

import pytest

from dxmc_core.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_SEGMENTS,
    RIGHT,
    TOP,
    WIDTH,
    compact,
    lay_out,
    nice_ticks,
    size_profile,
    size_ribbon,
)
from dxmc_core.report.data import Curve, ReportCluster, Series


def one_line(y: list[float], x: list[float] | None = None) -> Curve:
    return Curve(title="Loss", series=[Series(name="total", x=x or list(range(1, len(y) + 1)), y=y)])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (1.03, 3.9, [1, 2, 3, 4]),
        (-0.3, 0.2, [-0.4, -0.2, 0, 0.2]),
        (5, 5, [4.5, 4.75, 5, 5.25, 5.5]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert nice_ticks(low, high, count=4) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12_500, "12.5k"), (0.04217, "0.0422"), (1234, "1234"), (2.5e6, "2.5M"), (0, "0"), (-3.14159, "-3.14")],
)
def test_compact_numbers(value, text):
    assert compact(value) == text


def test_line_spans_the_box():
    chart = lay_out(one_line([0.0, 10.0, 5.0]))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = (LEFT + right) / 2
    assert chart.lines[0].path == f"M{LEFT} {bottom}h.01L{middle:g} {TOP}L{right} {(TOP + bottom) / 2:g}"
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3"]
    assert [tick.text for tick in chart.y_ticks] == ["0", "2.5", "5", "7.5", "10"]
    assert chart.lines[0].last_text == "5"


def test_gaps_interrupt_the_line():
    chart = lay_out(one_line([1.0, math.nan, 3.0, 2.0]))
    assert chart.lines[0].path.count("M") == 2
    assert chart.lines[0].path.count("L") == 1


def test_a_single_epoch_is_a_dot():
    chart = lay_out(one_line([2.0]))
    assert chart.lines[0].path.endswith("h.01")
    assert chart.lines[0].last_x == (LEFT + WIDTH - RIGHT) / 2


def test_a_curve_without_finite_points_is_left_out():
    assert lay_out(one_line([math.nan, math.inf])) is None


def test_summary_tells_the_course_in_words():
    assert lay_out(one_line([9.0, 4.0])).summary == "Loss: total from 9 at epoch 1 to 4 at epoch 2."


def clusters_of(sizes: list[int]) -> list[ReportCluster]:
    return [ReportCluster(cluster_id=index, size=size, name=f"c{index}") for index, size in enumerate(sizes)]


def test_ribbon_is_divided_by_size():
    ribbon = size_ribbon(clusters_of([60, 30, 10]))
    assert [(segment.start, segment.width) for segment in ribbon] == [(0, 60), (60, 30), (90, 10)]
    assert ribbon[0].fits_name
    assert not size_ribbon(clusters_of([999, 1]))[1].fits_name


def test_too_many_clusters_or_none_have_no_ribbon():
    assert size_ribbon(clusters_of([1] * (MAX_SEGMENTS + 1))) == []
    assert size_ribbon(clusters_of([0, 0])) == []


def test_profile_steps_down():
    assert size_profile([4, 1]) == "M0 100L0.0 0.0H500.0L500.0 75.0H1000.0V100Z"
    assert size_profile([]) == "M0 100V100Z"


def test_doublings_are_even_on_a_logarithmic_axis_and_marks_stand_where_they_belong():
    series = [Series(name="overall", x=[2, 4, 8, 32, 128], y=[0, 1, 2, 3, 4])]
    chart = lay_out(Curve(title="Overall", series=series, x_label="clusters", log_x=True, marks=[8, 16]))
    assert chart is not None
    assert [tick.text for tick in chart.x_ticks] == ["2", "4", "8", "16", "32", "64", "128"]
    steps = [after.at - before.at for before, after in zip(chart.x_ticks, chart.x_ticks[1:], strict=False)]
    assert max(steps) - min(steps) <= 0.2
    assert [(mark.at, mark.text) for mark in chart.marks] == [(chart.x_ticks[2].at, "8"), (chart.x_ticks[3].at, "16")]
    assert chart.summary.endswith("Marked: 8, 16.")


def test_many_doublings_are_thinned():
    chart = lay_out(Curve(title="t", series=[Series(name="s", x=[2, 2000], y=[0, 1])], log_x=True))
    assert chart is not None
    assert [tick.text for tick in chart.x_ticks] == ["2", "8", "32", "128", "512"]
