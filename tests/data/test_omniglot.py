import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta.data import few_shot_tasks, omniglot, omniglot_split
from tinymeta.data.omniglot import CHARACTERS


def test_all_drawings_are_there():
    images, characters = omniglot()
    assert (images.shape, images.dtype) == ((1623, 20, 28, 28), np.bool_)
    assert len(set(characters)) == 1623
    alphabets = [character.split("/")[0] for character in characters]
    assert (len(set(alphabets)), len(set(alphabets[:964])), len(set(alphabets[964:]))) == (50, 30, 20)
    assert images.any(axis=(2, 3)).all()


def test_ink_is_true():
    """The mean of the background originals, where paper is 1, is 0.92206; thresholding moves it little."""
    assert abs(1 - omniglot().images[:964].mean() - 0.92206) < 0.005


def test_the_two_drawings_that_are_the_same_in_the_original_are_the_same():
    images, characters = omniglot()
    braille = images[characters.index("Braille/character01")]
    np.testing.assert_array_equal(braille[2], braille[18])


def test_images_are_shared_and_read_only():
    assert omniglot() is omniglot()
    with pytest.raises(ValueError, match="read-only"):
        omniglot().images[0] = True


@given(seed=st.integers(0, 2**32), train=st.integers(0, CHARACTERS))
def test_split_is_a_partition(seed, train):
    first, second = omniglot_split(np.random.default_rng(seed), train)
    assert len(first) == train
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(CHARACTERS))


def test_split_is_random_and_as_in_the_paper():
    first, second = omniglot_split(np.random.default_rng(0))
    assert (len(first), len(second)) == (1200, 423)
    assert not np.array_equal(first, omniglot_split(np.random.default_rng(1))[0])


NOISE = np.random.default_rng(7).random((9, 6, 8, 8)) < 0.5
ORIGIN = {  # which drawing, turned how, an example is: 64 random bits tell
    np.rot90(NOISE[character, drawing], turns).astype(np.float32).tobytes(): (character, drawing, turns)
    for character, drawing, turns in np.ndindex(9, 6, 4)
}


@given(
    seed=st.integers(0, 2**32),
    ways=st.integers(1, 7),
    shots=st.integers(1, 3),
    queries=st.integers(0, 3),
    tasks=st.integers(0, 3),
)
def test_few_shot_tasks_are_what_they_say(seed, ways, shots, queries, tasks):
    allowed = np.array([8, 1, 2, 3, 5, 6, 7])
    made = few_shot_tasks(NOISE, allowed, np.random.default_rng(seed), ways, shots, queries, tasks)
    assert made.support_x.shape == (tasks, ways * shots, 8, 8)
    assert made.query_x.shape == (tasks, ways * queries, 8, 8)
    assert made.support_x.dtype == made.query_x.dtype == np.float32
    assert made.support_y.dtype == made.query_y.dtype == np.int64
    for support_x, support_y, query_x, query_y in zip(*made, strict=True):
        x, y = np.concatenate([support_x, query_x]), np.concatenate([support_y, query_y])
        np.testing.assert_array_equal(np.bincount(support_y), [shots] * ways)
        np.testing.assert_array_equal(np.bincount(query_y, minlength=ways), [queries] * ways)
        origins = [ORIGIN[image.tobytes()] for image in x]
        assert len({origin[:2] for origin in origins}) == len(x)
        classes = {(label, character, turns) for label, (character, _, turns) in zip(y, origins, strict=True)}
        assert len(classes) == len({character for _, character, _ in classes}) == ways
        assert {character for _, character, _ in classes} <= set(allowed)


def test_few_shot_tasks_use_every_character_drawing_and_rotation_alike():
    made = few_shot_tasks(NOISE, np.arange(9), np.random.default_rng(0), ways=3, shots=1, queries=1, tasks=3000)
    counts = np.zeros((9, 6, 4), int)
    for image in made.support_x.reshape(-1, 8, 8):
        counts[ORIGIN[image.tobytes()]] += 1
    for axes, cells in (((1, 2), 9), ((0, 2), 6), ((0, 1), 4)):
        expected = 9000 / cells
        assert (abs(counts.sum(axis=axes) - expected) < 5 * np.sqrt(expected)).all()


def test_the_classes_of_a_task_are_in_random_order_and_each_is_turned_and_drawn_on_its_own():
    made = few_shot_tasks(NOISE, np.arange(9), np.random.default_rng(0), ways=2, shots=1, queries=1, tasks=2000)
    origins = np.array([[ORIGIN[image.tobytes()] for image in task] for task in made.support_x])
    characters, drawings, turns = np.moveaxis(origins, -1, 0)
    assert np.mean(characters[:, 0] < characters[:, 1]) == pytest.approx(1 / 2, abs=0.06)
    for drawn, kinds in ((drawings, 6), (turns, 4)):
        assert np.mean(drawn[:, 0] == drawn[:, 1]) == pytest.approx(1 / kinds, abs=0.05)


@pytest.mark.parametrize(("ways", "shots", "queries"), [(10, 1, 1), (5, 4, 3)])
def test_more_than_there_is_is_refused(ways, shots, queries):
    with pytest.raises(ValueError, match=f"{ways} ways of {shots} \\+ {queries} drawings.*9 characters of 6 drawings"):
        few_shot_tasks(NOISE, np.arange(9), np.random.default_rng(0), ways, shots, queries, tasks=1)


@pytest.mark.parametrize("wrong", [{"ways": 0}, {"ways": -2}, {"shots": -1}, {"queries": -1}, {"tasks": -1}])
def test_counts_below_the_least_are_refused(wrong):
    counts = {"ways": 2, "shots": 1, "queries": 3, "tasks": 1} | wrong
    ((name, count),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} = {count}, expected [01] or more"):
        few_shot_tasks(NOISE, np.arange(9), np.random.default_rng(0), **counts)


@pytest.mark.parametrize("train", [-1, 1624])
def test_a_split_of_characters_that_there_are_not(train):
    with pytest.raises(ValueError, match=f"train = {train}, expected 0 to 1623 characters"):
        omniglot_split(np.random.default_rng(0), train)


def test_omniglot_makes_tasks():
    images, _ = omniglot()
    train, _ = omniglot_split(np.random.default_rng(0))
    made = few_shot_tasks(images, train, np.random.default_rng(1), ways=5, shots=1, queries=2, tasks=4)
    assert made.query_x.shape == (4, 10, 28, 28)
    assert set(np.unique(made.support_x)) == {0.0, 1.0}
