import gzip
import re
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinymeta.data.errors import DataError, Source
from tinymeta.data.readers import CHUNK, read_file, read_gzip, read_idx, read_npy, verify_sha256

SOURCE = Source("some/file", "fetch it again")
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def refused(message, offset=None):
    """What `pytest.raises` expects: the sentence with file, offset, both sides and the remedy."""
    where = "some/file" if offset is None else f"some/file, offset {offset}"
    return pytest.raises(DataError, match=f"^{re.escape(where)}: found .*{message}.*; fetch it again$")


def test_error_says_everything_and_keeps_it_apart():
    error = SOURCE.refuse("this", "that", 7)
    assert str(error) == "some/file, offset 7: found this, expected that; fetch it again"
    assert (error.file, error.offset) == ("some/file", 7)
    assert str(SOURCE.member("x").refuse("this", "that")).startswith("some/file[x]: found this")
    assert isinstance(error, ValueError)


def test_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(Source(str(path)), max_bytes=5) == b"12345"
    with pytest.raises(DataError, match="offset 4: found more bytes, expected the end"):
        read_file(Source(str(path)), max_bytes=4)


@pytest.mark.parametrize("name", ["missing", "."])
def test_unreadable_file_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"(No such file|directory).*expected a readable file; fetch"):
        read_file(Source(str(tmp_path / name), "fetch it"), max_bytes=4)


def test_sha256_is_compared():
    verify_sha256(b"abc", SOURCE, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with refused("3 bytes with SHA-256 ba7816bf.*expected the original with SHA-256 00"):
        verify_sha256(b"abc", SOURCE, "00")


@given(content=st.binary(max_size=3 * CHUNK), level=st.sampled_from([0, 6, 9]))
def test_gzip_content_returns(content, level):
    assert read_gzip(gzip.compress(content, level, mtime=0), SOURCE, max_bytes=len(content)) == content


@pytest.fixture(scope="module")
def packed():
    """A gzip file of several chunks: noise is not compressed."""
    return gzip.compress(np.random.default_rng(0).bytes(3 * CHUNK), mtime=0)


def test_gzip_refuses_a_truncated_file(packed):
    for end in (0, 5, CHUNK, len(packed) - 1):
        with refused("the end of the file, expected the rest", end):
            read_gzip(packed[:end], SOURCE, 3 * CHUNK)


def test_gzip_refuses_what_is_not_gzip():
    with refused("bad gzip data .*incorrect header", 0):
        read_gzip(b"no gzip at all", SOURCE, 100)
    with refused("bad gzip data", 0):
        read_gzip(zlib.compress(b"zlib"), SOURCE, 100)


def test_gzip_refuses_a_wrong_checksum_and_a_wrong_length(packed):
    for at, message in ((-8, "incorrect data check"), (-4, "incorrect length check")):
        damaged = bytearray(packed)
        damaged[at] ^= 1
        with refused(message, len(packed) // CHUNK * CHUNK):
            read_gzip(bytes(damaged), SOURCE, 3 * CHUNK)


@pytest.mark.parametrize("rest", [b"x", b"\0" * 2 * CHUNK, gzip.compress(b"a second member", mtime=0)])
def test_gzip_refuses_bytes_after_the_data(packed, rest):
    with refused(f"{len(rest)} bytes after the gzip data", len(packed)):
        read_gzip(packed + rest, SOURCE, 3 * CHUNK)


def test_gzip_refuses_a_bomb_after_its_first_chunk():
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    with refused("more content, expected 1000 bytes of content at most", 0):
        read_gzip(bomb, SOURCE, 1000)


@given(array=arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_idx_array_returns(to_idx, array):
    read = read_idx(to_idx(array), SOURCE, array.shape)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8
    assert not read.flags.writeable


@pytest.mark.parametrize("end", [0, 3, 4, 15, 16, 39])
def test_idx_refuses_truncated_data(to_idx, end):
    with refused("the end of the data", end):
        read_idx(to_idx(IMAGES)[:end], SOURCE, IMAGES.shape)


def test_idx_refuses_oversized_data(to_idx):
    with refused("2 bytes more, expected the end", 40):
        read_idx(to_idx(IMAGES) + b"xx", SOURCE, IMAGES.shape)


def test_idx_refuses_labels_for_images_and_images_for_labels(to_idx):
    with refused("IDX magic 2049, expected 2051", 0):
        read_idx(to_idx(np.zeros(99)), SOURCE, IMAGES.shape)
    with refused("IDX magic 2051, expected 2049", 0):
        read_idx(to_idx(IMAGES), SOURCE, (2,))


def test_idx_refuses_another_type():
    with refused("IDX magic 3331, expected 2051", 0):  # 0x0D03: float32
        read_idx(b"\0\0\x0d\3" + bytes(36), SOURCE, IMAGES.shape)


@pytest.mark.parametrize(("shape", "axis"), [((3, 3, 4), 0), ((2, 4, 4), 1), ((2, 3, 3), 2)])
def test_idx_refuses_another_shape(to_idx, shape, axis):
    with refused(f"length of axis {axis} {IMAGES.shape[axis]}, expected {shape[axis]}", 4 + 4 * axis):
        read_idx(to_idx(IMAGES), SOURCE, shape)


def test_idx_refuses_a_value_above_the_highest(to_idx):
    labels = np.array([0, 9, 10, 3])
    with refused("the value 10, expected 9 at most", 10):
        read_idx(to_idx(labels), SOURCE, (4,), max_value=9)
    assert read_idx(to_idx(labels), SOURCE, (4,), max_value=10).max() == 10


def to_npy(array):
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@given(array=arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_npy_array_returns(array):
    read = read_npy(to_npy(array), SOURCE, array.shape)
    np.testing.assert_array_equal(read, array)
    assert not read.flags.writeable


@pytest.mark.parametrize(
    "array",
    [IMAGES[:1], IMAGES.astype(np.int8), IMAGES.astype(np.float64), np.asfortranarray(IMAGES), np.array([None] * 24)],
    ids=["shape", "signed", "float", "order", "pickle"],
)
def test_npy_refuses_any_other_header(array):
    with refused("the NPY header", 10):
        read_npy(to_npy(array), SOURCE, IMAGES.shape)


def test_npy_refuses_damage():
    raw = to_npy(IMAGES)
    with refused("expected the NPY magic", 0):
        read_npy(b"x" + raw, SOURCE, IMAGES.shape)
    with refused("the NPY header ''", 10):
        read_npy(raw[:8], SOURCE, IMAGES.shape)
    with refused("the end of the data", len(raw) - 1):
        read_npy(raw[:-1], SOURCE, IMAGES.shape)
    with refused("1 bytes more", len(raw)):
        read_npy(raw + b"x", SOURCE, IMAGES.shape)
