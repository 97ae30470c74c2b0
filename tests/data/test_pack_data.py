"""The packing script, and what it packed: the embedded files against their record and against the originals."""

import hashlib
import json
import runpy
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinymeta.data import Images, omniglot
from tinymeta.data.embedded import MAX_BYTES, Embedded
from tinymeta.data.errors import DataError, Source
from tinymeta.data.mini_imagenet import EMBEDDED as MINI_IMAGENET_FILE
from tinymeta.data.mnist import EMBEDDED as MNIST_FILE
from tinymeta.data.omniglot import EMBEDDED as OMNIGLOT_FILE

SCRIPT = Path(__file__).parents[2] / "tools" / "pack_data.py"
script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
FILES = [MNIST_FILE, OMNIGLOT_FILE, MINI_IMAGENET_FILE]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_embedded_content_has_its_recorded_sha256(path):
    members = Embedded(path).members
    record = json.loads(members.pop("provenance.json"))
    assert record["packed_by"] == "tools/pack_data.py"
    assert {name: hashlib.sha256(content).hexdigest() for name, content in members.items()} == record["members_sha256"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_numpy_reads_the_embedded_files_without_pickle(path):
    embedded = Embedded(path)
    with np.load(path, allow_pickle=False) as arrays:
        for name in (name for name in arrays.files if "." not in name):
            np.testing.assert_array_equal(embedded.array(name, arrays[name].shape), arrays[name])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_damaged_installed_file_is_refused(path, tmp_path):
    raw = path.read_bytes()
    copy = tmp_path / path.name
    flipped = raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:]
    for wrong in (raw[:-1], raw[: len(raw) // 2], flipped, raw + b"x", b"", raw + bytes(MAX_BYTES)):
        copy.write_bytes(wrong)
        with pytest.raises(DataError, match=f"{path.name}.*; install tinymeta again"):
            Embedded(copy)


def test_embedded_file_without_the_member_is_refused(tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(script.npz({"text.txt": "é".encode()}, {}))
    with pytest.raises(DataError, match=r"found the members \['provenance.json', 'text.txt'\], expected x.npy"):
        Embedded(path).array("x", (1,))
    with pytest.raises(DataError, match=r"file.npz\[text.txt\]: found other characters, expected ASCII"):
        Embedded(path).text("text.txt")


def test_choice_is_balanced_in_order_and_seeded():
    y = np.tile(np.arange(10, dtype=np.uint8), 9)
    full = Images(np.arange(90, dtype=np.uint8), y)

    def choose(seed):
        return script.choose_balanced(full, 4, np.random.default_rng(seed))

    chosen = choose(0)
    np.testing.assert_array_equal(np.bincount(chosen.y), [4] * 10)
    np.testing.assert_array_equal(chosen.y, chosen.x % 10)
    assert (np.diff(chosen.x.astype(int)) > 0).all()
    np.testing.assert_array_equal(chosen.x, choose(0).x)
    assert not np.array_equal(chosen.x, choose(1).x)


def to_png(ink):
    buffer = BytesIO()
    Image.fromarray(~ink).save(buffer, "png")
    return buffer.getvalue()


def test_shrinking_inverts_and_keeps_the_place():
    ink = np.zeros((105, 105), bool)
    ink[15:30, 60:75] = True  # 105 / 28 = 3.75 pixels in one
    expected = np.zeros((28, 28), bool)
    expected[4:8, 16:20] = True
    np.testing.assert_array_equal(script.shrink(to_png(ink)), expected)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_shrinking_keeps_strokes_of_four_pixels_connected(slope):
    """The pen of Omniglot is about that thick."""
    down, across = np.mgrid[:105, :105]
    for start in np.linspace(2, 20, 10):
        stroke = abs(down - slope * across - start) <= 2 * np.hypot(1, slope)
        assert pieces(script.shrink(to_png(stroke))) == 1


def test_archives_do_not_depend_on_the_clock(monkeypatch):
    one = script.npz({"a.txt": b"content"}, {"seed": 0})
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "localtime", lambda *when: time.gmtime(0))
    assert script.npz({"a.txt": b"content"}, {"seed": 0}) == one


@pytest.mark.parametrize(
    ("path", "content"), [(MNIST_FILE, "mnist_content"), (MINI_IMAGENET_FILE, "mini_imagenet_content")]
)
def test_packed_is_what_the_script_packs(originals, path, content):
    members, provenance = getattr(script, content)(originals)
    packed = Embedded(path).members
    record = json.loads(packed.pop("provenance.json"))
    assert packed == members
    assert record == record | provenance


def test_packed_omniglot_is_the_original(originals):
    """Every 60th drawing: the same as packed now, and no stroke falls apart."""
    images, characters = omniglot()
    drawings = {}
    for file, sha256 in script.OMNIGLOT_ZIPS.items():
        drawings |= script.read_drawings(Source(str(originals / "omniglot" / file)), sha256)
    assert len(drawings) == 32_460
    broken = 0
    for number, (name, png) in list(enumerate(drawings.items()))[::60]:
        character, drawing = divmod(number, 20)
        assert f"/{characters[character]}/" in name
        assert name.endswith(f"_{drawing + 1:02}.png")
        small = images[character, drawing]
        np.testing.assert_array_equal(script.shrink(png), small)
        broken += pieces(small) > pieces(~np.asarray(Image.open(BytesIO(png))))
    assert broken <= 2


def test_wrong_omniglot_zip_is_refused(tmp_path):
    path = tmp_path / "images_background.zip"
    path.write_bytes(script.npz({"images_background/A/character01/0001_01.png": b"png"}, {}))
    with pytest.raises(DataError, match="found 1 drawings with SHA-256"):
        script.read_drawings(Source(str(path)), script.OMNIGLOT_ZIPS[path.name])


def test_licences_travel_along():
    text = MNIST_FILE.with_name("LICENSES.md").read_text(encoding="utf-8")
    for words in ("mnist_subset.npz", "CC BY-SA 3.0", "omniglot.npz", "Copyright (c) 2015 Brenden Lake", "MIT",
                  "mini_imagenet.npz", "Copyright (c) 2016 Twitter, Inc."):  # fmt: skip
        assert words in text


def pieces(ink):
    """How many 8-connected pieces the ink has."""
    left, count = set(zip(*np.nonzero(ink), strict=True)), 0
    while left:
        count, edge = count + 1, [left.pop()]
        while edge:
            row, column = edge.pop()
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
    return count
