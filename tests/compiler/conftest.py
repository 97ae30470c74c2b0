"""Machine code that tests compile is kept apart from the user's."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYMETA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def machine_code(monkeypatch):
    """Nothing asks for another backend."""
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
