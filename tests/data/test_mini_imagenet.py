"""The lists against the originals, and images of a folder as a user would have it, drawn for the occasion."""

import csv

import numpy as np
import pytest
from PIL import Image

from tinymeta.data import DataError, image_tasks, mini_imagenet, mini_imagenet_lists

LISTS = {
    "train": {f"n0000000{c}": tuple(f"n0000000{c}{i:08d}" for i in range(4)) for c in range(3)},
    "validation": {"n00000005": tuple(f"n00000005{i:08d}" for i in range(4))},
    "test": {"n00000006": tuple(f"n00000006{i:08d}" for i in range(4))},
}


def pixel(label, number):
    """The colour of a drawn image: its class in red, its number in green."""
    return int(label[-1]) * 20, number * 30, 200


@pytest.fixture
def folder(tmp_path):
    """Some images side by side, some in a folder of their class, one of another size and mode."""
    for split, classes in LISTS.items():
        for label, names in classes.items():
            root = tmp_path / label if split == "train" else tmp_path
            root.mkdir(exist_ok=True)
            for i, name in enumerate(names):
                Image.new("RGB", (30, 20) if i else (12, 12), pixel(label, i)).save(root / f"{name}.png")
    return tmp_path


def test_the_lists_are_the_published_ones(originals):
    lists = mini_imagenet_lists()
    for split, file in (("train", "train.csv"), ("validation", "val.csv"), ("test", "test.csv")):
        with open(originals / "mini-imagenet" / file) as lines:
            rows = list(csv.DictReader(lines))
        found = [(f"{name}.jpg", label) for label, names in lists[split].items() for name in names]
        assert found == [(row["filename"], row["label"]) for row in rows]


def test_the_lists_have_100_classes_that_share_nothing():
    lists = mini_imagenet_lists()
    assert {split: len(classes) for split, classes in lists.items()} == {"train": 64, "validation": 16, "test": 20}
    names = [name for classes in lists.values() for images in classes.values() for name in images]
    assert len(set(names)) == len(names) == 60_000


def test_images_are_read_resized_and_kept(folder):
    found = mini_imagenet(folder, side=12, lists=LISTS)
    assert [len(part) for part in found] == [3, 1, 1]
    for index, label in enumerate(LISTS["train"]):
        images = found.train.images(index)
        assert (images.shape, images.dtype) == ((4, 3, 12, 12), np.uint8)
        for i in range(4):
            np.testing.assert_array_equal(images[i, :, 5, 7], pixel(label, i))
        assert found.train.images(index) is images
        assert not images.flags.writeable


def test_tasks(folder):
    classes = mini_imagenet(folder, side=12, lists=LISTS).train
    (x, y), (query_x, query_y) = image_tasks(classes, np.random.default_rng(0), ways=2, shots=1, queries=3, tasks=5)
    assert x.shape == (5, 2, 3, 12, 12)
    assert query_x.shape == (5, 6, 3, 12, 12)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(query_y, np.tile([0, 0, 0, 1, 1, 1], (5, 1)))
    red, green = (np.round(255 * np.concatenate([x, query_x], 1)[:, :, c, 0, 0]).astype(int) for c in (0, 1))
    for t in range(5):
        of_class = [red[t][np.concatenate([y[t], query_y[t]]) == label] for label in (0, 1)]
        assert [len(set(reds)) for reds in of_class] == [1, 1]
        assert of_class[0][0] != of_class[1][0]
        assert len(set(zip(red[t], green[t], strict=True))) == 8  # no image twice
    again = image_tasks(classes, np.random.default_rng(0), 2, 1, 3, 5)
    np.testing.assert_array_equal(again[0][0], x)


def test_pixels_are_shares_of_255_and_each_image_comes_up_in_both_sets_under_each_label(folder):
    classes = mini_imagenet(folder, side=12, lists=LISTS).train
    sets = image_tasks(classes, np.random.default_rng(0), ways=2, shots=1, queries=1, tasks=200)
    wanted = {(way, *pixel(label, i)) for way in (0, 1) for label in LISTS["train"] for i in range(4)}
    for x, y in sets:
        colours = 255 * x[..., 5, 7]
        np.testing.assert_allclose(colours, np.round(colours), atol=1e-3)
        found = np.column_stack([y.ravel(), np.round(colours).reshape(-1, 3)]).astype(int)
        assert set(map(tuple, found.tolist())) == wanted


@pytest.mark.parametrize(("ways", "shots", "queries"), [(4, 1, 1), (2, 3, 2)])
def test_more_than_there_is(folder, ways, shots, queries):
    classes = mini_imagenet(folder, side=12, lists=LISTS).train
    with pytest.raises(ValueError, match=r"were asked for, but there are 3 classes of 4 images or more"):
        image_tasks(classes, np.random.default_rng(0), ways, shots, queries, 1)


@pytest.mark.parametrize("wrong", [{"ways": -2}, {"shots": -1}, {"queries": -1}, {"tasks": -1}])
def test_counts_below_the_least_are_refused(folder, wrong):
    classes = mini_imagenet(folder, 12, LISTS).train
    counts = {"ways": 2, "shots": 1, "queries": 3, "tasks": 1} | wrong
    ((name, count),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} = {count}, expected [01] or more"):
        image_tasks(classes, np.random.default_rng(0), **counts)


def test_no_tasks_have_the_shapes_of_some(folder):
    classes = mini_imagenet(folder, 12, LISTS).train
    (x, y), (query_x, _) = image_tasks(classes, np.random.default_rng(0), 2, 1, 3, 0)
    assert (x.shape, y.shape, query_x.shape) == ((0, 2, 3, 12, 12), (0, 2), (0, 6, 3, 12, 12))


def test_the_lists_can_not_be_changed():
    lists = mini_imagenet_lists()
    with pytest.raises(TypeError):
        lists["train"] = {}
    with pytest.raises(TypeError):
        lists["train"]["n01532829"] = ()


def test_a_missing_image_is_named_before_any_is_read(folder):
    next(folder.rglob("n0000000600000002.png")).unlink()
    with pytest.raises(
        DataError, match=r"found 19 of the 20 listed images \(n0000000600000002\.jpg is not among them\)"
    ):
        mini_imagenet(folder, lists=LISTS)


def test_no_folder(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none: found no such folder.*each user brings"):
        mini_imagenet(tmp_path / "none")
    monkeypatch.setenv("TINYMETA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"mini-imagenet.images: found no such folder"):
        mini_imagenet()
    monkeypatch.delenv("TINYMETA_DATA")
    with pytest.raises(DataError, match=r"found no folder, expected a folder of its images, or TINYMETA_DATA set"):
        mini_imagenet()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_image_is_named(folder, content):
    path = next(folder.rglob("n0000000600000002.png"))
    path.write_bytes(content)
    with pytest.raises(
        DataError,
        match=r"n0000000600000002\.png: found .*, expected an intact image of 8 bits a channel; replace this file",
    ):
        mini_imagenet(folder, lists=LISTS).test.images(0)


def test_a_truncated_image_is_named(folder):
    path = next(folder.rglob("n0000000600000001.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"expected an intact image"):
        mini_imagenet(folder, lists=LISTS).test.images(0)


def test_an_image_of_more_than_8_bits_is_refused(folder):
    """Pillow would make white of it."""
    path = next(folder.rglob("n0000000600000001.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (40, 40), np.uint16)).save(path)
    with pytest.raises(
        DataError, match=r"found mode 'I;16', more than 8 bits a channel, expected an intact image of 8 bits"
    ):
        mini_imagenet(folder, lists=LISTS).test.images(0)


def test_suffixes_in_any_case_and_links_to_folders(folder, tmp_path_factory):
    for path in [*folder.rglob("*.png")][::2]:
        path.rename(path.with_suffix(".PNG"))
    away = tmp_path_factory.mktemp("elsewhere") / "class"
    (folder / "n00000001").rename(away)
    (folder / "n00000001").symlink_to(away)
    for name in ("round", "and round"):
        (folder / name).symlink_to(folder)
    assert mini_imagenet(folder, side=12, lists=LISTS).train.images(1).shape == (4, 3, 12, 12)


def test_without_pillow(monkeypatch, folder):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'needs Pillow: pip install "tinymeta\[images\]"'):
        mini_imagenet(folder, lists=LISTS)


def test_two_images_of_one_name_are_refused(folder):
    name = LISTS["test"]["n00000006"][0]
    (folder / "thumbs").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "thumbs" / f"{name}.jpg")
    Image.new("RGB", (8, 8)).save(folder / "thumbs" / "of-no-list.jpg")
    Image.new("RGB", (8, 8)).save(folder / "of-no-list.jpg")
    with pytest.raises(
        DataError, match=rf"thumbs.{name}\.jpg: found an image of the same name as .*{name}\.png, expected each"
    ):
        mini_imagenet(folder, lists=LISTS)
    (folder / "thumbs" / f"{name}.jpg").unlink()
    (folder / "thumbs" / f"{name}.png").symlink_to(folder / f"{name}.png")
    assert len(mini_imagenet(folder, lists=LISTS).test) == 1
