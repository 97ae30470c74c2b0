import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.toy import EXPERIMENT, Config

from tinymeta.lab import Row, UserError, configure
from tinymeta.lab.experiment import as_text, config_hash, preset_of, restore
from tinymeta.lab.files import read_json, write_json

values = st.fixed_dictionaries(
    {
        "seed": st.integers(),
        "steps": st.integers(0),
        "learning_rate": st.floats(allow_nan=False, allow_infinity=False),
        "sizes": st.lists(st.integers()).map(tuple),
        "momentum": st.booleans(),
        "label": st.text(),
    }
)


@given(values)
def test_overrides_are_parsed_to_the_type_of_the_field(expected):
    config = configure(EXPERIMENT, "paper", {key: as_text(value) for key, value in expected.items()})
    assert config == Config(**expected)


@given(values)
def test_a_configuration_comes_back_from_its_json(tmp_path_factory, chosen):
    path = tmp_path_factory.getbasetemp() / "config.json"
    config = Config(**chosen)
    write_json(path, config.__dict__)
    assert restore(EXPERIMENT, read_json(path), path) == config


def test_presets_and_their_names():
    quick = configure(EXPERIMENT, "quick", {"seed": "3"})
    assert (quick.steps, quick.seed) == (20, 3)
    assert preset_of(EXPERIMENT, quick) == "quick"
    assert preset_of(EXPERIMENT, Config(seed=5)) == "paper"
    assert preset_of(EXPERIMENT, Config(steps=7)) == "custom"
    assert config_hash(quick) != config_hash(configure(EXPERIMENT, "quick", {}))


@pytest.mark.parametrize(
    ("preset", "overrides", "sentence"),
    [
        ("quik", {}, "toy has no preset 'quik'; did you mean quick?"),
        ("zzz", {}, "toy has no preset 'zzz'; choose one of quick, paper"),
        ("quick", {"learning_rat": "1"}, "toy has no key 'learning_rat'; did you mean learning_rate?"),
        ("quick", {"steps": "1e3"}, "steps = '1e3' is not a whole number; the default of toy is steps=60"),
        (
            "quick",
            {"learning_rate": "fast"},
            "learning_rate = 'fast' is not a finite number; the default of toy is learning_rate=0.05",
        ),
        ("quick", {"learning_rate": "inf"}, "learning_rate = 'inf' is not a finite number; the default of toy is "),
        (
            "quick",
            {"momentum": "maybe"},
            "momentum = 'maybe' is not true or false; the default of toy is momentum=True",
        ),
        (
            "quick",
            {"sizes": "4,x"},
            "sizes = '4,x' is not values separated by commas, each a whole number; the default of toy is sizes=4,3",
        ),
        ("quick", {"steps": "-1"}, "toy: steps = -1, expected 0 or more"),
    ],
)
def test_bad_input_is_one_sentence(preset, overrides, sentence):
    with pytest.raises(UserError) as error:
        configure(EXPERIMENT, preset, overrides)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 1.5}, "has steps = 1.5, expected a whole number"),
        ({"steps": True}, "has steps = True, expected a whole number"),
        ({"momentum": 1}, "has momentum = 1, expected true or false"),
        ({"sizes": [1, "x"]}, r"has sizes = \[1, 'x'\], expected values separated by commas"),
        ({"extra": 1}, r"of another version of toy \(it differs in extra\)"),
    ],
)
def test_a_record_of_another_version_is_refused(tmp_path, change, named):
    fields = {**Config().__dict__, "sizes": [4, 3], **change}
    with pytest.raises(UserError, match=named):
        restore(EXPERIMENT, fields, tmp_path / "config.json")


def test_the_ratio_needs_a_published_number():
    assert Row("loss", 3.0, 2.0).ratio == 1.5
    assert Row("loss", 3.0).ratio is None
    assert Row("loss", 3.0, 0.0).ratio is None
