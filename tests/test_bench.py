"""What benchmarks do before they time: contenders in an environment of their own, floors, and the agreement of results."""

import math

import numpy as np
import pytest

from bench import maml, measure
from tinymeta.lab.versions import SETTINGS


@pytest.fixture
def contender(tmp_path, monkeypatch):
    """A module of one contender that does what it is given; the module's name."""

    def written(does):
        (tmp_path / "contender.py").write_text(f"import json, os, sys\n{does}\n")
        return "contender"

    monkeypatch.chdir(tmp_path)
    return written


def test_a_contender_sees_no_setting_that_a_run_records(contender, monkeypatch):
    for name in SETTINGS:
        monkeypatch.setenv(name, "1")
    module = contender("print(json.dumps(dict(os.environ)))")
    ((seen,),) = measure.alternate(module, ["tinymeta"], 1, {"TINYMETA_CACHE": "here"}).values()
    assert seen.keys().isdisjoint(SETTINGS)
    assert seen["TINYMETA_CACHE"] == "here"


@pytest.mark.parametrize(
    ("does", "words"),
    [("sys.exit('no such peer')", "no such peer"), ("os.kill(os.getpid(), 9)", "ended with code -9")],
)
def test_a_contender_that_fails_is_named_with_what_it_said_last_or_how_it_ended(contender, does, words):
    with pytest.raises(SystemExit, match=f"^contender JAX failed: {words}$"):
        measure.alternate(contender(does), ["JAX"], 1)


def products(jaxpr):
    """The flops of the matrix products in a JAX program."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        total += sum(products(value) for value in inner if hasattr(value, "eqns"))
    return total


@pytest.mark.parametrize("setting", maml.SETTINGS["sine"], ids=str)
def test_the_floor_is_that_of_the_products(setting):
    jax = pytest.importorskip("jax")
    from bench import maml_jax

    params, support, query = maml.data("sine", setting)
    task = maml_jax._task("sine", setting.steps, 0.01)
    one = jax.make_jaxpr(jax.grad(lambda p: task(p, *((x[0], y[0]) for x, y in (support, query)))))(params)
    assert maml.flops("sine", setting) == setting.tasks * products(one.jaxpr)


def test_one_wrong_entry_is_not_timed(tmp_path, monkeypatch):
    setting, exact = maml.SETTINGS["sine"][0], np.random.default_rng(0).normal(size=1761)
    np.savez(tmp_path / "exact.npz", **{f"loss, {setting}": np.array(2.0), f"gradient, {setting}": exact})
    monkeypatch.setenv(maml.EXACT, str(tmp_path / "exact.npz"))
    found = np.split(exact.astype(np.float32), [80, 900])
    assert maml.agreeing(setting, np.float32(2), found) < 1e-6
    for wrong in (1e-4, np.nan):
        found[1][37] += wrong
        with pytest.raises(SystemExit, match=r"largest error against float64 is (\d\.\de-05|nan), expected below 1e-5"):
            maml.agreeing(setting, np.float32(2), found)
