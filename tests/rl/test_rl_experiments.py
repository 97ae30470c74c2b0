"""The experiments at tiny settings: they run, resume bit for bit, and say what they compare with."""

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tinymeta import cli, lab, rl
from tinymeta.experiments import maml_cheetah, maml_nav2d, maml_rl
from tinymeta.lab.files import to_json
from tinymeta.lab.records import read_result

TINY = {
    "iterations": "2", "hidden": "4", "meta_batch": "2", "episodes": "3", "test_goals": "3", "test_episodes": "3", "horizon": "6",
    "updates": "2",
}  # fmt: skip


def run(folder, experiment, overrides):
    config = lab.configure(experiment, "quick", overrides)
    folder.mkdir(exist_ok=True)
    with lab.Run(folder, experiment.name, "") as run:
        return json.loads(to_json(asdict(experiment.train(config, run))))


def test_navigation_runs_and_the_same_seed_gives_the_same(tmp_path):
    first, again = (run(tmp_path / name, maml_nav2d.EXPERIMENT, TINY) for name in "ab")
    assert first == again
    assert len(first["rows"]) == 3 * 3 + 1 + 3
    assert all(row["published"] is None for row in first["rows"])  # another horizon: not to be compared


@pytest.mark.parametrize(
    ("experiment", "settings"),
    [
        (maml_nav2d.EXPERIMENT, TINY),
        (maml_nav2d.EXPERIMENT, TINY | {"spread": "1.0"}),
        (maml_cheetah.EXPERIMENT, TINY | {"workers": "0"}),
    ],
    ids=["maml-nav2d", "with differences", "maml-cheetah"],
)
def test_a_run_that_was_cut_off_goes_on_to_the_same_result(tmp_path, monkeypatch, experiment, settings):
    if experiment is maml_cheetah.EXPERIMENT:
        pytest.importorskip("mujoco")
    whole = run(tmp_path / "whole", experiment, settings)
    taken, steps = maml_rl.rl.trpo_step, []

    def interrupted(*args, **kwargs):
        steps.append(0)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return taken(*args, **kwargs)

    monkeypatch.setattr(lab.run, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(maml_rl.rl, "trpo_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", experiment, settings)
    monkeypatch.setattr(maml_rl.rl, "trpo_step", taken)
    assert run(tmp_path / "cut", experiment, settings) == whole


BROKEN = {  # what a world does to its episodes, and what is said of it
    "dies at once": (lambda e: e._replace(alive=np.zeros_like(e.alive)), "alive that is not true at the first step"),
    "pays after the end": (
        lambda e: e._replace(alive=np.arange(6) < np.full((*e.alive.shape[:2], 1), 2), rewards=np.ones_like(e.rewards)),
        "the reward of task 0, episode 0, step 2 is 1, expected 0 after the episode's end",
    ),
    "forgets a task": (
        lambda e: rl.Episodes(*(x[1:] for x in e)),
        r"returned 1 tasks of 3 episodes with .*, expected 2 tasks of 3 episodes with",
    ),
    "sees less": (
        lambda e: e._replace(observations=e.observations[..., :1]),
        "with 1 observations and 2 actions a step, expected .* with 2 observations and 2 actions",
    ),
    "returns a list": (lambda e: e._replace(rewards=e.rewards.tolist()), "rewards must be floating point, .* a list"),
    "returns nothing": (lambda e: None, r"returned a NoneType, expected rl\.Episodes"),
    "diverges": (
        lambda e: e._replace(rewards=e.rewards * np.nan),
        "rewards of task 0, episode 0, step 0 is not finite",
    ),
}


SETTINGS = [f"--set={key}={value}" for key, value in (TINY | {"iterations": "4"}).items()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    assert cli.main(["run", "maml-nav2d", "--runs", str(root), *SETTINGS]) == 0
    (folder,) = (root / "maml-nav2d").iterdir()
    return read_result(folder)


@pytest.mark.parametrize(
    ("name", "samples", "steps"), [*((name, 7, 3) for name in BROKEN), ("dies at once", 17, 12)], ids=str
)
def test_a_world_that_breaks_its_contract_ends_in_one_sentence_and_nothing_is_lost(
    tmp_path, monkeypatch, capsys, whole, name, samples, steps
):
    """It breaks after so many `samples`, in a step of training or in a test, and so many `steps` of training are done."""
    breaks, sentence = BROKEN[name]
    sample, calls = rl.Navigation.sample, []

    def broken(self, *arguments):
        calls.append(0)
        episodes = sample(self, *arguments)
        return breaks(episodes) if len(calls) > samples else episodes

    with monkeypatch.context() as patch:
        patch.setattr(rl.Navigation, "sample", broken)
        assert cli.main(["run", "maml-nav2d", "--runs", str(tmp_path), *SETTINGS]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    found = re.fullmatch(f"tinymeta: .*{sentence}.*; to go on: tinymeta run (\\S+) --resume (\\S+)\n", errors)
    experiment, folder = found.groups()
    assert (Path(folder) / "checkpoint.npz").exists()
    left = []
    monkeypatch.setattr(
        rl, "trpo_step", lambda *a, taken=rl.trpo_step, **options: left.append(0) or taken(*a, **options)
    )
    assert cli.main(["run", experiment, "--resume", folder]) == 0
    assert len(left) == 3 * 4 - steps
    assert read_result(Path(folder)) == whole


def test_navigation_figures_and_report(tmp_path):
    config = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY)
    folder = lab.execute(maml_nav2d.EXPERIMENT, config, tmp_path)
    assert {path.name for path in (folder / "figures").glob("*.png")} == {"paths.png", "returns.png"}


def test_published_returns_stand_beside_the_authors_setting():
    world = maml_nav2d.Config().world()
    assert world == maml_nav2d.rl.Navigation()
    assert maml_nav2d.PUBLISHED["MAML"] == [-40.41, -11.68, -3.33, -3.23, -3.35]
    paper = lab.configure(maml_nav2d.EXPERIMENT, "paper", {})
    assert (paper.reward, paper.iterations, paper.inner_lr) == ("squared", 500, 0.1)


@pytest.mark.parametrize(("shift", "held"), [(0.0, True), (50.0, True), (-1.0, False)])
def test_published_returns_are_a_goal_where_the_environment_is_the_authors(shift, held):
    returns = np.array(maml_nav2d.PUBLISHED["MAML"]) + shift + np.linspace(-0.1, 0.1, 40)[:, None]
    strict, claim = maml_nav2d._goal(returns, maml_nav2d.PUBLISHED["MAML"])
    assert strict.held is claim.held is held
    assert f"{shift - 3.35:.2f} ± 0.02 against -3.35 ± 0.59" in claim.detail
    assert maml_nav2d._goal(returns, []) == []


def test_the_strict_goal_names_the_updates_that_miss_it():
    """Means below the published intervals after 2 and 3 updates, with intervals so wide that they meet them."""
    means = np.array(maml_nav2d.PUBLISHED["MAML"]) - [4.0, 2.0, 0.6, 0.6, 0.5]
    returns = means + np.linspace(-1, 1, 40)[:, None]
    strict, claim = maml_nav2d._goal(returns, maml_nav2d.PUBLISHED["MAML"])
    assert (strict.held, claim.held) == (False, True)
    assert strict.detail == "after 2 updates -3.93, below -3.88; after 3 updates -3.83, below -3.81"


def made_up(*means):
    """Returns of 40 goals after 0, 1, ... updates, that vary the more the later."""
    return np.array(means) + np.linspace(-0.1, 0.1, 40)[:, None] * np.arange(1, len(means) + 1)


@pytest.mark.parametrize(("ours", "held"), [(-3.0, True), (-4.95, False), (-7.0, False)])
def test_navigation_claims_that_maml_is_above_the_pretrained_policy_after_one_update(ours, held):
    """By more than the interval of the differences, 0.08; not before the update, nor after more."""
    found = {"MAML": made_up(-40.0, ours, -1.0), "pretrained": made_up(-40.0, -5.0, -1.0)[::-1]}
    claim, _ = maml_nav2d._claims(found)
    assert claim.held is held
    assert claim.detail == f"{ours:.2f} against -5.00; difference on the same goals {ours + 5:.2f} ± 0.08"


@pytest.mark.parametrize(("gain", "held"), [(2.0, True), (0.02, False), (-2.0, False)])
def test_navigation_claims_that_maml_goes_on_improving_after_the_first_update(gain, held):
    """By more than the interval of the gains, 0.04; what the first update gains does not count."""
    returns = made_up(-40.0, -5.0, -50.0, -5.0 + gain)
    *_, claim = maml_nav2d._claims({"MAML": returns, "pretrained": returns})
    assert claim.held is held
    assert claim.detail == f"{gain:.2f} ± 0.04 higher after 3 updates"


@pytest.mark.parametrize(("gain", "held"), [(30.0, True), (20.03, False), (10.0, False)])
def test_the_cheetah_claims_that_one_update_gains_more_not_that_it_ends_higher(gain, held):
    """By more than both intervals, 0.02 each."""
    found = {"MAML": made_up(-50.0, -50.0 + gain, 0.0), "pretrained": made_up(100.0, 120.0, 0.0)}
    claim = maml_cheetah._claim(found)
    assert claim.held is held
    assert claim.detail == f"the first update gains {gain:.1f} ± 0.0, the pretrained policy's 20.0 ± 0.0"


def test_published_returns_stand_beside_ours_after_as_many_updates():
    returns = {"MAML": made_up(-4.0, -3.0, -2.0, -1.0), "random": made_up(-9.0, -8.0), "oracle": made_up(-0.5)}
    published = {"MAML": [-41.0, -31.0, -21.0], "oracle": [-5.1]}
    rows = maml_rl.rows(maml_rl.Compared({}, {"MAML": 0.1}, returns), published, "paper")
    assert [(row.quantity, round(row.ours, 6), row.published, row.source) for row in rows] == [
        ("MAML, return after 0 updates", -4.0, -41.0, "paper"),
        ("MAML, return after 1 updates", -3.0, -31.0, "paper"),
        ("MAML, return after 2 updates", -2.0, -21.0, "paper"),
        ("MAML, return after 3 updates", -1.0, None, ""),
        ("random, return after 0 updates", -9.0, None, ""),
        ("random, return after 1 updates", -8.0, None, ""),
        ("oracle, return after 0 updates", -0.5, -5.1, "paper"),
        ("MAML, rate of the first update", 0.1, None, ""),
    ]


def test_only_maml_is_trained_to_adapt_and_only_the_oracle_is_told_the_goal(monkeypatch):
    config, trained = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY | {"rates": "0.1"}), {}

    def recorded(config, run, world, name, adapts):
        trained[name] = {"adapts": adapts, "told": world.tell_goal}
        return maml_rl.first_policy(config, world)

    monkeypatch.setattr(maml_rl, "meta_train", recorded)
    maml_rl.compare(config, None, config.world(), replace(config.world(), tell_goal=True))
    assert trained == {
        "maml": {"adapts": True, "told": False},
        "pretrained": {"adapts": False, "told": False},
        "oracle": {"adapts": False, "told": True},
    }


def test_a_policy_that_was_not_trained_to_adapt_moves_with_the_rate():
    config, gains = lab.configure(maml_nav2d.EXPERIMENT, "published", {"test_goals": "20"}), []
    policy = maml_rl.first_policy(config, config.world())
    for lr in (0.1, 0.5):
        before, after = maml_rl.returns_after_updates(config, config.world(), policy, 1, lr).mean(axis=0)
        gains.append(after - before)
    assert 0 < 2 * gains[0] < gains[1]


def test_rates_are_tuned_on_goals_that_are_not_those_of_tests():
    """The random policy gains more from 0.5 than from 0.02; and the goals are other ones than the tests'."""
    config = lab.configure(
        maml_nav2d.EXPERIMENT, "published", {"test_goals": "10", "rates": "0.02,0.5", "updates": "1"}
    )
    asked, world = [], config.world()

    class Watched:
        observation_size, action_size, sample = 2, 2, world.sample

        def goals(self, rng, tasks):
            asked.append(world.goals(rng, tasks))
            return asked[-1]

    policy = maml_rl.first_policy(config, world)
    assert maml_rl.tuned_rate(config, Watched(), policy) == 0.5
    maml_rl.returns_after_updates(config, Watched(), policy, 1, 0.5)
    tuning, again, tests = asked
    np.testing.assert_array_equal(tuning, again)
    assert not np.isin(tests, tuning).any()


def test_the_tuned_rate_is_the_best_over_all_updates_and_not_before_any(monkeypatch):
    config = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY | {"rates": "0.02,0.1,0.2,0.5"})
    # the best before any update, after the first, over both, after the second
    after = {0.02: [100, 0, 0], 0.1: [0, 3, 0], 0.2: [-100, 2, 2], 0.5: [0, 0, 3]}
    returns = lambda config, world, policy, updates, rate, part: np.array([after[rate]] * 2)
    monkeypatch.setattr(maml_rl, "returns_after_updates", returns)
    assert maml_rl.tuned_rate(config, None, None) == 0.2


def test_a_rate_that_diverges_is_not_chosen():
    config = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY | {"rates": "1e30,0.1"})
    policy = maml_rl.first_policy(config, config.world())
    assert maml_rl.tuned_rate(config, config.world(), policy) == 0.1


@pytest.mark.parametrize("updates", [0, 1, 3])
def test_a_policy_is_updated_as_often_as_its_returns_are_asked_for(monkeypatch, updates):
    config, taken = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY), []
    for name in ("adapt_policy", "adapt_further"):
        usual = getattr(rl, name)
        monkeypatch.setattr(rl, name, lambda *a, usual=usual, name=name, **k: taken.append(name) or usual(*a, **k))
    world = config.world()
    returns = maml_rl.returns_after_updates(config, world, maml_rl.first_policy(config, world), updates, 0.1)
    assert returns.shape == (config.test_goals, updates + 1)
    assert taken == ["adapt_policy", *["adapt_further"] * (updates - 1)][:updates]


def test_updates_after_the_first_have_half_the_rate(monkeypatch):
    config, rates = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY), []
    for name in ("adapt_policy", "adapt_further"):
        usual = getattr(rl, name)
        recorded = lambda policy, batch, lr, usual=usual, **k: rates.append(lr) or usual(policy, batch, lr, **k)
        monkeypatch.setattr(rl, name, recorded)
    world = config.world()
    maml_rl.returns_after_updates(config, world, maml_rl.first_policy(config, world), 3, 0.2)
    assert rates == [0.2, 0.1, 0.1]


def test_the_best_policy_is_kept(tmp_path):
    """The stage's result is the policy of the iteration with the highest return, not the last one."""
    config = lab.configure(maml_nav2d.EXPERIMENT, "quick", TINY | {"iterations": "4"})
    with lab.Run(tmp_path, "maml-nav2d", "") as at:
        best = maml_rl.meta_train(config, at, config.world(), "maml", adapts=True)
        state = at._stages["maml"]["state"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert float(state["best_return"]) == max(line["return"] for line in lines)
    np.testing.assert_array_equal(best.log_std, state["best"].log_std)
    with lab.Run(tmp_path, "maml-nav2d", "") as at:
        last = maml_rl.meta_train(replace(config, keep="last"), at, config.world(), "maml", adapts=True)
    np.testing.assert_array_equal(last.log_std, state["policy"].log_std)
    assert not np.array_equal(last.log_std, best.log_std)


def test_cheetah_runs(tmp_path):
    pytest.importorskip("mujoco")
    result = run(tmp_path, maml_cheetah.EXPERIMENT, TINY | {"workers": "0"})
    assert len(result["rows"]) == 3 * 3 + 1 + 3
    assert set(result["series"]["returns"]) == {"MAML", "pretrained", "random", "oracle"}


@pytest.mark.parametrize("package", ["gymnasium", "mujoco"])
def test_a_missing_simulator_is_one_sentence_at_the_command_line(tmp_path, monkeypatch, capsys, package):
    pytest.importorskip("mujoco")
    maml_rl.rl.cheetah._environment.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    settings = [f"--set={key}={value}" for key, value in (TINY | {"workers": "0"}).items()]
    assert cli.main(["run", "maml-cheetah", "--runs", str(tmp_path), *settings]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"tinymeta: {package} is not installed")
    assert "run: pip install 'tinymeta[rl]'; to go on: tinymeta run maml-cheetah --resume" in errors
    assert errors.count("\n") == 1


def test_presets_of_the_cheetah():
    of = {preset: lab.configure(maml_cheetah.EXPERIMENT, preset, {}) for preset in maml_cheetah.EXPERIMENT.presets}
    assert replace(of["quick-velocity"], goal="direction") == of["quick"]
    assert replace(of["paper-direction"], goal="velocity", max_kl=0.01) == of["paper"]
    for preset in ("paper", "paper-direction"):  # 1703.03400, appendix A.2
        config = of[preset]
        assert (config.hidden, config.iterations, config.meta_batch, config.episodes) == ((100, 100), 500, 40, 20)
        assert (config.horizon, config.inner_lr) == (200, 0.1)


@pytest.mark.parametrize("experiment", [maml_nav2d.EXPERIMENT, maml_cheetah.EXPERIMENT], ids=lambda e: e.name)
def test_presets(experiment):
    for preset in experiment.presets:
        assert lab.configure(experiment, preset, {}).meta_batch >= 1
        assert preset in experiment.minutes


WRONG = [
    ("iterations", "0"), ("reward", "none"), ("updates", "0"), ("hidden", "-1"), ("hidden", "100,0"), ("max_kl", "-1"),
    ("max_kl", "0"), ("spread", "-1.0"), ("keep", "first"), ("discount", "1e300"), ("discount", "-0.1"), ("inner_lr", "0"),
    ("inner_lr", "-0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_configuration(key, value):
    with pytest.raises(lab.UserError, match=f"{key}.*expected"):
        lab.configure(maml_nav2d.EXPERIMENT, "quick", {key: value})
