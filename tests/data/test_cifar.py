import hashlib
import importlib
import io
import re
import sys
import tarfile
from itertools import islice

import numpy as np
import pytest

from tinymeta.data import DataError, cifar10
from tinymeta.data.cifar import CLASSES, Archive, read_jpeg, read_original

module = importlib.import_module("tinymeta.data.cifar")
SIZES = {"train": 10, "test": 2}


def described(path):
    raw = path.read_bytes()
    return Archive(path.name, len(raw), hashlib.sha256(raw).hexdigest())


def write_tar(path, members):
    """An archive of (name, content), with a folder and a file that nobody wants."""
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
        for name, content in [("folder", None), *members, ("readme.html", b"")]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = (tarfile.DIRTYPE, 0) if content is None else (tarfile.REGTYPE, len(content))
            archive.addfile(entry, None if content is None else io.BytesIO(content))
    return described(path)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "SIZES", SIZES)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {split: (rng.integers(256, size=(n, 3, 32, 32)), np.arange(n) % 10) for split, n in SIZES.items()}


@pytest.fixture
def original(tmp_path, images):
    """(folder, archive) in the original layout: five batches of two, in an order that is not theirs, and the test batch."""
    batches = {}
    for split, names in module.BATCHES.items():
        x, y = images[split]
        records = np.column_stack([y, x.reshape(len(x), -1)]).astype(np.uint8)
        batches |= dict(zip(names, np.split(records, len(names)), strict=True))
    members = [(f"cifar-10-batches-bin/{name}", batches[name].tobytes()) for name in sorted(batches, reverse=True)]
    return tmp_path, write_tar(tmp_path / "cifar-10-binary.tar.gz", members)


@pytest.fixture
def jpeg(tmp_path, images):
    """(folder, archive) of JPEG files, each of one colour, which JPEG keeps."""
    image = pytest.importorskip("PIL.Image")
    members = []
    for split, (x, y) in images.items():
        x[...] = x[:, :, :1, :1]
        for i in reversed(range(len(x))):
            file = io.BytesIO()
            image.fromarray(x[i].transpose(1, 2, 0).astype(np.uint8)).save(file, "jpeg", quality=100, subsampling=0)
            members.append((f"{split}/{i:05d}_{CLASSES[y[i]]}.jpg", file.getvalue()))
    return tmp_path, write_tar(tmp_path / "cifar-10-jpeg.tar.xz", members)


# ---- the original ----


@pytest.mark.parametrize("split", SIZES)
def test_the_original_is_read_in_the_order_of_its_batches(original, images, split):
    found, (x, y) = read_original(*original, split, "fetch it"), images[split]
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert (found.x.dtype, found.y.dtype, found.lossy, found.source) == (np.uint8, np.uint8, False, "CIFAR-10")
    assert not found.x.flags.writeable
    assert not found.y.flags.writeable


def test_a_truncated_or_other_archive_is_refused_with_file_and_remedy(original):
    folder, archive = original
    path = folder / archive.file
    valid = path.read_bytes()
    cases = [
        (valid[:-1], f": found {len(valid) - 1} bytes with SHA-256"),
        (valid + b"x", f", offset {len(valid)}: found more bytes"),
        (valid[:-1] + b"x", f": found {len(valid)} bytes with SHA-256"),
    ]
    for raw, message in cases:
        path.write_bytes(raw)
        with pytest.raises(DataError, match=f"^{re.escape(str(path) + message)}.*; fetch it$"):
            read_original(folder, archive, "train", "fetch it")


# ---- the copy in JPEG files ----


@pytest.mark.parametrize("split", SIZES)
def test_jpeg_files_are_decoded_once_and_say_that_they_are_lossy(jpeg, images, tmp_path, monkeypatch, split):
    folder, archive = jpeg
    first = read_jpeg(folder, archive, split, tmp_path / "cache", "fetch it")
    x, y = images[split]
    assert np.abs(first.x.astype(int) - x).max() <= 2
    np.testing.assert_array_equal(first.y, y)
    assert (first.lossy, first.source) == (True, "CIFAR-10, JPEG-compressed copy")
    monkeypatch.setitem(sys.modules, "PIL", None)
    again = read_jpeg(folder, archive, split, tmp_path / "cache", "fetch it")
    np.testing.assert_array_equal(again.x, first.x)
    assert not again.x.flags.writeable
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_decoding_that_is_cut_off_leaves_nothing_behind(jpeg, tmp_path, monkeypatch):
    folder, archive = jpeg

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(module.np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        read_jpeg(folder, archive, "test", tmp_path / "cache", "fetch it")
    assert list((tmp_path / "cache").iterdir()) == []


def test_damaged_arrays_in_the_cache_are_refused(jpeg, tmp_path):
    folder, archive = jpeg
    read_jpeg(folder, archive, "test", tmp_path / "cache", "fetch it")
    (kept,) = (tmp_path / "cache").iterdir()
    valid = kept.read_bytes()
    with np.load(kept) as arrays:
        other = {"x": arrays["x"][:1], "y": arrays["y"]}
    middle = len(valid) // 2
    for damage in (valid[:-1], valid[:middle] + bytes([valid[middle] ^ 1]) + valid[middle + 1 :], valid[:middle]):
        kept.write_bytes(damage)
        with pytest.raises(DataError, match=r"delete this file to have it made again$"):
            read_jpeg(folder, archive, "test", tmp_path / "cache", "fetch it")
    for arrays, message in [(other, "NPY header"), ({"x": other["y"]}, "the members")]:
        np.savez(kept, **arrays)
        with pytest.raises(DataError, match=message):
            read_jpeg(folder, archive, "test", tmp_path / "cache", "fetch it")


def test_without_pillow_one_sentence_says_what_to_do(jpeg, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'needs Pillow: pip install "tinymeta\[images\]", or put') as caught:
        read_jpeg(*jpeg, "test", tmp_path / "cache", "fetch it")
    assert caught.value.name == "PIL"


# ---- where they are found ----


def place(monkeypatch, tmp_path, **archives):
    """$TINYMETA_DATA with the archives in its folder cifar10; the user's cache in another folder."""
    (tmp_path / "cifar10").mkdir()
    for name, (folder, archive) in archives.items():
        (folder / archive.file).rename(tmp_path / "cifar10" / archive.file)
        monkeypatch.setattr(module, name, archive)
    monkeypatch.setenv("TINYMETA_DATA", str(tmp_path))
    monkeypatch.setattr(module, "cache_folder", lambda name: tmp_path / "cache" / name)


def test_the_original_is_preferred_to_the_copy(original, jpeg, monkeypatch, tmp_path):
    place(monkeypatch, tmp_path, ORIGINAL=original, JPEG=jpeg)
    assert not cifar10("test").lossy
    assert not (tmp_path / "cache").exists()
    assert cifar10("test").x is cifar10("test").x


def test_the_copy_is_taken_where_there_is_no_original(jpeg, monkeypatch, tmp_path):
    place(monkeypatch, tmp_path, JPEG=jpeg)
    assert cifar10("test").lossy
    assert (tmp_path / "cache" / "cifar10").is_dir()


def test_an_empty_folder_is_refused_and_nothing_fetched(monkeypatch, tmp_path):
    place(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz: found No such file.*unset TINYMETA_DATA"):
        cifar10()


def test_without_a_folder_the_original_is_fetched(original, images, serve, monkeypatch, tmp_path):
    folder, archive = original
    monkeypatch.delenv("TINYMETA_DATA", raising=False)
    monkeypatch.setattr(module, "ORIGINAL", archive)
    monkeypatch.setattr(module, "MIRRORS", (serve(folder),))
    monkeypatch.setattr(module, "cache_folder", lambda name: tmp_path / "cache" / name)
    module._load.cache_clear()
    np.testing.assert_array_equal(cifar10("test").x, images["test"][0])
    assert (tmp_path / "cache" / "cifar10" / archive.file).exists()
    module._load.cache_clear()


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split is 'valid', expected one of"):
        cifar10("valid")


def test_the_known_copy_begins_with_the_published_images(originals, monkeypatch):
    """The first ten images of the real archive: their labels, and the published pixel of the first to JPEG's error."""
    path = originals / "cifar10" / module.JPEG.file
    if not path.exists():
        pytest.skip("cifar10/cifar-10-jpeg.tar.xz is not in TINYMETA_DATA")
    members = module._members
    monkeypatch.setattr(module, "_members", lambda raw, wanted: islice(members(raw, wanted), 10))
    x, y = module._decoded(path.read_bytes(), "train")
    assert y.tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    np.testing.assert_allclose(x[0, :, 0, 0], (59, 62, 63), atol=12)
    assert len(path.read_bytes()) == module.JPEG.size
