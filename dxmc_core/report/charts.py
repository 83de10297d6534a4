"""Geometry of the report's line charts and of its ribbon of cluster sizes: numbers in, SVG coordinates out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dxmc_core.report.data import Curve, ReportCluster, Series

WIDTH, HEIGHT = 360, 210
#: More segments than this are too thin for a ribbon.
MAX_SEGMENTS = 60
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 20, 38


@dataclass(frozen=True)
class Tick:
    """An axis mark: its place along the axis in SVG units, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series as an SVG path, with its last point and that point's value as text."""

    name: str
    path: str
    last_x: float
    last_y: float
    last_text: str


@dataclass(frozen=True)
class Chart:
    """A curve laid out in a box of WIDTH by HEIGHT."""

    title: str
    note: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    marks: Sequence[Tick]
    summary: str


@dataclass(frozen=True)
class Segment:
    """A cluster's part of the ribbon, in percent of its width."""

    cluster: ReportCluster
    start: float
    width: float

    @property
    def fits_name(self) -> bool:
        """Whether the name has room below the segment on a page of usual width, where a letter takes 0.58 percent."""
        return 0.58 * len(self.cluster.name) < self.width


def lay_out(curve: Curve) -> Chart | None:
    """Place a curve's lines and axis marks; None when no point of it is finite."""
    points = [_finite_points(series) for series in curve.series]
    flat = [point for line in points for point in line]
    if not flat:
        return None
    scale_x = math.log2 if curve.log_x else float
    x_low, x_high = min(x for x, _ in flat), max(x for x, _ in flat)
    y_values = nice_ticks(min(y for _, y in flat), max(y for _, y in flat), count=4)
    whole = all(x == int(x) for x, _ in flat)
    candidates = _doublings(x_low, x_high) if curve.log_x else nice_ticks(x_low, x_high, count=5)
    x_values = [x for x in candidates if x_low <= x <= x_high and not (whole and x != int(x))]

    def place_x(x: float) -> float:
        low, high = scale_x(x_low), scale_x(x_high)
        return round(LEFT + (WIDTH - LEFT - RIGHT) * ((scale_x(x) - low) / (high - low) if high > low else 0.5), 1)

    def place_y(y: float) -> float:
        low, high = y_values[0], y_values[-1]
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low), 1)

    lines = []
    for series in curve.series:
        finite = _finite_points(series)
        if finite:
            x, y = finite[-1]
            lines.append(Line(series.name, _path(series, place_x, place_y), place_x(x), place_y(y), compact(y)))
    return Chart(
        title=curve.title,
        note=curve.note,
        x_label=curve.x_label,
        y_label=curve.y_label,
        x_ticks=[Tick(place_x(x), compact(x)) for x in x_values],
        y_ticks=[Tick(place_y(y), compact(y)) for y in y_values],
        lines=lines,
        marks=[Tick(place_x(x), compact(x)) for x in curve.marks],
        summary=_summarize(curve),
    )


def lay_out_all(curves: Sequence[Curve]) -> list[Chart]:
    """The curves that have anything to show."""
    return [chart for curve in curves if (chart := lay_out(curve)) is not None]


def nice_ticks(low: float, high: float, *, count: int) -> list[float]:
    """About `count` round values, the first at or below `low` and the last at or above `high`, at least two."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _doublings(low: float, high: float) -> list[float]:
    """Powers of two from `low` to `high`; of many, every second or third."""
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    return [2.0**exponent for exponent in range(first, last + 1, 1 + (last - first) // 7)]


def compact(value: float) -> str:
    """Four significant digits at most: 12500 -> "12.5k", 0.04217 -> "0.0422"."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if suffix == 'k' else unit):.3g}{suffix}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def size_ribbon(clusters: Sequence[ReportCluster]) -> list[Segment]:
    """Every cluster's share of the images as a segment, the largest first; empty for more than `MAX_SEGMENTS`."""
    total = sum(cluster.size for cluster in clusters)
    if total == 0 or len(clusters) > MAX_SEGMENTS:
        return []
    segments, start = [], 0.0
    for cluster in clusters:
        width = 100 * cluster.size / total
        segments.append(Segment(cluster, round(start, 3), round(width, 3)))
        start += width
    return segments


def size_profile(sizes: Sequence[int]) -> str:
    """An SVG path over a box of 1000 by 100: a step for each size, given the largest first."""
    largest = max(sizes, default=0) or 1
    step = 1000 / max(1, len(sizes))
    tops = "".join(
        f"L{index * step:.1f} {100 - 100 * size / largest:.1f}H{(index + 1) * step:.1f}"
        for index, size in enumerate(sizes)
    )
    return f"M0 100{tops}V100Z"


def _finite_points(series: Series) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(series.x, series.y, strict=True) if _finite(x) and _finite(y)]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _path(series: Series, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> str:
    """Straight lines between neighbouring finite points; a lone point is a tiny dash, which round caps make a dot."""
    parts, pen_down = [], False
    for x, y in zip(series.x, series.y, strict=True):
        if _finite(x) and _finite(y):
            parts.append(f"{'L' if pen_down else 'M'}{place_x(x):g} {place_y(y):g}" + ("" if pen_down else "h.01"))
            pen_down = True
        else:
            pen_down = False
    return "".join(parts)


def _summarize(curve: Curve) -> str:
    """The chart in words, for those who cannot see it."""
    parts = []
    for series in curve.series:
        points = _finite_points(series)
        if points:
            (x_first, first), (x_last, last) = points[0], points[-1]
            parts.append(
                f"{series.name} from {compact(first)} at {curve.x_label} {compact(x_first)} "
                f"to {compact(last)} at {curve.x_label} {compact(x_last)}"
            )
    marked = f" Marked: {', '.join(compact(x) for x in curve.marks)}." if curve.marks else ""
    return f"{curve.title}: " + "; ".join(parts) + "." + marked
