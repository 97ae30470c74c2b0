import hashlib
import sys

import pytest

from tinymeta.data.errors import DataError
from tinymeta.data.fetch import cache_folder, fetch

CONTENT = b"the right bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def mirror(serve, tmp_path):
    """Start a mirror of one file: content -> address."""

    def start(content, name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "file").write_bytes(content)
        return serve(folder)

    return start


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_file_is_fetched_once(mirror, cache):
    mirrors = [mirror(CONTENT, "mirror")]
    fetch("file", SHA256, mirrors, cache)
    assert (cache / "file").read_bytes() == CONTENT
    fetch("file", SHA256, ["http://127.0.0.1:1/"], cache)


def test_damaged_file_in_the_cache_is_fetched_again(mirror, cache):
    cache.mkdir()
    (cache / "file").write_bytes(CONTENT[:-1])
    fetch("file", SHA256, [mirror(CONTENT, "mirror")], cache)
    assert (cache / "file").read_bytes() == CONTENT


def test_next_mirror_is_tried_after_one_that_is_dead_wrong_or_empty(mirror, cache):
    dead, wrong = "http://127.0.0.1:1/", mirror(b"other bytes", "wrong")
    empty, right = mirror(CONTENT, "empty") + "nothing/", mirror(CONTENT, "right")
    fetch("file", SHA256, [dead, wrong, empty, right], cache)
    assert (cache / "file").read_bytes() == CONTENT


def test_all_mirrors_failing_is_one_clear_error(mirror, cache):
    mirrors = ["http://127.0.0.1:1/", mirror(b"other bytes", "wrong"), mirror(CONTENT, "empty") + "nothing/"]
    with pytest.raises(DataError) as caught:
        fetch("file", SHA256, mirrors, cache)
    message = str(caught.value)
    dead, wrong, empty = mirrors
    tried = f"{dead} (ConnectionError) or {wrong} (another SHA-256) or {empty} (HTTP 404)"
    assert message == (
        f"{cache / 'file'}: found no right copy at {tried}, expected a download with SHA-256 {SHA256}; "
        "check the network and try again, or set TINYMETA_DATA to a folder that holds the file"
    )
    assert not (cache / "file").exists()


def test_cache_is_in_the_users_cache_folder():
    assert cache_folder("mnist").parts[-1] == "mnist"
    assert "tinymeta" in cache_folder("mnist").parts


def test_missing_pooch_says_what_to_install(monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'needs pooch: pip install "tinymeta\[lab\]"') as caught:
        fetch("file", SHA256, [], cache)
    assert caught.value.name == "pooch"


def test_a_cache_that_cannot_be_made_is_not_blamed_on_the_mirrors(cache):
    cache.touch()
    with pytest.raises(DataError, match=r"found no folder to write to \(.*\), expected one in the user's cache"):
        fetch("file", SHA256, ["http://127.0.0.1:1/"], cache / "mnist")
