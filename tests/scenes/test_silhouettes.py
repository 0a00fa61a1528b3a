"""Where a ball can be, from its silhouettes by alpha or by the colour of the background."""

import numpy as np
import pytest
from ball import CENTRE, FOCAL, RADIUS, SIDE, photographs

from jaxnerf.rendering.footprints import carve
from jaxnerf.scenes.silhouettes import TILE, possible_cells, silhouettes, tight_cube

TILES = SIDE // TILE


def shows_the_ball() -> np.ndarray:
    """Which tiles show the ball, from what was drawn."""
    alpha = photographs().images[..., 3]
    return alpha.reshape(-1, TILES, TILE, TILES, TILE).max(axis=(2, 4)) > 0


def away_from_the_ball(origin, side, mask) -> np.ndarray:
    cells = len(mask)
    index = np.argwhere(np.ones_like(mask)).reshape(*mask.shape, 3)
    return np.linalg.norm(origin + (index + 0.5) * side / cells - CENTRE, axis=-1)


def test_alpha_gives_the_silhouettes_and_one_camera_is_enough():
    shown, witnesses = silhouettes(photographs(), "white")
    np.testing.assert_array_equal(shown, shows_the_ball())
    assert witnesses == 1


@pytest.mark.parametrize(("behind", "background"), [(255, "white"), (0, "black"), (254, "white")])
def test_a_known_background_gives_them_by_its_colour(behind, background):
    shown, witnesses = silhouettes(photographs(alpha=False, behind=behind), background)
    np.testing.assert_array_equal(shown, shows_the_ball())
    assert witnesses == 2


@pytest.mark.parametrize(
    ("behind", "background"), [(250, "white"), (255, "black"), (255, "random")]
)
def test_another_background_is_not_recognised(behind, background):
    shown, _ = silhouettes(photographs(alpha=False, behind=behind), background)
    assert shown.all()


def test_pictures_whose_sides_are_no_multiple_of_a_tile():
    split = photographs()
    cropped = type(split)(split.names, split.cameras, split.images[:, : SIDE - 3, : SIDE - 5])
    shown, _ = silhouettes(cropped, "white")
    assert shown.shape == (12, TILES, TILES)
    pixels = cropped.images[..., 3] > 0
    for camera, row, column in np.ndindex(shown.shape):
        tile = pixels[camera, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        assert shown[camera, row, column] == tile.any()


def test_the_hull_holds_the_ball_and_little_else():
    sizes = {}
    for alpha in (True, False):
        origin, side, mask = possible_cells(photographs(alpha=alpha), 32, "white")
        away = away_from_the_ball(origin, side, mask)
        assert mask[away < RADIUS].all()
        assert (origin < CENTRE - RADIUS).all()
        assert (origin + side > CENTRE + RADIUS).all()
        sizes[alpha] = mask.sum() * (side / 32) ** 3
    # Tiles of 8 pixels are as wide as a third of the ball, and are grown by one; two witnesses leave
    # more than one.
    assert sizes[True] < sizes[False]
    assert sizes[True] ** (1 / 3) < 2.0 * (RADIUS + 2.0 * TILE * 3.0 / FOCAL)
    assert sizes[False] ** (1 / 3) < 2.0 * (RADIUS + 2.0 * TILE * 3.0 / FOCAL)


@pytest.mark.parametrize("cells", [16, 24, 40, 96])
def test_cells_are_found_by_way_of_coarser_ones_whatever_their_number(cells):
    split = photographs()
    origin, side, mask = possible_cells(split, cells, "white")
    assert mask[away_from_the_ball(origin, side, mask) < RADIUS + 0.5 * side / cells].all()
    every = np.argwhere(np.ones_like(mask))
    centres = (origin + (every + 0.5) * side / cells).astype(np.float32)
    found = carve(centres, 0.87 * side / cells, split.cameras, shows_the_ball(), TILE)
    direct = np.zeros_like(mask)
    direct[tuple(every[found].T)] = True
    assert not (mask & ~direct).any()
    # Tiles are rounded up for each size: a coarser cell may be known to be empty where a finer is not.
    assert mask.sum() > 0.9 * direct.sum()


def test_a_highlight_in_one_picture_does_not_make_a_hole():
    for alpha in (False, True):
        split = photographs(alpha=alpha)
        split.images[5, 8:56, 8:56] = 255 * (not alpha)
        origin, side, mask = possible_cells(split, 32, "white")
        kept = mask[away_from_the_ball(origin, side, mask) < RADIUS]
        # Alpha is believed: the picture in which the ball is missing leaves nothing of it.
        assert kept.all() if not alpha else kept.mean() < 0.9


def test_a_wall_of_the_colour_of_the_background_is_none():
    split = photographs(alpha=False, behind=90)
    split.images[:, :, :24] = 255
    shown, _ = silhouettes(split, "white")
    assert shown.all()


def test_pictures_that_show_nothing_leave_everything_possible():
    split = photographs()
    split.images[...] = 0
    _, _, mask = possible_cells(split, 16, "white")
    assert mask.all()


def test_the_tight_cube_has_a_cell_of_margin():
    origin, side = tight_cube(np.array([1.0, 2.0, 3.0]), 0.5, np.array([[2, 3, 4], [5, 3, 4]]))
    # Along x from cell 2 to 5, a margin on both sides: 6 cells; the others are centred on theirs.
    assert side == 3.0
    np.testing.assert_allclose(origin, [1.0 + 0.5, 2.0 + 1.75 - 1.5, 3.0 + 2.25 - 1.5])
