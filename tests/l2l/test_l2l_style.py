"""l2l.style: the losses against PyTorch and plain loops in float64, and the laws that α, β, γ rest on."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.l2l import style
from tinymeta.l2l.runner import losses_and_grads
from tinymeta.l2l.style import Balance, Filters

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(4, 9)
BALANCE = Balance(0.7, 3.0, 0.4)


def a_net(rng, widths=(4, 5, 3), kernel=3):
    return tuple(
        Filters(rng.normal(size=(o, c, kernel, kernel)) / np.sqrt(9 * c), 0.3 * rng.normal(size=o))
        for c, o in itertools.pairwise((3, *widths))
    )


def images(rng, problems=2, height=8, width=6):
    return rng.normal(size=(problems, 3, height, width))


def a_problem(rng, net, problems=2, height=8, width=6):
    content, theta = images(rng, problems, height, width), images(rng, problems, height, width)
    return style.style_problem(net, content, images(rng, 1, 12, 9)[0], theta, BALANCE), content, theta


# ---- against PyTorch ----


def test_value_and_gradient_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="the losses are compared with PyTorch's where it is installed")
    from torch.nn import functional

    def maps_of(net, x):
        maps = []
        for w, b in net:
            x = functional.avg_pool2d(maps[-1], 2) if maps else x
            maps.append(functional.relu(functional.conv2d(x, torch.tensor(w), torch.tensor(b), padding="same")))
        return maps

    def gram(maps):
        return torch.einsum("nihw,njhw->nij", maps, maps) / maps[0, 0].numel()

    rng = np.random.default_rng(0)
    net = a_net(rng)
    content, theta, wanted = images(rng), images(rng), images(rng, 1, 12, 9)
    problem = style.style_problem(net, content, wanted[0], theta, BALANCE)
    x = torch.tensor(theta, requires_grad=True)
    maps, targets = maps_of(net, x), [gram(m) for m in maps_of(net, torch.tensor(wanted))]
    squares = [((gram(m) - g) ** 2).mean(dim=(1, 2)) for m, g in zip(maps, targets, strict=True)]
    f = (
        BALANCE.content * ((maps[1] - maps_of(net, torch.tensor(content))[1]) ** 2).mean(dim=(1, 2, 3))
        + BALANCE.style * sum(squares) / 3
        + BALANCE.smooth * (x.diff(dim=2).square().mean(dim=(1, 2, 3)) + x.diff(dim=3).square().mean(dim=(1, 2, 3)))
    ) * (8 * 6)
    f.sum().backward()
    losses, gradients = losses_and_grads(problem, theta, 0)
    np.testing.assert_allclose(losses, f.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(gradients, x.grad.numpy(), rtol=1e-10, atol=1e-12)


# ---- against loops ----


def test_a_gram_matrix_is_a_mean_over_positions() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    for n, i, j in np.ndindex(2, 3, 3):
        products = [maps[n, i, h, w] * maps[n, j, h, w] for h in range(4) for w in range(5)]
        assert style.gram(maps)[n, i, j] == pytest.approx(np.mean(products), rel=1e-12)


def test_total_variation_is_a_mean_over_neighbours() -> None:
    (x,) = np.random.default_rng(0).normal(size=(1, 3, 4, 5))
    down = [(x[c, h + 1, w] - x[c, h, w]) ** 2 for c in range(3) for h in range(3) for w in range(5)]
    across = [(x[c, h, w + 1] - x[c, h, w]) ** 2 for c in range(3) for h in range(4) for w in range(4)]
    assert style.total_variation(x[None])[0] == pytest.approx(np.mean(down) + np.mean(across), rel=1e-12)


@given(seeds, sides, sides)
def test_each_loss_is_zero_where_it_should_be(seed, height, width) -> None:
    rng = np.random.default_rng(seed)
    net, x = a_net(rng), images(rng, 2, height, width)
    maps = style.feature_maps(net, x)
    assert not style.content_loss(maps[1], maps[1]).any()
    assert style.style_loss(maps, [style.gram(m)[0] for m in maps])[0] == pytest.approx(0, abs=1e-25)
    assert style.total_variation(np.ones_like(x)) == pytest.approx([0, 0], abs=0)


# ---- laws ----


@given(seeds)
def test_the_losses_do_not_depend_on_how_often_an_image_is_repeated(seed) -> None:
    """They are means: repeating maps on a larger canvas changes neither Gram matrices nor the content loss."""
    rng = np.random.default_rng(seed)
    maps, target = rng.normal(size=(2, 2, 3, 4, 5))
    larger, larger_target = (np.tile(x, (1, 1, 2, 3)) for x in (maps, target))
    np.testing.assert_allclose(style.gram(larger), style.gram(maps), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(style.content_loss(larger, larger_target), style.content_loss(maps, target), rtol=1e-12)


@given(seeds)
def test_unit_power_changes_the_scale_of_each_layer_and_nothing_else(seed) -> None:
    rng = np.random.default_rng(seed)
    net, x, y = tuple(Filters(w, 1 + np.abs(b)) for w, b in a_net(rng)), images(rng, 4), images(rng, 2)
    assume(all(np.any(maps) for maps in style.feature_maps(net, x)))  # else it is refused, as below
    scaled = style.with_unit_power(net, x)
    for maps in style.feature_maps(scaled, x):
        assert np.mean(np.square(maps)) == pytest.approx(1, rel=1e-12)
    for before, after in zip(style.feature_maps(net, y), style.feature_maps(scaled, y), strict=True):
        factor = np.max(after) / np.max(before)
        np.testing.assert_allclose(after, factor * before, rtol=1e-9, atol=1e-12)


def test_a_layer_that_never_responds_is_refused() -> None:
    rng = np.random.default_rng(0)
    first, *others = a_net(rng)
    with pytest.raises(ValueError, match="layer 0 of the feature net is 0 on all images"):
        style.with_unit_power((Filters(first.w, first.b - 1e6), *others), images(rng))


def test_unit_power_keeps_float32() -> None:
    rng = np.random.default_rng(0)
    net = tm.trees.map(lambda w: w.astype(np.float32), a_net(rng))
    scaled = style.with_unit_power(net, images(rng).astype(np.float32))
    assert {leaf.dtype for leaf in tm.trees.leaves(scaled)} == {np.dtype(np.float32)}


@given(seeds)
def test_problems_at_once_are_problems_one_at_a_time(seed) -> None:
    rng = np.random.default_rng(seed)
    net, wanted = a_net(rng), images(rng, 1)[0]
    content, theta = images(rng, 3), images(rng, 3)
    losses, gradients = losses_and_grads(style.style_problem(net, content, wanted, theta, BALANCE), theta, 0)
    for b in range(3):
        one = style.style_problem(net, content[b : b + 1], wanted, theta[b : b + 1], BALANCE)
        loss, gradient = losses_and_grads(one, one.theta, 0)
        np.testing.assert_allclose(losses[b], loss[0], rtol=1e-12)
        np.testing.assert_allclose(gradients[b], gradient[0], rtol=1e-9, atol=1e-12)


def test_the_factors_are_of_content_style_and_smoothness() -> None:
    rng = np.random.default_rng(0)
    net, content, theta, wanted = a_net(rng), images(rng), images(rng), images(rng)[0]

    def f(*balance):
        return style.style_problem(net, content, wanted, theta, Balance(*balance)).loss(theta, 0)

    maps, pixels = style.feature_maps(net, theta), 8 * 6
    np.testing.assert_allclose(
        f(2, 0, 0), 2 * pixels * style.content_loss(maps[1], style.feature_maps(net, content)[1])
    )
    np.testing.assert_allclose(f(0, 0, 3), 3 * pixels * style.total_variation(theta))
    np.testing.assert_allclose(f(2, 5, 3), f(2, 0, 0) + f(0, 5, 0) + f(0, 0, 3), rtol=1e-12)


def test_derivatives_are_right_to_second_order() -> None:
    rng = np.random.default_rng(0)
    problem, _, theta = a_problem(rng, a_net(rng, (3, 4, 2)), height=5, width=4)
    tm.check.gradients(lambda x: ops.sum(problem.loss(x, 0)), theta, order=2)


def test_float32_stays_float32() -> None:
    rng = np.random.default_rng(0)
    net = tm.trees.map(lambda w: w.astype(np.float32), a_net(rng))
    content, theta = images(rng).astype(np.float32), images(rng).astype(np.float32)
    problem = style.style_problem(net, content, content[0], theta, Balance(*np.float64([1, 2, 3])))
    losses, gradients = losses_and_grads(problem, theta, 0)
    assert losses.dtype == gradients.dtype == np.float32
