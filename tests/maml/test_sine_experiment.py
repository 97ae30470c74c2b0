import json
from dataclasses import asdict

import numpy as np
import pytest

from tinymeta import lab
from tinymeta.data.sine import SineTasks
from tinymeta.experiments import maml_sine
from tinymeta.lab.files import to_json

SMALL = {
    "iterations": "300", "meta_lr": "0.01", "baseline_lr": "0.01", "sigma": "0.3", "test_tasks": "100",
    "validation_tasks": "20", "test_steps": "5", "test_points": "5,10", "step_sizes": "0.01,0.03",
}  # fmt: skip
TINY = SMALL | {"iterations": "2", "test_tasks": "4", "test_steps": "2", "hidden": "3", "test_points": "5"}


def run(folder, overrides):
    """What result.json would hold, without the figures."""
    config = lab.configure(maml_sine.EXPERIMENT, "paper", overrides)
    folder.mkdir(exist_ok=True)
    with lab.Run(folder, "maml-sine", "") as run:
        return json.loads(to_json(asdict(maml_sine.EXPERIMENT.train(config, run))))


def test_maml_learns_to_learn(tmp_path):
    config = lab.configure(maml_sine.EXPERIMENT, "paper", SMALL)
    folder = lab.execute(maml_sine.EXPERIMENT, config, tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert [claim["held"] for claim in result["claims"][:2]] == [True, True]
    published = {row["quantity"]: row["published"] for row in result["rows"] if row["published"] is not None}
    assert published["MAML, 5 points, after 1 step"] == 0.67
    assert all("5 points" in quantity for quantity in published)
    rows = {row["quantity"]: row["ours"] for row in result["rows"]}
    oracle = rows.pop("oracle: amplitude and phase are inputs")
    assert oracle < 0.5 * rows["pretrained, 10 points, after 5 steps"]
    assert rows["MAML, 10 points, after 1 step"] < 0.5 * rows["MAML, before adaptation"]
    assert {path.name for path in (folder / "figures").glob("*.png")} == {"fits.png", "steps.png"}


def test_same_seed_same_result(tmp_path):
    first, again = (run(tmp_path / name, TINY) for name in "ab")
    assert first == again
    other = run(tmp_path / "c", TINY | {"seed": "1"})
    assert first["series"] != other["series"]


def test_first_order_goes_by_its_own_name(tmp_path):
    result = run(tmp_path, TINY | {"order": "1"})
    assert set(result["series"]["curves"]) == {"first-order MAML", "pretrained"}
    assert not any(row["published"] for row in result["rows"] if row["quantity"].startswith("first-order"))


def test_divergence_is_counted(tmp_path):
    result = run(tmp_path, TINY | {"step_sizes": "1e6", "test_steps": "5"})
    row = next(row for row in result["rows"] if row["unit"] == "% of tasks")
    assert row["quantity"].startswith("pretrained, 5 points")
    assert 0 < row["ours"] <= 100


def test_tuning_takes_the_best_step_size_on_validation_tasks(tmp_path):
    result = run(tmp_path, TINY | {"step_sizes": "1e6,0.01,0.001"})
    tuned = result["series"]["tuning"]["5"]
    assert tuned["chosen"] == tuned["step_sizes"][int(np.nanargmin(tuned["validation_mse"]))] != 1e6


def test_oracle_sees_amplitude_and_phase():
    x = np.zeros((2, 3, 1), np.float32)
    seen = maml_sine._with_task(x, SineTasks(np.array([1.0, 2.0]), np.array([0.5, 0.25])))
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen[:, 0], [[0, 1, 0.5], [0, 2, 0.25]])


def test_nets_meet_the_same_test_tasks_and_training_does_not():
    config = maml_sine.Config(test_tasks=5)
    first, again = (maml_sine.Held.draw(config, "test", 5) for _ in range(2))
    np.testing.assert_array_equal(first.tasks, again.tasks)
    assert not np.isin(first.tasks, maml_sine.Held.draw(config, "validation", 5).tasks).any()


@pytest.mark.parametrize("preset", maml_sine.EXPERIMENT.presets)
def test_presets(preset):
    config = lab.configure(maml_sine.EXPERIMENT, preset, {})
    assert config.test_points == (5, 10, 20)
    assert preset in maml_sine.EXPERIMENT.minutes


@pytest.mark.parametrize(("key", "value"), [("order", "3"), ("test_steps", "0"), ("points", "-1")])
def test_wrong_configuration(key, value):
    with pytest.raises(lab.UserError, match=f"{key} = {value}, expected"):
        lab.configure(maml_sine.EXPERIMENT, "quick", {key: value})


@pytest.mark.parametrize("overrides", [{"test_points": ""}, {"test_points": "5,0"}, {"step_sizes": ""}])
def test_wrong_lists(overrides):
    with pytest.raises(lab.UserError, match=r"= \(.*\), expected"):
        lab.configure(maml_sine.EXPERIMENT, "quick", overrides)
