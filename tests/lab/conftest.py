import pytest

from tinymeta import experiments


@pytest.fixture
def toy_registered(monkeypatch):
    """The command knows the toy experiment and no other."""
    monkeypatch.setattr(experiments, "REGISTRY", {"toy": "lab.toy"})
    monkeypatch.setattr(experiments, "DEMO", ("toy",))
