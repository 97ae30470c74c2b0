import re
from fractions import Fraction

import numpy as np
import pytest
from maml.problems import mse, net, points

import tinymeta as tm
from tinymeta import maml, nets, ops


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("order", [0, 3, "second", None, True, 2.0])
def test_order(rng, order):
    with pytest.raises(ValueError, match=r"order = .*, expected 2 \(through the inner gradient\) or 1"):
        maml.adapt(mse, net(rng), points(rng, 5), 0.1, 1, order)


@pytest.mark.parametrize("method", [maml.maml, maml.anil, maml.meta_sgd, maml.maml_plus_plus])
def test_a_method_is_refused_where_it_is_written(method):
    with pytest.raises(ValueError, match=r"order = 3, expected 2"):
        method(0.1, 1, order=3)
    with pytest.raises(ValueError, match=r"steps = -1, expected a whole number"):
        method(0.1, -1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: maml.implicit(0.1, -1, 1.0), "steps = -1, expected a whole number"),
        (
            lambda: maml.implicit(0.1, 5, 1.0, cg_steps=0),
            "maml: cg_steps = 0, expected a whole number, 1 or more",
        ),
        (lambda: maml.implicit(0.1, 5, 1.0, cg_steps=1.5), r"maml: cg_steps = 1\.5, expected a whole number"),
        (lambda: maml.implicit(0.1, 5, np.inf), "implicit: strength = inf, expected λ > 0, a finite number"),
        (lambda: maml.implicit(0.1, 5, "1"), "implicit: strength = '1', expected λ > 0, a finite number"),
        (lambda: maml.reptile(0.1, 1.5), r"steps = 1\.5, expected a whole number"),
        (lambda: maml.meta_sgd(None, 3), "meta_sgd: lr = None, expected a finite number"),
        (lambda: maml.meta_sgd(float("nan"), 3), "meta_sgd: lr = nan, expected a finite number"),
        (lambda: maml.maml_plus_plus({"w": 0.1}, 3), r"maml_plus_plus: lr = \{'w': 0\.1\}, expected a finite number"),
    ],
)
def test_a_setting_is_refused_where_a_variant_is_written(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("rate", "parameter"), [((5,), (5, 1)), ((3,), (1,)), ((5, 4), (5, 1)), ((1, 5, 1), (5, 1))])
def test_rates_that_would_change_the_parameters_shape(rate, parameter):
    target, given = np.ones(parameter), {"w": np.full(rate, 0.1)}
    with pytest.raises(
        ValueError, match=r"rate of the parameters\['w'\] is float64\[.*, expected a number or a shape that broadcasts"
    ):
        maml.adapt(lambda p, d: ops.sum(ops.square(p["w"] - d)), {"w": np.zeros(parameter)}, target, given, 1)


def test_rates_of_each_task_and_of_each_element_fit(rng):
    loss = lambda p, d: ops.sum(ops.square(p - d), axis=-1)
    targets, own, each = rng.normal(size=(3, 2)), np.array([[0.1], [0.2], [0.3]]), np.array([0.1, 0.4])
    np.testing.assert_allclose(maml.adapt(loss, np.zeros(2), targets, own, 1), 2 * own * targets)
    np.testing.assert_allclose(maml.adapt(loss, np.zeros(2), targets, each, 1), 2 * each * targets)
    np.testing.assert_allclose(maml.adapt(loss, np.zeros(2), targets, [0.1, 0.4], 1), 2 * each * targets)


def square(w, data):
    return ops.square(data[0] @ w - data[1])


@pytest.mark.parametrize(
    ("loss", "params"),
    [
        (square, np.zeros(3)),
        (
            lambda p, d: ops.softmax_cross_entropy(nets.mlp(p, d[0]), (d[1] > 0).astype(int)),
            nets.init_mlp(np.random.default_rng(0), (3, 4, 2)),
        ),
    ],
)
def test_one_tasks_loss_without_the_mean_over_its_points(rng, loss, params):
    data = rng.normal(size=(5, 3)), rng.normal(size=5)
    message = (
        r"maml: the loss of shared parameters has shape \[5\], so it was taken for one value for each of 5 tasks, but it fails "
        r"with parameters of each task: .*\. For one task return a scalar, a mean over its points"
    )
    with pytest.raises(ValueError, match=message) as raised:
        maml.adapt(loss, params, data, 0.1, 1)
    assert type(raised.value.__cause__) is ValueError


def test_one_tasks_loss_of_shape_1(rng):
    with pytest.raises(
        ValueError, match=r"each of 1 tasks: expected shape \[1,...\], or, of one task, a loss that is a scalar"
    ):
        maml.adapt(
            lambda w, d: ops.mean(square(w, d), keepdims=True), np.zeros(3), (np.ones((5, 3)), np.ones(5)), 0.1, 1
        )


def test_parameters_that_the_last_step_makes_infinite():
    """The support loss is finite before it, so only the result tells."""
    loss = lambda w, d: ops.mean(ops.square(w - d), axis=-1)
    with pytest.raises(
        FloatingPointError, match=r"an entry of the parameters of task 1 after 1 inner steps is inf: lower lr"
    ):
        maml.adapt(loss, np.zeros(1, np.float32), np.array([[1], [1e19]], np.float32), 1e20, 1)
    with (
        np.errstate(divide="ignore"),
        pytest.raises(FloatingPointError, match=r"parameters\['w'\] after 1 inner steps is nan"),
    ):
        maml.adapt(lambda p, d: ops.sum(ops.power(ops.abs(p["w"]), 0.5)), {"w": np.array([0.0, 1.0])}, None, 0.1, 1)


@pytest.mark.parametrize("part", ["support", "query"])
def test_a_task_that_diverges_is_named_and_no_other_warning_is_given(rng, part):
    data = {name: (rng.normal(size=(3, 5, 1)), np.ones((3, 5, 1))) for name in ("support", "query")}
    data[part][1][1] = 1e200
    with pytest.raises(FloatingPointError, match=f"maml: the {part} loss of task 1 (at|after) .* is inf"):
        maml.meta_loss(mse, net(rng), data["support"], data["query"], 0.1, 1)


def test_maml_plus_plus_learns_the_rate_of_a_number_too():
    loss = lambda p, d: ops.square(p["a"] - d)
    method = maml.maml_plus_plus(0.1, 2)
    value, gradient = method.meta_gradient(loss, method.init({"a": 1.0}), 3.0, 3.0)
    assert [rate["a"] < 0 for rate in gradient.rates] == [True, True]
    np.testing.assert_allclose(value, (2 * 0.8**2) ** 2)


@pytest.mark.parametrize(
    ("part", "shape"),
    [("support", (0,)), ("query", (0,)), ("support", (3, 0)), ("query", (3, 0)), ("support", (0, 5))],
)
def test_no_points_and_no_tasks(rng, part, shape):
    data = dict.fromkeys(("support", "query"), points(rng, *(n or 2 for n in shape))) | {part: points(rng, *shape)}
    given = rf"{part}\[0\] is float64\[{','.join(map(str, shape))},1\]"
    with pytest.raises(ValueError, match=f"maml: {given}, expected 1 task or more, each of 1 point or more"):
        maml.meta_loss(mse, net(rng), data["support"], data["query"], 0.1, 1)


def test_no_tasks_of_a_loss_with_data_of_its_own():
    with pytest.raises(ValueError, match="one value for each of 0 tasks, expected 1 task or more"):
        maml.adapt(lambda w, _: ops.sum(w) * np.zeros(0), np.ones(2), None, 0.1, 1)


def test_points_without_features_are_in_order():
    loss = lambda p, d: np.mean(ops.square(np.sum(d[0] @ p["w"], axis=-1) + p["b"] - d[1]))
    adapted = maml.adapt(loss, {"w": np.ones((0, 1)), "b": np.array(0.0)}, (np.ones((5, 0)), np.arange(5.0)), 0.1, 1)
    np.testing.assert_allclose(adapted["b"], 0.4)


def test_weights_of_no_steps(rng):
    data = points(rng, 5)
    with pytest.raises(ValueError, match="weights with steps = 0, expected 1 or more"):
        maml.meta_loss(mse, net(rng), data, data, 0.1, 0, weights=np.zeros(0))


def test_a_query_set_of_fewer_tasks_in_reptile(rng):
    support, query = points(rng, 3, 5), points(rng, 2, 5)
    with pytest.raises(ValueError, match=r"the data of inner step 2\[0\] is float64\[2,5,1\], but .* each of 3 tasks"):
        maml.reptile(0.1, 3).meta_gradient(mse, net(rng), support, query)


@pytest.mark.parametrize("steps", [-1, 1.5, True, None])
def test_steps(rng, steps):
    with pytest.raises(ValueError, match=r"steps = .*, expected a whole number"):
        maml.adapt(mse, net(rng), points(rng, 5), 0.1, steps)


def test_a_loss_that_is_no_array(rng):
    with pytest.raises(TypeError, match="the loss returned a tuple, expected a scalar, or an array of one per task"):
        maml.adapt(lambda p, d: (mse(p, d), 0), net(rng), points(rng, 5), 0.1, 1)


def test_a_loss_that_keeps_the_points(rng):
    def squares(params, data):
        return ops.square(nets.mlp(params, data[0]) - data[1])

    with pytest.raises(
        ValueError, match=r"the loss returned float64\[5,1,5,1\] for adapted .* and \[5,1\] .* reduce over all"
    ):
        maml.adapt(squares, net(rng), points(rng, 5), 0.1, 1)


def test_parameters_that_have_a_task_axis_already(rng):
    def loss(w, target):
        return ops.sum(ops.square(w - target), axis=-1)

    targets = rng.normal(size=(4, 3))
    stacked = maml.adapt(loss, np.zeros(3), targets, 0.1, 1)
    with pytest.raises(ValueError, match=r"float64\[4,4\] .* and \[4\] for the shared ones.*without a task axis"):
        maml.adapt(loss, stacked, targets, 0.1, 1)


def test_support_without_a_task_axis(rng):
    x, y = points(rng, 3, 5)
    with pytest.raises(ValueError, match=r"support\[0\] is float64\[5,1\].* 3 tasks: expected shape \[3,\.\.\.\]"):
        maml.adapt(mse, net(rng), (x[0], y), 0.1, 1)


def unlike(name, x, y):
    """What is said of a set whose x and y have these shapes."""
    x, y = (re.escape(f"float64[{','.join(map(str, shape))}]") for shape in (x, y))
    return rf"the loss of the {name} set fails: .*{name}\[0\] is {x}, {name}\[1\] is {y}: expected .* as many points"


@pytest.mark.parametrize(
    ("x", "y"),
    [((9, 1), (5, 1)), ((3, 9, 1), (3, 5, 1)), ((3, 5, 1), (4, 5, 1))],
    ids=["one", "three", "three and four"],
)
def test_support_of_unlike_arrays(rng, x, y):
    with pytest.raises(ValueError, match=unlike("support", x, y)):
        maml.adapt(mse, net(rng), (np.ones(x), np.ones(y)), 0.1, 1)


@pytest.mark.parametrize(("x", "y"), [((9, 1), (5, 1)), ((3, 9, 1), (3, 5, 1))], ids=["one", "three"])
def test_query_of_unlike_arrays(rng, x, y):
    with pytest.raises(ValueError, match=unlike("query", x, y)):
        maml.meta_loss(mse, net(rng), points(rng, *x[:-1]), (np.ones(x), np.ones(y)), 0.1, 1)


def test_features_that_do_not_fit_the_parameters(rng):
    with pytest.raises(ValueError, match=r"the loss of the support set fails: .*support\[0\] is float64\[5,2\]"):
        maml.adapt(mse, net(rng), (np.ones((5, 2)), np.ones((5, 1))), 0.1, 1)


def test_an_error_of_the_losss_own_kind_goes_through(rng):
    class OwnError(ValueError):
        pass

    def loss(params, data):
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        maml.adapt(loss, net(rng), points(rng, 5), 0.1, 1)


def test_query_of_another_number_of_tasks(rng):
    with pytest.raises(ValueError, match=r"query\[0\] is float64\[4,5,1\].* 3 tasks: expected shape \[3,\.\.\.\]"):
        maml.meta_loss(mse, net(rng), points(rng, 3, 5), points(rng, 4, 5), 0.1, 1)


def test_query_for_one_task(rng):
    message = r"loss of the query set is float64\[3\], that of the support set has shape \[\]: expected one value for each task"
    with pytest.raises(ValueError, match=message):
        maml.meta_loss(mse, net(rng), points(rng, 5), points(rng, 3, 5), 0.1, 1)


@pytest.mark.parametrize(
    ("lr", "kind", "sentence"),
    [
        (
            np.full(6, 0.1),
            ValueError,
            "maml: lr is of type ndarray, expected a number, a tree like .*: trees differ at",
        ),
        ([0.1, 0.2], ValueError, "maml: lr is of type list, .*: trees differ at"),
        (None, ValueError, "maml: lr is of type NoneType, "),
        ("0.1", ValueError, "maml: lr is of type str, "),
        (lambda step: "0.1", ValueError, "maml: lr is of type str, "),
        ({"w": 0.1}, ValueError, r"maml: lr is of type dict, .*expected keys \['w', 'b'\], got keys \['w'\]"),
        ({"w": 0.1, "b": "0.1"}, TypeError, r"maml: lr\['b'\] is '0\.1', expected a number or an array"),
        (Fraction(1, 10), TypeError, r"maml: lr is Fraction\(1, 10\), expected a number or an array"),
        (
            {"w": np.array(["a", "b"]), "b": 0.1},
            TypeError,
            r"maml: lr\['w'\] is array.*, expected a number or an array",
        ),
        ({"w": np.full(2, 0.1j), "b": 0.1}, TypeError, r"maml: lr\['w'\] is array.*, expected a number or an array"),
        (np.nan, ValueError, r"maml: lr is nan, expected finite numbers"),
        ({"w": 0.1, "b": np.array(np.inf)}, ValueError, r"maml: lr\['b'\] is inf, expected finite numbers"),
    ],
)
def test_what_is_no_rate(lr, kind, sentence):
    def loss(params, data):
        return ops.sum(params["w"] * data) + params["b"]

    with pytest.raises(kind, match=sentence):
        maml.adapt(loss, {"w": np.ones(2), "b": np.ones(())}, np.ones(2), lr, 1)


def test_rates_of_a_single_array():
    adapt = lambda lr: maml.adapt(
        lambda w, data: ops.sum(w * data), np.ones(2, np.float32), np.ones(2, np.float32), lr, 1
    )
    assert adapt([0.1, 0.2]).dtype == np.float32
    np.testing.assert_allclose(adapt([0.1, 0.2]), [0.9, 0.8], rtol=1e-6)
    with pytest.raises(TypeError, match="lr is None, expected a number or an array"):
        adapt(None)


@pytest.mark.parametrize("params", [(), {}, {"w": None}])
def test_no_parameters(params):
    with pytest.raises(ValueError, match="the parameters that the inner loop changes are an empty tree"):
        maml.meta_loss(lambda p, d: np.sum(d), params, np.ones(2), np.ones(2), 0.1, 1)


def test_divergence_names_step_and_task(rng):
    x, y = points(rng, 3, 5)
    y[1] = np.nan
    with pytest.raises(FloatingPointError, match="the support loss of task 1 at inner step 1 of 2 is nan: lower lr"):
        maml.adapt(mse, net(rng), (x, y), 0.1, 2)
    with pytest.raises(FloatingPointError, match="the support loss at inner step 1 of 2 is nan"):
        maml.adapt(mse, net(rng), (x[1], y[1]), 0.1, 2)
    with pytest.raises(FloatingPointError, match="the query loss of task 1 after 2 inner steps is nan"):
        maml.meta_loss(mse, net(rng), points(rng, 3, 5), (x, y), 0.1, 2)


@pytest.mark.parametrize("transform", [lambda f: f, tm.compile], ids=["eager", "compiled"])
def test_divergence_names_the_example_of_a_vmap(rng, transform):
    params, steps = net(rng), 1
    f = transform(tm.vmap(lambda *data: maml.meta_loss(mse, params, data[:2], data[2:], 0.1, steps)))
    support, query = points(rng, 2, 3, 5), points(rng, 2, 3, 4)
    f(*support, *query)
    support[1][1, 2] = np.nan
    with pytest.raises(
        FloatingPointError, match="the support loss of task 2 of the vmap's example 1 at inner step 1 of 1"
    ):
        f(*support, *query)
    one = transform(tm.vmap(lambda *data: maml.meta_loss(mse, params, data[:2], data[2:], 0.1, steps)))
    query[1][0, 1] = np.nan
    with pytest.raises(FloatingPointError, match="the query loss of the vmap's example 1 after 1 inner steps is nan"):
        one(*(x[0] for x in (*support, *query)))


def test_a_path_shows_divergence():
    def loss(w, data):
        return ops.sum(ops.square(ops.square(w - data)), axis=-1)

    start, data, lr, steps = np.ones(1), np.array([[1.0], [9.0]]), 10.0, 8
    path = maml.adaptation_path(loss, start, data, lr, steps)  # without a warning, which would be an error here
    with pytest.raises(FloatingPointError, match=r"of task 1 at inner step [3-8] of 8 is"):
        maml.adapt(loss, start, data, lr, steps)
    assert not np.isfinite(path[-1][1]).any()
    np.testing.assert_array_equal(path[-1][0], path[0][0])


def test_a_plain_number_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="the query loss after 0 inner steps is nan"):
        maml.meta_loss(lambda p, d: d, 1.0, 1.0, float("nan"), 0.1, 0)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="a derivative needs floats"):
        maml.adapt(lambda w, d: ops.sum(w * d), np.arange(3), np.ones(3), 0.1, 1)


def test_parameters_are_not_changed():
    w = np.ones(3)
    tm.grad(lambda w: maml.meta_loss(lambda p, d: ops.sum(p * p * d), w, 1.0, 2.0, 0.1, 2))(w)
    np.testing.assert_array_equal(w, np.ones(3))
    assert w.flags.writeable
