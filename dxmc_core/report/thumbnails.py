"""Packs thumbnails into WebP sprite sheets: a report with thousands of pictures stays one file within a stated size.

A sheet holds pictures that are on screen together (a cluster's card, a stretch of the map), and the page decodes it
when the first of them is shown.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from dxmc_core.report.data import Thumbnail
from dxmc_core.runtime.slices import slices_of

#: Longest edges that are tried, largest first. A thumbnail is never enlarged: 256 pixels is the size to make them in.
EDGES_PX = (256, 192, 160, 128, 96, 72, 56, 40, 28)
DEFAULT_MAX_BYTES = 20_000_000
_WEBP_QUALITY = 78
#: The slower methods save 2% at twice the time.
_WEBP_METHOD = 2
#: What thumbnails may come in; trying all of Pillow's formats costs more than decoding.
_FORMATS = ("WEBP", "JPEG", "PNG")
#: Base64 turns three bytes into four characters.
_TEXT_PER_BYTE = 4 / 3
_NUM_SAMPLED_SHEETS = 4


@dataclass(frozen=True)
class SpriteGroup:
    """Row ids whose thumbnails share sheets, and the longest edge they need on screen.

    With `doubles_first` the first of them is shown, and so kept, at twice the size of the others.
    """

    row_ids: Sequence[int]
    max_edge_px: int = EDGES_PX[0]
    max_per_sheet: int = 40
    doubles_first: bool = False


@dataclass(frozen=True)
class Tile:
    """Where a thumbnail lies in its sheet, in pixels."""

    sheet: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class SpriteSheet:
    """One encoded sheet."""

    data_uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Sprites:
    """Sheets, and the tile in them of each row that found room."""

    sheets: Sequence[SpriteSheet]
    tiles: Mapping[int, Tile]


@dataclass(frozen=True)
class _SheetPlan:
    row_ids: Sequence[int]
    max_edge_px: int
    doubles_first: bool

    def edges(self, edge: int) -> list[int]:
        """The longest edge of each row's tile when tiles are to have this one."""
        edges = [min(edge, self.max_edge_px)] * len(self.row_ids)
        if self.doubles_first:
            edges[0] = min(2 * edge, self.max_edge_px)
        return edges


def pack_sprites(
    groups: Sequence[SpriteGroup], thumbnails: Mapping[int, Thumbnail], *, max_bytes: int = DEFAULT_MAX_BYTES
) -> Sprites:
    """Pack thumbnails at the largest size whose sheets stay within `max_bytes` of text, base64 included.

    Rows without a thumbnail get no tile. When even the smallest size is too much, sheets are dropped from the end: give
    the most important groups first.

    Args:
        groups: no row may be in two of them.
        thumbnails: by row id, of any shape; each keeps its proportions.

    Raises:
        ValueError: a thumbnail is not a picture.
    """
    plans = _plan_sheets(groups, thumbnails)
    if not plans:
        return Sprites((), {})
    edges = [edge for edge in EDGES_PX if _estimate_text_bytes(plans, thumbnails, edge) <= max_bytes] or [EDGES_PX[-1]]
    for edge in edges:
        sheets, tiles, complete = _encode_until(plans, thumbnails, edge, max_bytes)
        if complete:
            break
    return Sprites(sheets, tiles)


def _plan_sheets(groups: Sequence[SpriteGroup], thumbnails: Mapping[int, Thumbnail]) -> list[_SheetPlan]:
    plans = []
    for group in groups:
        rows = [row for row in group.row_ids if row in thumbnails]
        for block in slices_of(len(rows), group.max_per_sheet):
            on_sheet = rows[block]
            plans.append(_SheetPlan(on_sheet, group.max_edge_px, group.doubles_first and block.start == 0))
    return plans


def _estimate_text_bytes(plans: Sequence[_SheetPlan], thumbnails: Mapping[int, Thumbnail], edge: int) -> float:
    """Size of all sheets at this edge, from evenly spread ones; one kind of group (by its longest edge) at a time."""
    total = 0.0
    for max_edge in {plan.max_edge_px for plan in plans}:
        alike = [plan for plan in plans if plan.max_edge_px == max_edge]
        step = max(1, len(alike) // _NUM_SAMPLED_SHEETS)
        sampled = alike[::step][:_NUM_SAMPLED_SHEETS]
        num_bytes = sum(len(_encode_sheet(plan, thumbnails, edge)[0]) for plan in sampled)
        num_rows = sum(len(plan.row_ids) for plan in sampled)
        total += num_bytes / num_rows * sum(len(plan.row_ids) for plan in alike)
    return total * _TEXT_PER_BYTE


def _encode_until(
    plans: Sequence[_SheetPlan], thumbnails: Mapping[int, Thumbnail], edge: int, max_bytes: int
) -> tuple[list[SpriteSheet], dict[int, Tile], bool]:
    """Encode sheets in order until one does not fit any more; the flag says whether all did."""
    sheets: list[SpriteSheet] = []
    tiles: dict[int, Tile] = {}
    room = max_bytes
    for plan in plans:
        encoded, size, boxes = _encode_sheet(plan, thumbnails, edge)
        data_uri = "data:image/webp;base64," + base64.b64encode(encoded).decode("ascii")
        room -= len(data_uri)
        if room < 0:
            return sheets, tiles, False
        tiles.update({row: Tile(len(sheets), *box) for row, box in zip(plan.row_ids, boxes, strict=True)})
        sheets.append(SpriteSheet(data_uri, *size))
    return sheets, tiles, True


def _encode_sheet(
    plan: _SheetPlan, thumbnails: Mapping[int, Thumbnail], edge: int
) -> tuple[bytes, tuple[int, int], list[tuple[int, int, int, int]]]:
    """The sheet as WebP, its size, and the box (x, y, width, height) of each of its rows."""
    pictures = [
        _shrink(row, thumbnails[row], own_edge) for row, own_edge in zip(plan.row_ids, plan.edges(edge), strict=True)
    ]
    boxes = list(_shelve([picture.size for picture in pictures]))
    width = max(x + box_width for x, _, box_width, _ in boxes)
    height = max(y + box_height for _, y, _, box_height in boxes)
    sheet = Image.new("RGB", (width, height), "white")
    for picture, (x, y, _, _) in zip(pictures, boxes, strict=True):
        sheet.paste(picture, (x, y))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=_WEBP_METHOD)
    return buffer.getvalue(), (width, height), boxes


def _shrink(row: int, thumbnail: Thumbnail, edge: int) -> Image.Image:
    try:
        if isinstance(thumbnail, bytes):
            thumbnail = Image.open(io.BytesIO(thumbnail), formats=_FORMATS)
        picture = thumbnail.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"expected a picture as the thumbnail of row {row}, found bytes Pillow cannot read") from error
    # As sharp as bicubic at the price of bilinear: this runs for every picture of the report.
    picture.thumbnail((edge, edge), Image.Resampling.HAMMING)
    return picture


def _shelve(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes in rows from left to right, about as wide as high in all.

    Boxes start at even pixels: WebP halves the colour resolution, and a shared colour pixel would bleed.
    """
    shelf_width = max(max(width for width, _ in sizes), int(sum(width * height for width, height in sizes) ** 0.5))
    x = y = shelf_height = 0
    for width, height in sizes:
        if x and x + width > shelf_width:
            x, y, shelf_height = 0, y + shelf_height, 0
        yield x, y, width, height
        x += width + width % 2
        shelf_height = max(shelf_height, height + height % 2)
