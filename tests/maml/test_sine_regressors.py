"""Table 2's baselines: the mean of regressors that were trained one by one."""

from dataclasses import replace

import numpy as np
import pytest
from maml.sine_runs import REGRESSORS, TINY, run

import tinymeta as tm
from tinymeta import lab
from tinymeta.experiments import maml_sine, maml_sine_regressors


@pytest.mark.parametrize("name", maml_sine_regressors.KINDS)
def test_the_multi_task_baseline_is_the_mean_of_its_regressors(tmp_path, monkeypatch, name):
    """The anchor of each is the mean of those before it, of which the first has none, or zero; of all that is trained, the last
    five count."""
    config = lab.configure(maml_sine.EXPERIMENT, "paper", TINY | REGRESSORS | {"compiled": "false"})
    build, trained, drawn = maml_sine_regressors._descent, [], []

    def watched(config):
        descend = build(config)

        def watching(params, moments, batch, anchor, strength):
            params, moments = descend(params, moments, batch, anchor, strength)
            if moments.step == config.regressor_iterations:
                trained.append(tm.trees.leaves(params))
                drawn.append((float(strength), tm.trees.leaves(anchor)))
            return params, moments

        return watching

    monkeypatch.setattr(maml_sine_regressors, "_descent", watched)
    with lab.Run(tmp_path, "maml-sine", "") as run:
        found = maml_sine_regressors.averaged(config, run, name)
    penalised = name != "multi-task"
    assert (len(found.errors), len(trained)) == (5, 9 if penalised else 5)
    for leaf, *each in zip(tm.trees.leaves(found.mean), *trained[-5:], strict=True):
        np.testing.assert_allclose(leaf, np.mean(each, axis=0), rtol=1e-5, atol=1e-7)
    first = found.strength if name.endswith("l2") else 0
    assert [strength for strength, _ in drawn[-5:]] == pytest.approx([first, *[found.strength] * 4])
    assert (found.strength > 0) == penalised
    thus_far = [np.mean(each, axis=0) for each in zip(*trained[-5:-1], strict=True)]
    for anchor, mean in zip(drawn[-1][1], thus_far, strict=True):
        expected = 0 * mean if name.endswith("l2") else mean
        np.testing.assert_allclose(anchor, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shared", [False, True])
def test_regressors_start_from_weights_of_their_own_or_from_the_same(tmp_path, shared):
    """With a rate of 0 each ends where it began, so that the mean is the common start, or is not."""
    still = REGRESSORS | {"regressor_lr": "0", "sigma": "0.3", "shared_start": str(shared).lower()}
    config = lab.configure(maml_sine.EXPERIMENT, "paper", TINY | still)
    ends = []
    for count in (1, 5):
        (tmp_path / str(count)).mkdir()
        with lab.Run(tmp_path / str(count), "maml-sine", "") as run:
            ends.append(maml_sine_regressors.averaged(replace(config, regressors=count), run, "multi-task").mean)
    same = [np.allclose(one, five, atol=1e-6) for one, five in zip(*map(tm.trees.leaves, ends), strict=True)]
    assert same == ([True] * 4 if shared else [False, True, False, True])  # biases are 0


@pytest.mark.parametrize(("limit", "strength"), [(1e9, 0.2), (0.0, 0.1)])
def test_the_penalty_is_as_strong_as_the_fit_bears(tmp_path, monkeypatch, limit, strength):
    """The greatest with which the tuning regressors fit, or the least of all if they fit with none."""
    monkeypatch.setattr(maml_sine_regressors, "FITS", limit)
    config = lab.configure(maml_sine.EXPERIMENT, "paper", TINY | REGRESSORS)
    with lab.Run(tmp_path, "maml-sine", "") as run:
        assert maml_sine_regressors.averaged(config, run, "multi-task, l2").strength == strength


def test_penalties_draw_the_regressors_together(tmp_path):
    """Strong ones: to zero, or to the first one, which has none."""
    strong = {"penalties": "10", "regressor_iterations": "40", "sigma": "0.3", "regressors": "4"}
    config = lab.configure(maml_sine.EXPERIMENT, "paper", TINY | REGRESSORS | strong)
    sizes = {}
    for name in maml_sine_regressors.KINDS:
        (tmp_path / name).mkdir()
        with lab.Run(tmp_path / name, "maml-sine", "") as run:
            mean = maml_sine_regressors.averaged(config, run, name).mean
        sizes[name] = sum(float(np.sum(leaf**2)) for leaf in tm.trees.leaves(mean))
    assert sizes["multi-task, l2"] < 0.7 * sizes["multi-task"]
    assert sizes["multi-task, to the mean"] > sizes["multi-task, l2"]


def test_the_multi_task_baselines_have_published_rows(tmp_path):
    result = run(tmp_path, TINY | REGRESSORS)
    published = {row["quantity"]: row["published"] for row in result["rows"] if row["published"] is not None}
    assert published["multi-task, l2, 5 points, after 1 step"] == 7.18
    assert published["multi-task: regressors on their own waves"] == 0.02
    assert {row["ours"] for row in result["rows"] if row["quantity"].endswith("strength of the penalty")} <= {0.1, 0.2}
    table, own = (claim for claim in result["claims"] if "multi-task" in claim["sentence"])
    assert "multi-task, to the mean: " in table["detail"]
    assert not own["held"]
    assert set(result["series"]["tuning"]) == {"pretrained", *maml_sine_regressors.KINDS}
