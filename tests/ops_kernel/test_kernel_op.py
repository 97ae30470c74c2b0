"""ops.kernel: whatever kernels an op has, all its derivatives are those of its reference; and the kernels are what runs."""

import itertools

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops, trees
from tinymeta.engine import backend
from tinymeta.ops import kernel as module
from tinymeta.ops.kernel import kernel

LEVELS = ("vjp", "vjp_vjp", "jvp")
PROVIDED = [(), ("vjp",), ("vjp", "vjp_vjp"), ("jvp",), ("vjp", "vjp_vjp", "jvp")]
NESTINGS = [modes for order in range(4) for modes in itertools.product(("vjp", "jvp"), repeat=order)]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """The ops declared here stay out of the table from which tests and benchmarks are generated, and choose freely."""
    monkeypatch.setattr(module, "KERNELS", {})
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)


# ---- an op of one output, with an integer argument and a static parameter: out = x[index]^k w ----


def power_of_row(x, index, w, k):
    """x[index]^k w: x (n, d), index (m,) of rows, w (m, d) -> (m, d)."""
    return ops.power(ops.take(x, index, axis=0), float(k)) * w


def row_vjp(g, x, index, w, k):
    d_x = np.zeros_like(x)
    np.add.at(d_x, index, g * k * x[index] ** (k - 1) * w)
    return d_x, None, g * x[index] ** k


def row_vjp_vjp(dd, g, x, index, w, k):
    dd_x, dd_w = dd
    at, dd_at, slope = x[index], dd_x[index], k * x[index] ** (k - 1)
    e_x = np.zeros_like(x)
    np.add.at(e_x, index, g * (dd_at * k * (k - 1) * at ** (k - 2) * w + dd_w * slope))
    return dd_at * slope * w + dd_w * at**k, e_x, None, dd_at * g * slope


def row_jvp(tangents, x, index, w, k):
    d_x, no_tangent, d_w = tangents
    assert no_tangent is None
    first = 0 if d_x is None else d_x[index] * k * x[index] ** (k - 1) * w
    return first + (0 if d_w is None else d_w * x[index] ** k)


# ---- an op of two outputs: (r cos a, r sin a) ----


def polar(r, a):
    """(r cos a, r sin a): r and a of one shape."""
    return r * ops.cos(a), r * ops.sin(a)


def polar_vjp(gs, r, a):
    (g, h), c, s = gs, np.cos(a), np.sin(a)
    return g * c + h * s, r * (h * c - g * s)


def polar_vjp_vjp(dd, gs, r, a):
    (dd_r, dd_a), (g, h), c, s = dd, gs, np.cos(a), np.sin(a)
    along, across = g * c + h * s, h * c - g * s
    return dd_r * c - dd_a * r * s, dd_r * s + dd_a * r * c, dd_a * across, dd_r * across - dd_a * r * along


def polar_jvp(tangents, r, a):
    d_r, d_a = (0 if t is None else t for t in tangents)
    return d_r * np.cos(a) - r * np.sin(a) * d_a, d_r * np.sin(a) + r * np.cos(a) * d_a


INDEX = np.array([2, 0, 2])
FUNCTIONS = {
    "power_of_row": (
        power_of_row,
        {
            "forward": lambda x, index, w, k: x[index] ** k * w,
            "vjp": row_vjp,
            "vjp_vjp": row_vjp_vjp,
            "jvp": row_jvp,
        },
        lambda f: lambda x, w: f(x, INDEX, w, k=3),
        ((3, 2), (3, 2)),
    ),
    "polar": (
        polar,
        {
            "forward": lambda r, a: (r * np.cos(a), r * np.sin(a)),
            "vjp": polar_vjp,
            "vjp_vjp": polar_vjp_vjp,
            "jvp": polar_jvp,
        },
        lambda f: f,
        ((4,), (4,)),
    ),
}
names = pytest.mark.parametrize("name", FUNCTIONS)


def declared(name, provided, **replaced):
    """(op, reference, arguments), both functions of float arrays alone; `replaced` exchanges kernels."""
    reference, kernels, of_floats, shapes = FUNCTIONS[name]
    chosen = {level: {"numpy": f} for level, f in (kernels | replaced).items() if level in ("forward", *provided)}
    rng = np.random.default_rng(0)
    arguments = tuple(np.asarray(0.5 + rng.random(shape)) for shape in shapes)
    return of_floats(kernel(name, reference, **chosen)), of_floats(reference), arguments


def nested(f, modes, arguments):
    """f differentiated once per mode, innermost first: each derivative is a function of its own (co)tangents too."""
    rng = np.random.default_rng(1)
    for mode in modes:
        like = arguments if mode == "jvp" else f(*arguments)
        extra = trees.map(lambda x: np.asarray(rng.normal(size=np.shape(x)), x.dtype), like)
        f, arguments = _derivative(f, mode), (extra, *arguments)
    return f(*arguments)


def _derivative(f, mode):
    if mode == "vjp":
        return lambda extra, *xs: tm.vjp(f, *xs)[1](extra)
    return lambda extra, *xs: tm.jvp(f, xs, extra)[1]


def assert_same(found, expected):
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        assert (type(a), a.dtype, np.shape(a)) == (type(b), b.dtype, np.shape(b))
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@names
@pytest.mark.parametrize("provided", PROVIDED, ids=lambda levels: "+".join(("forward", *levels)))
@pytest.mark.parametrize("modes", NESTINGS, ids=lambda modes: "-of-".join(modes[::-1]) or "value")
def test_every_nesting_up_to_order_three_is_the_references(name, provided, modes):
    op, reference, arguments = declared(name, provided)
    assert_same(nested(op, modes, arguments), nested(reference, modes, arguments))


@names
@pytest.mark.parametrize("provided", PROVIDED, ids=lambda levels: "+".join(("forward", *levels)))
def test_hessian_vector_products_agree_by_both_roads(name, provided):
    op, reference, arguments = declared(name, provided)

    def energy(f):
        return lambda xs: sum((ops.sum(y * y) for y in trees.leaves(f(*xs))), start=0.0)

    v = trees.map(np.cos, arguments)
    expected = tm.hvp(energy(reference), arguments, v)
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        assert_same(tm.hvp(energy(op), arguments, v, mode), expected)


@names
def test_finite_differences_agree_at_second_order(name):
    op, _, arguments = declared(name, LEVELS)
    tm.check.gradients(op, *arguments, order=2)


@names
def test_float32_stays_float32_at_second_order(name):
    op, reference, arguments = declared(name, LEVELS)
    narrow = tuple(x.astype(np.float32) for x in arguments)
    for modes in (("vjp",), ("vjp", "vjp"), ("jvp", "vjp")):
        for found, expected in zip(
            trees.leaves(nested(op, modes, narrow)), trees.leaves(nested(reference, modes, narrow)), strict=True
        ):
            assert found.dtype == expected.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# ---- the kernels are what runs ----


def trebled(f):
    return lambda *arrays, **params: trees.map(lambda x: 3 * x, f(*arrays, **params))


@names
@pytest.mark.parametrize(
    ("level", "modes", "innocent"),
    [
        ("forward", (), ("vjp",)),
        ("vjp", ("vjp",), ()),
        ("vjp_vjp", ("vjp", "vjp"), ("vjp",)),
        ("jvp", ("jvp",), ("vjp",)),
    ],
)
def test_a_wrong_kernel_makes_its_own_derivative_wrong_and_no_lower_one(name, level, modes, innocent):
    wrong = trebled(FUNCTIONS[name][1][level])
    op, reference, arguments = declared(name, LEVELS, **{level: wrong})
    assert_same(nested(op, innocent, arguments), nested(reference, innocent, arguments))
    expected = nested(reference, modes, arguments)
    assert_same(nested(op, modes, arguments), trees.map(lambda x: 3 * x, expected))


@names
def test_a_tangent_only_some_inputs_have_reaches_the_jvp_kernel_as_none(name):
    op, reference, (x, y) = declared(name, LEVELS)
    for of_one, start in ((lambda f: lambda z: f(z, y), x), (lambda f: lambda z: f(x, z), y)):
        assert_same(*(tm.jvp(of_one(f), (start,), (np.ones_like(start),)) for f in (op, reference)))


@names
def test_a_cotangent_only_some_outputs_have_is_zero_for_the_others(name):
    op, reference, arguments = declared(name, LEVELS)
    outputs = trees.leaves(op(*arguments))
    for k in range(len(outputs)):
        of_one = lambda f, k=k: lambda xs: ops.sum(trees.leaves(f(*xs))[k] ** 2)
        assert_same(*(tm.grad(of_one(f))(arguments) for f in (op, reference)))


@names
def test_an_argument_held_constant_leaves_the_others_gradients_alone(name):
    op, reference, (x, y) = declared(name, LEVELS)
    for of_one, start in ((lambda f: lambda z: f(z, y), x), (lambda f: lambda z: f(x, z), y)):
        for modes in (("vjp",), ("vjp", "vjp"), ("vjp", "jvp")):
            assert_same(nested(of_one(op), modes, (start,)), nested(of_one(reference), modes, (start,)))


def test_an_argument_that_is_a_number_does_not_shift_the_cotangents():
    """A Python float is a constant; the cotangent that a kernel gives for it belongs to nobody else."""

    def product(scale, x):
        return scale * x

    op = kernel(
        "product",
        product,
        {"numpy": lambda scale, x: scale * x},
        {"numpy": lambda g, scale, x: (np.sum(g * x), g * scale)},
    )
    x = np.array(5.0)
    assert tm.grad(lambda x: op(2.0, x))(x) == 2.0


def test_the_op_is_documented_and_found_by_name():
    op = kernel("polar", polar, {"numpy": lambda r, a: (r * np.cos(a), r * np.sin(a))})
    assert op.__name__ == "polar"
    assert op.__doc__ == polar.__doc__
    assert op.reference is polar
    assert list(module.KERNELS.items()) == [("polar", op)]


# ---- which backend runs ----


@pytest.fixture
def installed(monkeypatch):
    """Say which backends are installed, whatever this machine has; numpy always is."""

    def only(*names):
        monkeypatch.setattr(backend, "_installed", lambda name: name in ("numpy", *names))

    only()
    return only


def marked(**backends):
    """An op whose kernels return a number per backend, and whose reference returns 0."""
    return kernel(
        "marked", lambda x: 0 * x, {name: lambda x, value=value: value + 0 * x for name, value in backends.items()}
    )


X = np.zeros(2)


def test_numba_runs_on_the_host_where_it_is_installed_and_numpy_elsewhere(installed):
    op = marked(numpy=1, numba=2, cuda=3)
    assert op(X)[0] == 1
    installed("numba", "cuda")
    assert op(X)[0] == 2


def test_arrays_of_another_library_go_to_cuda(installed):
    class OnDevice:
        """Any array that NumPy did not make."""

    installed("numba", "cuda")
    op = kernel(
        "where", lambda x: x, {"numpy": lambda x: "numpy", "numba": lambda x: "numba", "cuda": lambda x: "cuda"}
    )
    assert op(OnDevice()) == "cuda"
    assert op(X) == "numba"


def test_a_block_chooses_over_the_environment_and_the_environment_over_what_is_installed(installed, monkeypatch):
    installed("numba", "cuda")
    op = marked(numpy=1, numba=2, cuda=3)
    monkeypatch.setenv("TINYMETA_BACKEND", "numpy")
    assert op(X)[0] == 1
    with tm.backend("cuda"):
        assert op(X)[0] == 3
        with tm.backend("numba"):
            assert op(X)[0] == 2
        assert op(X)[0] == 3
    assert op(X)[0] == 1


def test_a_block_that_fails_restores_the_choice(installed):
    installed("numba")
    op = marked(numpy=1, numba=2)
    with pytest.raises(KeyError), tm.backend("numpy"):
        raise KeyError
    assert op(X)[0] == 2


def test_the_choice_holds_for_the_derivatives_too(installed):
    installed("numba")
    kernels = {"numpy": lambda g, x: (1 + 0 * g,), "numba": lambda g, x: (2 + 0 * g,)}
    op = kernel("doubly", lambda x: x, {"numpy": np.copy, "numba": np.copy}, kernels)
    gradient = tm.grad(lambda x: ops.sum(op(x)))
    assert gradient(X)[0] == 2
    with tm.backend("numpy"):
        assert gradient(X)[0] == 1


def test_a_derivative_without_the_chosen_backend_is_refused_by_name(installed):
    installed("numba")
    op = kernel("half_done", lambda x: x, {"numba": np.copy}, {"numpy": lambda g, x: (g,)})
    assert tm.grad(lambda x: ops.sum(op(x)))(X)[0] == 1
    sentence = r"half_done_vjp: no implementation for backend 'numba', only for \['numpy'\]"
    with tm.backend("numba"), pytest.raises(ValueError, match=sentence):
        tm.grad(lambda x: ops.sum(op(x)))(X)


@pytest.mark.parametrize(("name", "package", "extra"), [("numba", "numba", "fast"), ("cuda", "cupy", "cuda")])
def test_a_missing_backend_says_what_to_install(installed, monkeypatch, name, package, extra):
    sentence = rf"backend '{name}' needs the package {package}: pip install \"tinymeta\[{extra}\]\""
    with pytest.raises(ImportError, match=sentence), tm.backend(name):
        raise AssertionError("the block must not run")
    monkeypatch.setenv("TINYMETA_BACKEND", name)
    with pytest.raises(ImportError, match=sentence):
        marked(numpy=1, numba=2, cuda=3)(X)


def test_an_op_without_any_kernel_that_can_run_here_says_what_to_install(installed):
    with pytest.raises(ImportError, match=r"marked: none of its .*\['numba'\].* pip install \"tinymeta\[fast\]\""):
        marked(numba=2)(X)


def test_an_unknown_backend_is_refused(installed, monkeypatch):
    sentence = r"backend 'tpu' is unknown, expected one of \['cuda', 'numba', 'numpy'\]"
    with pytest.raises(ValueError, match=sentence), tm.backend("tpu"):
        raise AssertionError("the block must not run")
    monkeypatch.setenv("TINYMETA_BACKEND", "tpu")
    with pytest.raises(ValueError, match=sentence):
        marked(numpy=1)(X)


def test_a_backend_that_the_op_lacks_is_refused(installed):
    with (
        tm.backend("numpy"),
        pytest.raises(ValueError, match=r"no implementation for backend 'numpy', only for \['numba'\]"),
    ):
        marked(numba=2)(X)
