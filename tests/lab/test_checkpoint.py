import json
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinymeta.lab import UserError, checkpoint
from tinymeta.lab.checkpoint import dress, load, named_tuples, save, settle


class Moments(NamedTuple):
    m: object
    v: object = None


OWNER = {"experiment": "toy", "configuration": "abc"}

dtypes = st.one_of(
    hnp.floating_dtypes(endianness="?"),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.complex_number_dtypes(),
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
strided = arrays.flatmap(lambda a: st.sampled_from([a, a.T, np.asfortranarray(a), a[..., ::-1] if a.ndim else a]))
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just("\ud800 \0"))
leaves = st.one_of(plain, strided, arrays.filter(lambda a: a.size).map(lambda a: a.ravel()[0]))
trees = st.recursive(
    leaves,
    lambda tree: st.one_of(
        st.lists(tree), st.lists(tree).map(tuple), st.dictionaries(st.text(), tree), st.builds(Moments, tree, tree)
    ),
    max_leaves=12,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        assert a.flags.c_contiguous == b.flags.c_contiguous
    elif isinstance(a, float):
        assert a.hex() == b.hex()
    else:
        assert a == b


@given(tree=trees)
def test_a_settled_tree_comes_back_bit_for_bit(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "round-trip.npz"
    known = named_tuples(tree)
    settled = settle(tree, known)
    save(path, settled, OWNER)
    assert_same(dress(load(path, OWNER), known), settled)
    save(path, load(path, OWNER), OWNER)
    assert_same(dress(load(path, OWNER), known), settled)


@given(tree=trees)
def test_settling_keeps_values_and_is_done_once(tree):
    known = named_tuples(tree)
    settled = settle(tree, known)
    assert_same(settle(settled, known), settled)
    assert json.dumps(tree, default=lambda a: a.tobytes().hex()) == json.dumps(
        settled, default=lambda a: a.tobytes().hex()
    )


TREE = {"w": np.arange(12.0, dtype=np.float32).reshape(3, 4), "i": [7, None, ("x", np.float64(0.1))]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "checkpoint.npz"
    save(path, TREE, OWNER)
    return path


@settings(max_examples=400)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_sentence_and_left_alone(written, data):
    good = written.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "overwrite"]))
    bad = bytearray(good)
    if change == "flip":
        bad[position] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del bad[position:]
    elif change == "insert":
        bad[position:position] = data.draw(st.binary(min_size=1, max_size=8))
    elif change == "remove":
        del bad[position : position + data.draw(st.integers(1, 64))]
    else:
        noise = data.draw(st.binary(min_size=1, max_size=64))
        bad[position : position + len(noise)] = noise
    path = written.with_name("damaged.npz")
    path.write_bytes(bad)
    sentence = refusal(path)
    if sentence is None:  # only bytes that mean nothing may change unseen, such as a time stamp of the zip format
        assert_same(load(path, OWNER), TREE)
    else:
        assert str(path) in sentence
        assert "\n" not in sentence
    assert path.read_bytes() == bad


def refusal(path):
    try:
        load(path, OWNER)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_file_cut_short_is_refused(written, size):
    path = written.with_name("short.npz")
    path.write_bytes(written.read_bytes()[:size])
    with pytest.raises(UserError, match="damaged or truncated"):
        load(path, OWNER)


def test_another_owner_and_another_format_are_refused(written, monkeypatch):
    with pytest.raises(UserError, match="belongs to experiment toy, expected experiment maml"):
        load(written, OWNER | {"experiment": "maml"})
    with pytest.raises(UserError, match="belongs to configuration abc, expected configuration xyz"):
        load(written, OWNER | {"configuration": "xyz"})
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(UserError, match="checkpoint format 1, this tinymeta reads 2"):
        load(written, OWNER)


def test_pickled_objects_are_never_loaded(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, header=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle=False"):
        load(path, OWNER)


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"a": [{1: 2}]}, r"state\['a'\]\[0\] has the key 1"),
        ({"opt": (object(),)}, r"state\['opt'\]\[0\] is of type object"),
        ([np.array([None])], r"state\[0\] is an array of object"),
        (np.ma.masked_array([1.0]), "state is of type MaskedArray"),
        ({"s": {1, 2}}, r"state\['s'\] is of type set"),
        ({"s": Moments(1)}, r"state\['s'\] is of type Moments; .* NamedTuples that are in the first state"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(tree, named):
    with pytest.raises(TypeError, match=named):
        settle(tree, {})


def test_a_named_tuple_that_has_changed_is_refused():
    fields = [("step", int), ("m", int)]
    known = {"optim.State": NamedTuple("State", fields)}
    of_older_files, loaded = checkpoint.Undressed("optim.State", [1, 2]), ["optim.State", [1, 2]]
    assert dress(of_older_files, known) == dress(checkpoint.Undressed(*loaded, ["step", "m"]), known) == (1, 2)
    for others in (
        {},
        {"optim.State": NamedTuple("State", fields[:1])},
        {"optim.State": NamedTuple("State", fields[::-1])},
    ):
        with pytest.raises(UserError, match=r"the checkpoint has optim\.State in a form"):
            dress([checkpoint.Undressed(*loaded, ["step", "m"])], others)
