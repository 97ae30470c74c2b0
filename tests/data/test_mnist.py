import hashlib
import importlib
import re

import numpy as np
import pytest

from tinymeta.data import Images, mnist, mnist_subset
from tinymeta.data.errors import DataError
from tinymeta.data.mnist import ORIGINALS, SUBSET_SIZES, Original, read_originals

module = importlib.import_module("tinymeta.data.mnist")
PER_DIGIT = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
MEAN_PIXEL = {"train": 33.318421, "test": 33.791224}


@pytest.mark.parametrize("split", ["train", "test"])
def test_subset_is_balanced(split):
    x, y = mnist_subset(split)
    assert (x.shape, x.dtype) == ((SUBSET_SIZES[split], 28, 28), np.uint8)
    assert (y.shape, y.dtype) == ((SUBSET_SIZES[split],), np.uint8)
    np.testing.assert_array_equal(np.bincount(y), [SUBSET_SIZES[split] // 10] * 10)
    assert abs(x.mean() - MEAN_PIXEL[split]) < 1
    assert len(set(map(bytes, x.reshape(len(x), -1)))) == len(x)


def test_subset_is_shared_and_read_only():
    subset = mnist_subset("train")
    assert subset.x is mnist_subset().x
    for array in subset:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_image_of_the_subset_is_in_the_original_with_the_same_label(originals, split):
    full, subset = mnist(split), mnist_subset(split)
    known = {image.tobytes(): label for image, label in zip(*full, strict=True)}
    assert all(known.get(image.tobytes()) == label for image, label in zip(*subset, strict=True))


@pytest.mark.parametrize("split", ["train", "test"])
def test_full_set_is_the_published_one(originals, split):
    x, y = mnist(split)
    assert x.shape == (len(y), 28, 28)
    assert y[:5].tolist() == {"train": [5, 0, 4, 1, 9], "test": [7, 2, 1, 0, 4]}[split]
    np.testing.assert_array_equal(np.bincount(y), PER_DIGIT[split])
    assert round(float(x.mean()), 6) == MEAN_PIXEL[split]
    assert not x.flags.writeable
    assert mnist(split).x is x


@pytest.mark.parametrize("load", [mnist, mnist_subset])
def test_unknown_split_is_refused(load):
    with pytest.raises(ValueError, match="split is 'valid', expected one of"):
        load("valid")


def test_missing_file_in_the_users_folder_is_refused_and_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYMETA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"mnist.t10k-images-idx3-ubyte.gz: found No such file.*unset TINYMETA_DATA"):
        mnist("test")


@pytest.fixture
def small(tmp_path, to_gzip, to_idx):
    """A folder with two original files of three images, what they hold, and their description."""
    images = Images(np.arange(36, dtype=np.uint8).reshape(3, 3, 4), np.array([0, 9, 4], np.uint8))
    described = []
    for file, array, max_value in zip(("images", "labels"), images, (255, 9), strict=True):
        raw = to_gzip(to_idx(array))
        (tmp_path / file).write_bytes(raw)
        described.append(Original(file, len(raw), hashlib.sha256(raw).hexdigest(), array.shape, max_value))
    return tmp_path, images, described


def test_originals_are_read(small):
    folder, images, described = small
    for read, expected in zip(read_originals(folder, described, "fetch it"), images, strict=True):
        np.testing.assert_array_equal(read, expected)


def test_wrong_originals_are_refused_with_file_offset_and_remedy(small, to_gzip, to_idx):
    folder, images, described = small
    labels = folder / "labels"
    valid = labels.read_bytes()
    other_labels, one_label_less = images.y[::-1], images.y[:2]
    cases = [
        (valid[:-1], f", offset {len(valid) - 1}: found the end of the file"),
        (valid + b"x", f", offset {len(valid)}: found more bytes"),
        (b"x" * 20, ", offset 0: found bad gzip data"),
        (to_gzip(to_idx(one_label_less)), ", offset 4: found length of axis 0 2, expected 3"),
        (to_gzip(to_idx(np.array([0, 9, 10]))), ", offset 10: found the value 10, expected 9 at most"),
        (to_gzip(to_idx(other_labels)), f": found {len(valid)} bytes with SHA-256"),
    ]
    for raw, message in cases:
        labels.write_bytes(raw)
        with pytest.raises(DataError, match=f"^{re.escape(str(labels) + message)}.*; fetch it$"):
            read_originals(folder, described, "fetch it")
    (folder / "images").write_bytes(valid)
    with pytest.raises(DataError, match=r"images, offset 0: found IDX magic 2049, expected 2051; fetch it$"):
        read_originals(folder, described, "fetch it")


def test_without_a_folder_the_originals_are_fetched(small, serve, monkeypatch, tmp_path):
    folder, images, described = small
    monkeypatch.delenv("TINYMETA_DATA", raising=False)
    monkeypatch.setattr(module, "MIRRORS", (serve(folder),))
    monkeypatch.setattr(module, "cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setitem(ORIGINALS, "small", described)
    for read, expected in zip(mnist("small"), images, strict=True):
        np.testing.assert_array_equal(read, expected)
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == ["images", "labels"]
