"""What the L2L experiments claim of losses, and which published numbers stand beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tinymeta.experiments import l2l_comparison, l2l_mnist, l2l_mnist_sweep
from tinymeta.experiments.l2l_comparison import Comparison, Goal, Setting
from tinymeta.experiments.l2l_training import Training
from tinymeta.lab import mean_ci95

GOAL = Goal(0.75, "on the MLP of meta-training, 100 steps")
THREE_STEPS = Training(steps=3, unroll_length=3)


def comparison(rng, finals, fails=False):
    """Final losses around these means, in 20 problems."""
    curves = {name: mean + 0.01 * rng.normal(size=(4, 20)) for name, mean in finals.items()}
    baselines = list(finals)[1:]
    grid = {name: dict.fromkeys((1.0, 0.1, 0.01), 0.0) for name in baselines}
    return Comparison(Setting("", 3, None, fails=fails), grid, dict.fromkeys(baselines, 0.1), curves)


def held(finals, **options):
    return [c.held for c in l2l_comparison.claims(comparison(np.random.default_rng(0), finals, **options), 1, GOAL)]


def test_the_claims_say_what_the_numbers_say():
    assert held({"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.6}) == [True, True]
    assert held({"LSTM": 0.45, "ADAM": 0.5, "NAG": 0.6}) == [True, False]
    assert held({"LSTM": 0.499, "ADAM": 0.5, "NAG": 0.9}) == [False, False]
    assert held({"LSTM": 0.6, "ADAM": 0.5, "NAG": 0.9}) == [False, False]
    assert held({"LSTM": np.inf, "ADAM": 0.5, "NAG": 0.9}) == [False, False]


def test_the_claim_on_the_paper_s_ratio_says_on_what_the_paper_has_it():
    found = comparison(np.random.default_rng(0), {"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.6})
    claim = l2l_comparison.claims(found, 1, GOAL)[1]
    assert claim.sentence.endswith(
        "0.75 of the best baseline's, the paper's ratio on the MLP of meta-training, 100 steps"
    )
    other = found._replace(setting=found.setting._replace(name="two layers", published={"ratio": 0.5}))
    told = l2l_comparison.claims(other, 1, GOAL)[1]
    assert told.sentence == claim.sentence.replace("3 steps", "two layers, 3 steps")
    assert told.detail == f"{claim.detail}; the paper has 0.500 here"


def test_a_failure_that_the_paper_reports_is_reported_either_way():
    assert held({"LSTM": 2.6, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [True]
    assert held({"LSTM": np.inf, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [True]
    assert held({"LSTM": np.nan, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [True]
    assert held({"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [False]


@pytest.mark.parametrize(("rate", "said"), [(1.0, True), (0.1, False), (0.01, True)])
def test_a_claim_says_if_the_best_baseline_s_rate_is_at_the_end_of_its_grid(rate, said):
    found = comparison(np.random.default_rng(0), {"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.6})
    found = found._replace(rates=found.rates | {"ADAM": rate}, setting=found.setting._replace(steps=30))
    for claim in (l2l_comparison.claims(found, 1)[0], *l2l_comparison.lasts(found, THREE_STEPS)):
        assert f"ADAM at learning rate {rate:g}{', at the end of its grid' if said else ''}" in claim.detail
        assert ("at the end of its grid" in claim.detail) == said


@pytest.mark.parametrize(("steps", "expected"), [(29, []), (30, [True]), (40, [True])])
def test_ten_times_the_steps_of_meta_training_are_a_claim_of_their_own(steps, expected):
    found = comparison(np.random.default_rng(0), {"LSTM": 0.4, "ADAM": 0.5, "NAG": 0.3})
    long = found._replace(setting=found.setting._replace(steps=steps))
    assert [claim.held for claim in l2l_comparison.lasts(long, THREE_STEPS)] == expected
    worse = comparison(np.random.default_rng(0), {"LSTM": 0.499, "ADAM": 0.5, "NAG": 0.3})
    worse = worse._replace(setting=worse.setting._replace(steps=30))
    assert [claim.held for claim in l2l_comparison.lasts(worse, THREE_STEPS)] == [False]


def test_what_lasts_ten_times_as_long_says_if_meta_training_began_late():
    found = comparison(np.random.default_rng(0), {"LSTM": 0.4, "ADAM": 0.5, "NAG": 0.3})
    found = found._replace(setting=found.setting._replace(steps=30))
    late = replace(THREE_STEPS, late_start=9, late_share=0.8)
    plain, told = (l2l_comparison.lasts(found, config)[0].sentence for config in (THREE_STEPS, late))
    assert plain == "30 steps, 10 times the 3 of meta-training: the learned optimizer ends below tuned ADAM"
    assert told == plain.replace("training", "training (in 80 % of its epochs after 1 to 9 steps of ADAM)")
    longer = replace(late, curriculum=(3, 6))
    assert l2l_comparison.lasts(found, longer) == []


def curves(**losses):
    """Each with the same losses of 20 problems besides, which differ more than the methods."""
    noise = np.linspace(0, 9, 20)
    found = {name: np.array(curve)[:, None] + noise for name, curve in losses.items()}
    found["LSTM"] = found["LSTM"] + 0.01 * np.sin(np.arange(20))
    grid = {name: {0.3: 1.0, 0.1: 0.0, 0.03: 1.0} for name in ("SGD", "ADAM")}
    return Comparison(Setting("", 3, None), grid, dict.fromkeys(grid, 0.1), found)


@pytest.mark.parametrize(
    ("learned", "held"),
    [
        ([9.0, 0.3, 0.5, 0.7], True),  # it ends above SGD, but is below on the mean; the loss at θ_0 does not count
        ([0.0, 0.9, 0.8, 0.1], False),
        ([9.0, 0.6, 0.6, 0.6], False),  # level with ADAM, within the interval
        ([9.0, 0.4, 0.5, np.inf], False),
    ],
)
def test_the_claim_on_the_whole_curve_is_on_the_mean_over_its_steps(learned, held):
    found = curves(LSTM=learned, SGD=[9.0, 1.0, 0.9, 0.2], ADAM=[9.0, 0.6, 0.6, 0.6])
    (claim,) = l2l_comparison.curve_claims(found)
    assert claim.held == held
    assert "the whole curve of the learned optimizer, the mean loss over steps 1 to 3, is below" in claim.sentence
    assert "best baseline ADAM at learning rate 0.1: 5.1 ± 1.3; difference on the same 20 held-out" in claim.detail


def test_every_learned_optimizer_has_a_claim_on_its_curve():
    found = curves(LSTM=[1.0, 0.9, 0.1, 0.1], SGD=[1.0] * 4, ADAM=[1.0, 0.8, 0.5, 0.4])
    found.curves["LSTM-sub"] = found.curves["ADAM"] + np.linspace(0, 0.01, 20)
    both = l2l_comparison.curve_claims(found)
    assert [claim.held for claim in both] == [True, False]
    assert "the whole curve of LSTM-sub" in both[1].sentence
    mean = {name: curve[1:].mean(axis=0) for name, curve in found.curves.items()}
    gain, ci = mean_ci95(mean["ADAM"] - mean["LSTM"])
    assert both[0].detail.endswith(f"problems {gain:.3g} ± {ci:.2g}")


def test_final_losses_are_means_over_the_last_steps():
    found = comparison(np.random.default_rng(0), {"LSTM": 1.0, "ADAM": 2.0})
    np.testing.assert_allclose(found.final(3)["LSTM"], found.curves["LSTM"][1:].mean(axis=0))
    rows = l2l_comparison.rows(found, 3)
    assert rows[0].ours == pytest.approx(found.curves["LSTM"][1:].mean())
    assert rows[-1].ours == pytest.approx(found.curves["LSTM"][1:].mean() / found.curves["ADAM"][1:].mean())


def test_published_numbers_stand_beside_the_paper_s_problem_alone():
    full, pooled = (l2l_mnist.settings(l2l_mnist.Config(pool=pool)) for pool in (1, 4))
    assert [s.published.get("LSTM") for s in full] == [0.26, 0.21, 0.19, 0.33, 2.6]
    assert all(set(s.published) == {"ratio"} for s in pooled)
    assert [s.fails for s in full] == [False] * 4 + [True]
    shorter = l2l_mnist.settings(l2l_mnist.Config(horizons=(60,)))
    assert not any(s.published for s in shorter)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_baseline_that_diverges_on_one_problem_is_neither_the_best_nor_above_the_optimizer(bad):
    found = comparison(np.random.default_rng(0), {"LSTM": 0.3, "SGD": 0.5, "ADAM": 0.6})
    found.curves["SGD"][-1, 3] = bad
    final = found.final(1)
    assert l2l_comparison.best_baseline(final) == "ADAM"
    assert [c.held for c in l2l_comparison.claims(found, 1, GOAL)] == [True, True]
    assert l2l_comparison.below_paired(final, "LSTM")
    assert not l2l_comparison.apart(final["SGD"], final["LSTM"])


def test_a_tie_is_no_failure():
    assert held({"LSTM": 0.5001, "ADAM": 0.5}, fails=True) == [False]
    assert held({"LSTM": 2.6, "ADAM": 0.4}, fails=True) == [True]


@pytest.mark.parametrize(("better", "held"), [((0.3, 0.3), True), ((0.3, 0.6), False), ((0.5, 0.3), False)])
def test_the_claim_of_the_sweep_is_on_every_architecture(monkeypatch, better, held):
    rng, finals = np.random.default_rng(0), iter(better)
    compared = lambda config, run, optimizer, setting: comparison(rng, {"LSTM": next(finals), "ADAM": 0.5, "NAG": 0.9})
    monkeypatch.setattr(l2l_mnist_sweep, "compare", compared)
    monkeypatch.setattr(l2l_mnist_sweep, "_optimizer", lambda config, run: (None, {}))
    config = l2l_mnist_sweep.Config(optimizer="a shipped one", layers=(1, 2), units=(7,))
    (claim,) = l2l_mnist_sweep.train(config, None).claims
    wrong = [f"{layers} x 7" for layers, mean in zip((1, 2), better, strict=True) if mean > 0.4]
    assert claim.held == held
    assert claim.detail == f"in {2 - len(wrong)} of 2" + (f"; not with {wrong[0]} (layers x units)" if wrong else "")
