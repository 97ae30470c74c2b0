import contextlib
import errno
import os
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta.lab import UserError
from tinymeta.lab.files import atomic_write, make_folder, open_locked, read_json, to_json, write_json, write_text


def write_half(path):
    with atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError("stopped")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="stopped"):
        write_half(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_temporary_file_of_a_killed_process_is_overwritten(tmp_path):
    (tmp_path / ".a.txt.tmp").write_text("left by a killed process, longer than the new text")
    write_text(tmp_path / "a.txt", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot make the folder"):
            make_folder(path)
    make_folder(tmp_path / "a" / "b")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a" / "b", exist_ok=False)


@given(
    st.dictionaries(st.text(), st.floats() | st.integers() | st.text() | st.none() | st.lists(st.floats()), max_size=4)
)
def test_json_comes_back_bit_for_bit(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert repr(read_json(path)) == repr(value)


def test_json_takes_numpy_values_and_refuses_objects():
    assert (
        to_json({"a": np.float32(0.5), "b": np.arange(3), "c": np.float64(0.1)})
        == '{"a": 0.5, "b": [0, 1, 2], "c": 0.1}'
    )
    with pytest.raises(TypeError, match="type object cannot be written as JSON"):
        to_json(object())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b"[" * 100_000])
def test_damaged_json_is_refused_by_name(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json (is damaged|holds a list)"):
        read_json(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")


def test_a_locked_file_has_one_writer(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = open_locked(path)
    with pytest.raises(UserError, match="another process is writing"):
        open_locked(path)
    first.close()
    open_locked(path).close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_synchronised_is_no_failure_but_a_broken_disk_is(tmp_path, monkeypatch, number):
    whole = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="cannot write") if number == errno.EIO else contextlib.nullcontext():
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
