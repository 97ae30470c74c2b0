"""data.textures: pictures that depend on the generator and not on the size at which they are drawn."""

import numpy as np
import pytest

from tinymeta.data.textures import texture

KINDS = ("mosaic", "waves")


def draw(kind, size, seed=0):
    return texture(kind, np.random.default_rng(seed), size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5, 16])
def test_a_texture_is_a_colour_image(kind, size) -> None:
    image = draw(kind, size)
    assert (image.shape, image.dtype) == ((3, size, size), np.float32)
    assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_picture_at_another_size(kind) -> None:
    small, large = draw(kind, 16), draw(kind, 64)
    shrunk = large.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.98
    assert np.abs(small - shrunk).mean() < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_drawn_from_the_generator_alone(kind) -> None:
    np.testing.assert_array_equal(draw(kind, 16), draw(kind, 16))
    assert np.abs(draw(kind, 16) - draw(kind, 16, seed=1)).mean() > 0.05


def test_the_mosaic_has_dark_lines_and_bright_cells_and_the_waves_are_blue_and_ochre() -> None:
    mosaic, waves = draw("mosaic", 64), draw("waves", 64)
    assert 0.1 < np.mean(mosaic.max(axis=0) < 0.1) < 0.6
    assert mosaic[0].mean() > 2 * mosaic[2].mean()
    assert np.mean(waves[2] > waves[0] + 0.2) > 0.2 < np.mean(waves[0] > waves[2] + 0.2)


@pytest.mark.parametrize(("kind", "size"), [("stripes", 8), ("mosaic", 0)])
def test_what_cannot_be_drawn_is_refused(kind, size) -> None:
    with pytest.raises(ValueError, match=r"expected one of \['mosaic', 'waves'\] and 1 or more"):
        draw(kind, size)
