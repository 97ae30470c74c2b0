"""Whatever is done to a valid file, a reader gives the right content or DataError, never anything else."""

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymeta.data.embedded import Embedded
from tinymeta.data.errors import DataError, Source
from tinymeta.data.mnist import Original, read_originals
from tinymeta.data.readers import read_gzip, read_idx, read_npy
from tinymeta.data.zips import zip_members

SOURCE = Source("mutated")
IMAGES = np.arange(120, dtype=np.uint8).reshape(5, 4, 6) * 2
MANY = settings(max_examples=200)


@st.composite
def mutations(draw, raw):
    """`raw` after one to three blows: a changed byte, a cut end, bytes appended, a piece copied elsewhere or lost."""
    for _ in range(draw(st.integers(1, 3))):
        at, other = draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))
        piece = raw[other : other + draw(st.integers(1, 60))]
        new = draw(st.binary(min_size=1, max_size=20))
        blows = [
            raw[:at] + new[:1] + raw[at + 1 :],
            raw[:at],
            raw + new,
            raw[:at] + piece + raw[at:],
            raw[:at] + piece + raw[at + len(piece) :],
            raw[:at] + raw[at + len(piece) :],
        ]
        raw = draw(st.sampled_from(blows))
    return raw


def outcome(read, *arguments):
    """What `read` returns, or None if it refuses."""
    try:
        return read(*arguments)
    except DataError:
        return None


def npy(array):
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays):
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@MANY
@given(data=st.data())
def test_gzip(to_gzip, data):
    content = IMAGES.tobytes()
    read = outcome(read_gzip, data.draw(mutations(to_gzip(content))), SOURCE, len(content))
    assert read in (None, content)


@MANY
@given(data=st.data())
def test_idx(to_idx, data):
    valid = to_idx(IMAGES)
    raw = data.draw(mutations(valid))
    read = outcome(read_idx, raw, SOURCE, IMAGES.shape)
    assert (read is not None) == (len(raw) == len(valid) and raw[:16] == valid[:16])
    assert read is None or read.shape == IMAGES.shape
    assert read is None or read.tobytes() == raw[16:]  # IDX has no checksum


@MANY
@given(data=st.data())
def test_npy(data):
    raw = data.draw(mutations(npy(IMAGES)))
    read = outcome(read_npy, raw, SOURCE, IMAGES.shape)
    assert read is None or read.shape == IMAGES.shape
    assert read is None or read.tobytes() == raw[-IMAGES.size :]


@MANY
@given(data=st.data(), method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_zip(data, method):
    members = {"one/a.png": b"content" * 5, "two/b.png": bytes(40), "c": b"x"}
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    raw = data.draw(mutations(buffer.getvalue()))
    assert outcome(lambda: dict(zip_members(raw, SOURCE, 10, 1000))) in (None, members)


@MANY
@given(data=st.data())
def test_embedded_file(data):
    raw = data.draw(mutations(npz(x=IMAGES, y=IMAGES[0])))
    with TemporaryDirectory() as folder:
        path = Path(folder, "embedded.npz")
        path.write_bytes(raw)
        read = outcome(lambda: Embedded(path).array("x", IMAGES.shape))
    assert read is None or read.tobytes() == IMAGES.tobytes()


@MANY
@given(data=st.data(), victim=st.sampled_from([0, 1]))
def test_original_files(to_gzip, to_idx, data, victim):
    """The whole way from the folder to the arrays: here the SHA-256 leaves nothing but the right content."""
    arrays = [IMAGES, np.arange(5, dtype=np.uint8)]
    packed = [to_gzip(to_idx(array)) for array in arrays]
    originals = [
        Original(f"file{number}", len(raw), hashlib.sha256(raw).hexdigest(), array.shape, 255)
        for number, (array, raw) in enumerate(zip(arrays, packed, strict=True))
    ]
    packed[victim] = data.draw(mutations(packed[victim]))
    with TemporaryDirectory() as folder:
        for original, raw in zip(originals, packed, strict=True):
            Path(folder, original.file).write_bytes(raw)
        read = outcome(read_originals, Path(folder), originals, "fetch it again")
    assert read is None or [array.tobytes() for array in read] == [array.tobytes() for array in arrays]
