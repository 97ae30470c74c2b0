import tracemalloc
import zipfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymeta.data.errors import DataError, Source
from tinymeta.data.zips import zip_members

SOURCE = Source("some.zip")
LIMITS = {"max_members": 4, "max_member_bytes": 1000}
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def to_zip(members, method=STORED, comment=b""):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def read(raw, **limits):
    return list(zip_members(raw, SOURCE, **(LIMITS | limits)))


def swapped(raw, old, new):
    assert old in raw
    return raw.replace(old, new)


@given(contents=st.lists(st.binary(max_size=300), min_size=1, max_size=4), method=st.sampled_from([STORED, DEFLATED]))
def test_members_return_in_order(contents, method):
    members = [(f"folder/{number}.png", content) for number, content in enumerate(contents)]
    assert read(to_zip(members, method)) == members


def test_folders_are_passed_over():
    assert read(to_zip([("a/", b""), ("a/b", b"content")])) == [("a/b", b"content")]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "ä"])
def test_odd_names_are_refused(name):
    with pytest.raises(DataError, match=r"some.zip\[.*\], offset 0: found the name .*expected an ASCII path in"):
        read(to_zip([(name, b"x")]))


def test_doubled_name_is_refused():
    raw = swapped(to_zip([("a", b"1"), ("b", b"2")]), b"b", b"a")
    with pytest.raises(DataError, match="two entries of the same name"):
        read(raw)


def test_limits_are_kept():
    raw = to_zip([("a", b"1" * 60), ("b", b"2")])
    with pytest.raises(DataError, match="found 2 entries, expected 1 at most"):
        read(raw, max_members=1)
    with pytest.raises(DataError, match=r"some.zip\[a\], offset 0: found 60 bytes of content, expected 59 at most"):
        read(raw, max_member_bytes=59)


def test_bomb_that_lies_about_its_size_is_refused_without_being_unpacked():
    size = 20_000_000
    bomb = swapped(to_zip([("a", bytes(size))], DEFLATED), size.to_bytes(4, "little"), (100).to_bytes(4, "little"))
    tracemalloc.start()
    with pytest.raises(DataError, match="Bad CRC-32"):
        read(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 10


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_refused(method):
    with pytest.raises(DataError, match=f"found compression method {method}, expected 0 or 8"):
        read(to_zip([("a", b"content")], method))


def test_encrypted_member_is_refused():
    raw = bytearray(to_zip([("a", b"content")]))
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    raw[6] |= 1
    with pytest.raises(DataError, match="encrypted"):
        read(bytes(raw))


def test_changed_content_is_refused():
    with pytest.raises(DataError, match=r"some.zip\[a\], offset 0: found a damaged zip archive \(Bad CRC-32"):
        read(swapped(to_zip([("a", b"content")]), b"content", b"consent"))


def test_content_shorter_than_declared_is_refused():
    raw = bytearray(to_zip([("a", b"content")], DEFLATED))
    raw[raw.index(b"PK\x01\x02") + 24] += 1
    with pytest.raises(DataError, match="found 7 bytes of content, expected 8 bytes"):
        read(bytes(raw))


def test_entry_swallowed_by_a_damaged_comment_length_is_missed():
    raw = bytearray(to_zip([("a", b"1"), ("b", b"2")]))
    raw[raw.index(b"PK\x01\x02") + 32] = 47  # the directory's entry for b: 46 bytes and the name
    with pytest.raises(DataError, match=f"offset {len(raw) - 12}: found 1 entries, expected the 2 of the end record"):
        read(bytes(raw))


def test_truncated_and_extended_archives_are_refused():
    raw = to_zip([("a", b"content")])
    for wrong in (raw[:-1], raw[:30], raw + b"x", raw + raw[:40], to_zip([("a", b"1")], comment=b"a comment")):
        with pytest.raises(DataError, match=f"offset {len(wrong) - 22}: found .*expected the zip end record"):
            read(wrong)
    for wrong in (b"", b"PK", b"\x1f\x8b rest", b"x" + raw, to_zip([])):
        with pytest.raises(DataError, match=r"offset 0: found .*expected the header"):
            read(wrong)
