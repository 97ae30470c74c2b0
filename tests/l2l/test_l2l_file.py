"""l2l.LSTMOptimizer.save and load: a round trip, and one kind of error for every file that is not one."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from l2l import settings

from tinymeta import l2l, trees


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("optimizers")


def saved(path, **changes):
    """The optimizer that was saved at `path`."""
    optimizer = settings.optimizer(np.random.default_rng(0), hidden=(2,), **changes)
    optimizer.save(path, seed=7)
    return optimizer


def rewritten(path, header=lambda h: h, arrays=lambda a: a):
    """A file that `save` could have written, with another header or other arrays."""
    saved(path)
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files}
    changed = header(json.loads(str(entries.pop("header"))))
    np.savez(path, header=np.array(json.dumps(changed)), **arrays(entries))


@pytest.mark.parametrize("hidden", [(), (3,), (4, 2)])
@pytest.mark.parametrize("p", [None, 5.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loaded_optimizer_is_the_saved_one_bit_for_bit(tmp_path, hidden, p, dtype):
    optimizer = settings.optimizer(np.random.default_rng(0), hidden, 0.25, p, dtype)
    optimizer.save(tmp_path / "o.npz", seed=3, result={"loss": 0.1})
    loaded = l2l.LSTMOptimizer.load(tmp_path / "o.npz")
    assert (loaded.scale, loaded.p) == (0.25, p)
    assert len(loaded.weights.layers) == len(hidden)
    for (path, a), (_, b) in zip(trees.items(loaded.weights), trees.items(optimizer.weights), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        np.testing.assert_array_equal(a, b)
    g = np.random.default_rng(1).normal(size=4).astype(dtype)
    np.testing.assert_array_equal(loaded.update(g, loaded.init(g))[0], optimizer.update(g, optimizer.init(g))[0])


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64])
def test_settings_may_be_numpys_numbers(tmp_path, number):
    saved(tmp_path / "o.npz", scale=number(2), p=number(10))
    loaded = l2l.LSTMOptimizer.load(tmp_path / "o.npz")
    assert (loaded.scale, loaded.p) == (2.0, 10.0)


@pytest.mark.parametrize("name", ["o.npz", "o", "o.weights"])
def test_a_file_is_found_under_the_name_it_was_saved_under(tmp_path, name):
    optimizer = saved(tmp_path / name)
    assert l2l.LSTMOptimizer.load(tmp_path / name).scale == optimizer.scale
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_compressed_and_one_that_is_not_loads_the_same(tmp_path):
    optimizer = settings.optimizer(np.random.default_rng(0), (20, 20), dtype=np.float32)
    optimizer.save(tmp_path / "o.npz", config={"setting": list(range(100))})
    with np.load(tmp_path / "o.npz") as file:
        entries = {name: file[name] for name in file.files}
    np.savez(tmp_path / "plain.npz", **entries)
    with zipfile.ZipFile(tmp_path / "o.npz") as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_DEFLATED}
    assert (tmp_path / "o.npz").stat().st_size < 0.9 * (tmp_path / "plain.npz").stat().st_size
    plain = l2l.LSTMOptimizer.load(tmp_path / "plain.npz")
    for a, b in zip(trees.leaves(plain.weights), trees.leaves(optimizer.weights), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_holds_no_pickle(tmp_path):
    saved(tmp_path / "o.npz")
    with zipfile.ZipFile(tmp_path / "o.npz") as file:
        for name in file.namelist():
            np.lib.format.read_array(io.BytesIO(file.read(name)), allow_pickle=False)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        l2l.LSTMOptimizer.load(tmp_path / "nothing.npz")


def refused(path):
    sentence = rf"^{re.escape(str(path))} (is not a saved LSTMOptimizer, or it is damaged|has format)"
    with pytest.raises(ValueError, match=sentence):
        l2l.LSTMOptimizer.load(path)


def test_no_advice_to_trust_the_file_is_given(tmp_path):
    """NumPy's, of a file that is no archive: to load it as a pickle."""
    (tmp_path / "o.npz").write_text("hi")
    with pytest.raises(ValueError, match=r"it is damaged \(File is not a zip file\); save it again"):
        l2l.LSTMOptimizer.load(tmp_path / "o.npz")


def loaded_or_refused(path):
    """The optimizer, or None if it was refused by name; any other error comes out."""
    try:
        return l2l.LSTMOptimizer.load(path)
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))
    return None


@given(keep=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_by_name(folder, keep):
    path = folder / "truncated.npz"
    saved(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    refused(path)


@given(content=st.binary(max_size=200) | st.just(b"PK\x03\x04") | st.just(b"\x93NUMPY") | st.just(b"\x80\x04N."))
def test_another_file_is_refused_by_name(folder, content):
    path = folder / "other.npz"
    path.write_bytes(content)
    refused(path)


@hypothesis_settings(max_examples=200)
@given(data=st.data())
def test_whatever_bytes_change_only_a_value_error_comes_out(folder, data):
    """A change that the file survives (in a time stamp) gives the optimizer that was saved."""
    path = folder / "mutated.npz"
    optimizer = saved(path)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    loaded = loaded_or_refused(path)
    if loaded is not None:
        for a, b in zip(trees.leaves(loaded.weights), trees.leaves(optimizer.weights), strict=True):
            np.testing.assert_array_equal(a, b)


MISSING = object()
json_values = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
)


@hypothesis_settings(max_examples=60)
@given(key=st.sampled_from(["format", "scale", "p", "layers"]), value=json_values | st.just(MISSING))
def test_whatever_a_header_says_a_loaded_optimizer_works(folder, key, value):
    path = folder / "header.npz"
    rewritten(path, lambda header: {k: v for k, v in (header | {key: value}).items() if v is not MISSING})
    loaded = loaded_or_refused(path)
    if loaded is not None:
        g = np.ones(2)
        assert loaded.update(g, loaded.init(g))[0].shape == (2,)


@given(header=json_values)
def test_a_header_that_is_none_is_refused_by_name(folder, header):
    path = folder / "no_header.npz"
    rewritten(path, lambda _: header)
    refused(path)


def test_another_format_says_which_this_version_reads(tmp_path):
    path = tmp_path / "o.npz"
    rewritten(path, lambda header: header | {"format": 99})
    with pytest.raises(ValueError, match=r"o\.npz has format 99, this tinymeta reads 1"):
        l2l.LSTMOptimizer.load(path)


@pytest.mark.parametrize(
    "arrays",
    [
        lambda a: {k: v for k, v in a.items() if k != "array1"},
        lambda a: a | {"array9": np.zeros(2)},
        lambda a: a | {"array0": a["array0"][:-1]},
        lambda a: a | {"array1": a["array1"][:-1]},
        lambda a: a | {"array2": np.zeros(9)},
        lambda a: a | {"array3": np.zeros(2)},
        lambda a: a | {"array0": a["array0"].astype(np.float32)},
        lambda a: a | {"array0": a["array0"].astype(int)},
    ],
    ids=[
        "one missing",
        "one too many",
        "W too short",
        "b too short",
        "W_out too long",
        "b_out a vector",
        "two dtypes",
        "integers",
    ],
)
def test_arrays_that_make_no_network_are_refused_by_name(tmp_path, arrays):
    path = tmp_path / "o.npz"
    rewritten(path, arrays=arrays)
    refused(path)
