"""What the L2L experiments claim of losses, and which published numbers stand beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tinymeta.experiments import l2l_comparison, l2l_mnist
from tinymeta.experiments.l2l_comparison import Comparison, Setting
from tinymeta.experiments.l2l_training import Training

THREE_STEPS = Training(steps=3, unroll_length=3)


def comparison(rng, finals, fails=False):
    """Final losses around these means, in 20 problems."""
    curves = {name: mean + 0.01 * rng.normal(size=(4, 20)) for name, mean in finals.items()}
    baselines = list(finals)[1:]
    grid = {name: dict.fromkeys((1.0, 0.1, 0.01), 0.0) for name in baselines}
    return Comparison(Setting("", 3, None, fails=fails), grid, dict.fromkeys(baselines, 0.1), curves)


def held(finals, **options):
    goal = {"ratio": 0.75}
    return [c.held for c in l2l_comparison.claims(comparison(np.random.default_rng(0), finals, **options), 1, goal)]


def test_the_claims_say_what_the_numbers_say():
    assert held({"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.6}) == [True, True]
    assert held({"LSTM": 0.45, "ADAM": 0.5, "NAG": 0.6}) == [True, False]
    assert held({"LSTM": 0.499, "ADAM": 0.5, "NAG": 0.9}) == [False, False]
    assert held({"LSTM": 0.6, "ADAM": 0.5, "NAG": 0.9}) == [False, False]
    assert held({"LSTM": np.inf, "ADAM": 0.5, "NAG": 0.9}) == [False, False]


def test_a_failure_that_the_paper_reports_is_reported_either_way():
    assert held({"LSTM": 2.6, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [True]
    assert held({"LSTM": np.inf, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [True]
    assert held({"LSTM": np.nan, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [True]
    assert held({"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.4}, fails=True) == [False]


@pytest.mark.parametrize(("rate", "said"), [(1.0, True), (0.1, False), (0.01, True)])
def test_a_claim_says_if_the_best_baseline_s_rate_is_at_the_end_of_its_grid(rate, said):
    found = comparison(np.random.default_rng(0), {"LSTM": 0.3, "ADAM": 0.5, "NAG": 0.6})
    found = found._replace(rates=found.rates | {"ADAM": rate}, setting=found.setting._replace(steps=30))
    for claim in (l2l_comparison.claims(found, 1, {})[0], *l2l_comparison.lasts(found, THREE_STEPS)):
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
