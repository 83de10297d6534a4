"""Sprite sheets: every tile is its picture, within the budget."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dxmc_core.report.thumbnails import EDGES_PX, SpriteGroup, Sprites, pack_sprites


def flat_picture(row: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """One colour a row, so that a tile shows whose it is."""
    return Image.new("RGB", size, ((row * 67) % 200 + 20, (row * 131) % 200 + 20, (row * 29) % 200 + 20))


def noisy_picture(row: int, edge: int = 256) -> Image.Image:
    """What compresses badly."""
    return Image.fromarray(np.random.default_rng(row).integers(0, 256, (edge, edge, 3), dtype=np.uint8))


def as_bytes(picture: Image.Image, format_name: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name)
    return buffer.getvalue()


def decode(sprites: Sprites, sheet: int) -> Image.Image:
    head, text = sprites.sheets[sheet].data_uri.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def tile_picture(sprites: Sprites, row: int) -> Image.Image:
    tile = sprites.tiles[row]
    box = (tile.x, tile.y, tile.x + tile.width, tile.y + tile.height)
    return decode(sprites, tile.sheet).convert("RGB").crop(box)


def text_bytes(sprites: Sprites) -> int:
    return sum(len(sheet.data_uri) for sheet in sprites.sheets)


def test_every_tile_shows_its_own_picture_up_to_its_edges():
    thumbnails = {row: flat_picture(row, (60 - row, 30 + row)) for row in range(25)}
    sprites = pack_sprites([SpriteGroup(range(20)), SpriteGroup([20, 21, 22, 23, 24])], thumbnails)
    assert set(sprites.tiles) == set(range(25))
    for row, thumbnail in thumbnails.items():
        shown = np.asarray(tile_picture(sprites, row), dtype=int)
        assert shown.shape == (30 + row, 60 - row, 3)
        # Lossy at the seams, but of its own colour all over.
        assert np.abs(shown - np.asarray(thumbnail, dtype=int))[5:-5, 5:-5].max() < 16, row
        assert np.abs(shown - np.asarray(thumbnail, dtype=int)).mean() < 6, row


def test_tiles_do_not_overlap_and_lie_inside_their_sheet():
    thumbnails = {row: flat_picture(row, (31 + row % 7, 50 - row % 5)) for row in range(40)}
    sprites = pack_sprites([SpriteGroup(range(40))], thumbnails)
    covered = np.zeros((sprites.sheets[0].height, sprites.sheets[0].width), dtype=int)
    assert decode(sprites, 0).size == (sprites.sheets[0].width, sprites.sheets[0].height)
    for tile in sprites.tiles.values():
        assert tile.x + tile.width <= covered.shape[1]
        assert tile.y + tile.height <= covered.shape[0]
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert covered.max() == 1


def test_groups_share_no_sheet_and_long_groups_take_several():
    thumbnails = {row: flat_picture(row) for row in range(30)}
    sprites = pack_sprites([SpriteGroup(range(25), max_per_sheet=10), SpriteGroup(range(25, 30))], thumbnails)
    sheets = [sprites.tiles[row].sheet for row in range(30)]
    assert sheets == [0] * 10 + [1] * 10 + [2] * 5 + [3] * 5


@pytest.mark.parametrize("format_name", ["WEBP", "JPEG", "PNG"])
def test_bytes_are_as_good_as_pictures(format_name):
    sprites = pack_sprites([SpriteGroup([3])], {3: as_bytes(flat_picture(3), format_name)})
    assert np.abs(np.asarray(tile_picture(sprites, 3), dtype=int) - np.asarray(flat_picture(3), dtype=int)).max() < 24


def test_small_pictures_are_not_enlarged_and_large_ones_keep_their_proportions():
    thumbnails = {0: flat_picture(0, (32, 32)), 1: flat_picture(1, (1000, 250))}
    tiles = pack_sprites([SpriteGroup([0, 1])], thumbnails).tiles
    assert (tiles[0].width, tiles[0].height) == (32, 32)
    assert (tiles[1].width, tiles[1].height) == (EDGES_PX[0], EDGES_PX[0] // 4)


def test_thumbnails_given_as_pictures_are_left_as_they_are():
    given = flat_picture(0, (500, 400))
    pack_sprites([SpriteGroup([0])], {0: given})
    assert given.size == (500, 400)


def test_edges_of_groups_and_of_first_pictures():
    thumbnails = {row: flat_picture(row, (256, 256)) for row in range(4)}
    tiles = pack_sprites([SpriteGroup([0, 1], max_edge_px=96), SpriteGroup([2, 3])], thumbnails).tiles
    assert [tiles[row].width for row in range(4)] == [96, 96, 256, 256]
    noisy = {row: noisy_picture(row) for row in range(12)}
    sprites = pack_sprites([SpriteGroup(range(12), doubles_first=True)], noisy, max_bytes=120_000)
    assert sprites.tiles[0].width == 2 * sprites.tiles[1].width


def test_pictures_shrink_until_they_fit_the_budget():
    thumbnails = {row: noisy_picture(row) for row in range(16)}
    groups = [SpriteGroup(range(8)), SpriteGroup(range(8, 16))]
    free = pack_sprites(groups, thumbnails)
    tight = pack_sprites(groups, thumbnails, max_bytes=text_bytes(free) // 5)
    assert text_bytes(tight) <= text_bytes(free) // 5
    assert set(tight.tiles) == set(thumbnails)
    assert tight.tiles[0].width < free.tiles[0].width


def test_what_cannot_fit_is_dropped_from_the_end():
    thumbnails = {row: noisy_picture(row, 64) for row in range(40)}
    groups = [SpriteGroup(range(start, start + 10)) for start in range(0, 40, 10)]
    sprites = pack_sprites(groups, thumbnails, max_bytes=16_000)
    assert 0 < len(sprites.tiles) < 40
    assert set(sprites.tiles) == set(range(len(sprites.tiles)))
    assert text_bytes(sprites) <= 16_000


def test_rows_without_thumbnails_get_no_tile():
    sprites = pack_sprites([SpriteGroup([1, 2, 3]), SpriteGroup([])], {2: flat_picture(2)})
    assert set(sprites.tiles) == {2}
    empty = pack_sprites([SpriteGroup([1, 2])], {})
    assert (list(empty.sheets), dict(empty.tiles)) == ([], {})


def test_bytes_that_are_no_picture_are_refused_by_row():
    with pytest.raises(ValueError, match="row 17"):
        pack_sprites([SpriteGroup([17])], {17: b"not a picture"})
