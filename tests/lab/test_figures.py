import json
import subprocess
import sys

import matplotlib
import pytest

from tinymeta.lab import UserError, figures


def make(caption="Loss by step."):
    with figures.style():
        figure, axes = figures.subplots(caption=caption)
        for shift, method in enumerate(figures.METHODS):
            axes.plot([0, 1], [shift, shift + 1], **figures.line(method))
        axes.legend(ncols=4, fontsize=5)
    return figure


def test_png_svg_and_captions_are_written_and_the_same_each_time(tmp_path):
    for folder in ("a", "b"):
        figures.save({"loss-curve": make(), "other": make("")}, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["captions.json", "loss-curve.png", "loss-curve.svg", "other.png", "other.svg"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert json.loads((tmp_path / "a" / "captions.json").read_text()) == {
        "loss-curve": "Loss by step.",
        "other": "other",
    }


def test_a_film_is_its_frames_and_one_caption(tmp_path):
    film = figures.Film("Step by step.", {"at first": make("no"), "at last": make("no")})
    figures.save({"film": film, "still": make()}, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["captions.json", *(f"{n}.{k}" for n in ("film-0", "film-1", "still") for k in ("png", "svg"))]
    assert json.loads((tmp_path / "captions.json").read_text()) == {
        "film": {"caption": "Step by step.", "frames": ["at first", "at last"]},
        "still": "Loss by step.",
    }


def test_the_style_ends_with_its_block():
    before = dict(matplotlib.rcParams)
    make()
    assert dict(matplotlib.rcParams) == before


def test_methods_that_share_a_figure_differ_in_colour_and_in_dash():
    for group in (
        ("LSTM", "SGD", "NAG", "RMSprop", "ADAM"),
        ("MAML", "first-order MAML", "pretrained", "oracle", "random"),
        ("EWC", "SGD", "L2", "single task"),
    ):
        looks = [figures.METHODS[method] for method in group]
        assert len({look["color"] for look in looks}) == len(group)
        assert len({(str(look["linestyle"]), look.get("linewidth")) for look in looks}) >= len(group) - 1


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is not made of letters"):
        figures.save({name: make()}, tmp_path)


def test_without_matplotlib_it_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"matplotlib is not installed .* pip install 'tinymeta\[lab\]'"):
        figures.subplots()


def test_nothing_heavy_is_imported_until_it_is_needed():
    heavy = {"matplotlib", "rich", "numba", "cupy", "hypothesis", "pooch", "torch", "jax"}
    code = f"import sys, tinymeta.lab, tinymeta.cli, tinymeta.lab.report; print({heavy} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_figures_need_no_pyplot(tmp_path):
    code = (
        "import sys, pathlib\nfrom tinymeta.lab import figures\nfigure, axes = figures.subplots()\naxes.plot([1, 2])\n"
        f"figures.save({{'a': figure}}, pathlib.Path({str(tmp_path)!r}))\nprint('matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"DISPLAY": ""}
    )
    assert found.stdout.strip() == "False"
