"""Pages of all members of a cluster, beside the report: each one self-contained file of thumbnails, best fit first."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from dxmc_core.report.assemble import DOUBTFUL
from dxmc_core.report.data import ReportImage
from dxmc_core.report.page import csp_hash, environment, joined_templates, style_sheet, writable_text

#: Longest edge of a thumbnail; one takes about 6 kB of a page.
EDGE_PX = 160
PAGE_IMAGES = 200

_STYLES = ("page.css", "members.css")
_SCRIPTS = ("elements.js", "members.js")
_LINKED_SCHEMES = ("file", "http", "https")


@dataclass(frozen=True, kw_only=True)
class MembersPage:
    """A page of the members of one cluster.

    Attributes:
        size: of the cluster; num_shown of its members are on its pages.
        page: from 1 to num_pages.
        images: of this page, the best fit first, with thumbnails as WebP where there are any.
        runner_ups: for each of the images the name of the cluster that came second, "" for none.
        item: what one image is called, singular and plural.
    """

    title: str
    cluster_id: int
    name: str
    size: int
    num_shown: int
    page: int
    num_pages: int
    images: Sequence[ReportImage]
    runner_ups: Sequence[str]
    item: tuple[str, str] = ("image", "images")


def page_name(cluster_id: int, page: int) -> str:
    """The file of a page; the first one bears the cluster's number alone."""
    return f"cluster-{cluster_id}.html" if page == 1 else f"cluster-{cluster_id}-{page}.html"


def render_members(page: MembersPage) -> str:
    """One HTML document, for writing as UTF-8 into a folder two levels below the report's."""
    style, script = style_sheet(_STYLES), joined_templates(_SCRIPTS)
    html = (
        environment()
        .get_template("members.html")
        .render(
            page=page,
            members=[_Member.of(image, other) for image, other in zip(page.images, page.runner_ups, strict=True)],
            names=[page_name(page.cluster_id, number) for number in range(1, page.num_pages + 1)],
            style=style,
            script=script,
            style_hash=csp_hash(style),
            script_hash=csp_hash(script),
        )
    )
    return writable_text(html)


@dataclass(frozen=True)
class _Member:
    image_id: str
    picture: str
    address: str
    other: str

    @classmethod
    def of(cls, image: ReportImage, runner_up: str) -> "_Member":
        picture = image.thumbnail
        assert picture is None or isinstance(picture, bytes)
        return cls(
            image_id=image.image_id,
            picture="" if picture is None else f"data:image/webp;base64,{base64.b64encode(picture).decode('ascii')}",
            address=browser_address(image.uri),
            other=runner_up if image.sureness is not None and image.sureness < DOUBTFUL else "",
        )


def browser_address(uri: str) -> str:
    """The address a browser could open an image by, or "": scripts and storage schemes get no link."""
    if Path(uri).is_absolute():
        return Path(uri).as_uri()
    try:
        return uri if urlsplit(uri).scheme in _LINKED_SCHEMES else ""
    except ValueError:
        return ""


def choose_members(cluster_ids: np.ndarray, distances: np.ndarray, *, max_images: int) -> dict[int, np.ndarray]:
    """Positions of the members to show by cluster id, the best fit first.

    Of more than `max_images` images every cluster shows the same number, or all it has where they are fewer, evenly
    spread from its best to its worst fit.

    Args:
        cluster_ids: (N,) integers.
        distances: (N,) from the own cluster's middle, in any unit that is the same within a cluster.
    """
    order = np.lexsort((distances, cluster_ids))
    found, starts, sizes = np.unique(cluster_ids[order], return_index=True, return_counts=True)
    quota = _quota(sizes, max_images)
    chosen = {}
    for cluster_id, start, size in zip(found.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        count = min(size, quota)
        if count:
            places = np.linspace(0, size - 1, count).round().astype(np.int64)
            chosen[cluster_id] = order[start + places]
    return chosen


def _quota(sizes: np.ndarray, total: int) -> int:
    """The largest number that each can have at most so that all together stay within `total`."""
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(sizes, middle).sum() <= total:
            low = middle
        else:
            high = middle - 1
    return low
