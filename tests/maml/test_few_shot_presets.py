"""The settings of the few-shot experiments: what presets are, what is refused, and the parts that characters are split into."""

import numpy as np
import pytest
from maml.few_shot_runs import configure

from tinymeta import lab, nets
from tinymeta.experiments import maml_miniimagenet, maml_omniglot


def test_the_split_is_the_one_asked_for():
    for preset, sizes in (("paper", (1200, 1200, 423)), ("code", (1100, 100, 423))):
        config = lab.configure(maml_omniglot.EXPERIMENT, preset, {})
        parts = maml_omniglot.characters(config)
        assert tuple(map(len, parts.values())) == sizes
        assert not set(parts["test"]) & (set(parts["train"]) | set(parts["validation"]))
        assert bool(set(parts["train"]) & set(parts["validation"])) == (preset == "paper")


def test_the_order_of_the_split_is_kept_for_results_depend_on_it():
    config = lab.configure(maml_omniglot.EXPERIMENT, "code", {"seed": "3"})
    order = np.concatenate(list(maml_omniglot.characters(config).values()))
    np.testing.assert_array_equal(order, lab.stream(3, "split").permutation(1623))


@pytest.mark.parametrize("preset", maml_omniglot.EXPERIMENT.presets)
def test_presets_of_omniglot(preset):
    """A preset is what its name says, has a time and a published result; those of the paper run to its end."""
    config, (kind, *rest) = lab.configure(maml_omniglot.EXPERIMENT, preset, {}), preset.split("-")
    assert preset in maml_omniglot.EXPERIMENT.minutes
    assert ("20" in rest, "5" in rest, "dense" in rest) == (config.ways == 20, config.shots == 5, config.net == "dense")
    assert (config.iterations == 60_000) == (kind in ("paper", "code"))
    assert (config.train_characters == 1200) == (kind in ("paper", "third"))
    assert (config.net, config.ways, config.shots) in maml_omniglot.PUBLISHED
    if "first" in rest:
        assert config.methods == ("first-order",)


@pytest.mark.parametrize(
    ("experiment", "overrides", "apply"),
    [
        (maml_omniglot, {}, nets.conv4),
        (
            maml_omniglot,
            {"net": "dense", "head_sigma": "0"},
            lambda p, x, *e: nets.normed_mlp(p, x.reshape(1, 6, 784), *e),
        ),
        (maml_miniimagenet, {"side": "28"}, nets.pooled_conv4),
    ],
    ids=["conv", "dense", "mini-imagenet"],
)
def test_the_nets_of_the_authors_code_have_its_eps_and_no_scale(experiment, overrides, apply):
    config = lab.configure(experiment.EXPERIMENT, "code", {"filters": "16"} | overrides)
    net, rng = experiment.net_of(config), np.random.default_rng(0)
    x = rng.random((1, 6, 3 if experiment is maml_miniimagenet else 1, 28, 28), np.float32)
    np.testing.assert_array_equal(net.apply(net.params, x), apply(net.params, x, 1e-3))
    assert not np.array_equal(net.apply(net.params, x), apply(net.params, x))
    norms = net.params[:-1] if "net" in overrides else net.params[0]
    assert all(layer.gamma is None for layer in norms)
    if apply is nets.conv4:
        assert np.std(net.params[1].w) == pytest.approx(1, rel=0.3)


APPENDIX = {  # A.1: the inner rate and steps, those of tests, and the meta-batch
    "omniglot, 5 ways": (0.4, 1, 3, 32),
    "omniglot, 20 ways": (0.1, 5, 5, 16),
    "mini-imagenet, 1 shot": (0.01, 5, 10, 4),
    "mini-imagenet, 5 shots": (0.01, 5, 10, 2),
}


def test_the_papers_presets_have_its_settings():
    for experiment, by in ((maml_omniglot.EXPERIMENT, "ways"), (maml_miniimagenet.EXPERIMENT, "shots")):
        for preset in experiment.presets:
            if not preset.startswith("paper"):
                continue
            config = lab.configure(experiment, preset, {})
            count = getattr(config, by)
            name = f"{experiment.name.partition('-')[2]}, {count} {by if count > 1 else by.removesuffix('s')}"
            setting = APPENDIX[name.replace("miniimagenet", "mini-imagenet")]
            assert (config.inner_lr, config.inner_steps, config.test_steps, config.meta_batch) == setting
            assert (config.cross_entropy, config.norm, config.scaled) == ("per shot", "shared", False)
    assert (config.queries, config.test_queries, config.filters, config.clip, config.side) == (15, 0, 32, 10, 84)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ways": "1"}, "ways = 1, expected 2 or more"),
        ({"norm": "none"}, "norm = none, expected shared or adapted"),
        ({"cross_entropy": "sum"}, "cross_entropy = sum, expected per shot or mean"),
        ({"methods": ""}, r"methods = \(\), expected one or more, each once"),
        ({"methods": "maml,mamml"}, "methods has 'mamml', expected names among maml"),
        ({"methods": "reptile"}, "norm = shared, but reptile adapts all parameters: expected norm=adapted"),
        ({"methods": "maml,first-order,maml"}, "methods has 'maml' twice, expected each once"),
        ({"methods": "maml,implicit", "norm": "adapted", "strength": "0"}, "strength = 0.0, expected λ > 0"),
        ({"net": "deep"}, "net = deep, expected conv or dense"),
        ({"net": "dense", "head_sigma": "1"}, "head_sigma = 1.0, expected 0 for net = dense"),
        ({"head_sigma": "-1"}, "head_sigma = -1.0, expected 0 or more"),
        ({"train_characters": "1600"}, "train_characters = 1600 and validation_characters = 100, expected 5 or more"),
        ({"validation_characters": "3"}, "validation_characters = 3, expected 0 or 5 and more"),
        ({"shots": "15"}, "shots = 15 and 15 queries, expected at most the 20 images of a class together"),
        ({"meta_lr": "-1"}, "meta_lr = -1.0, expected 0 or more"),
        ({"inner_lr": "-1"}, "inner_lr = -1.0, expected 0 or more"),
        ({"patience": "-1"}, "patience = -1, expected 0 or more"),
    ],
)
def test_wrong_configuration(overrides, message):
    with pytest.raises(lab.UserError, match=message):
        configure(overrides)


@pytest.mark.parametrize("experiment", [maml_omniglot.EXPERIMENT, maml_miniimagenet.EXPERIMENT], ids=lambda e: e.name)
def test_presets(experiment):
    for preset in experiment.presets:
        assert lab.configure(experiment, preset, {}).meta_batch >= 2
        assert preset in experiment.minutes
