import json
import re
import shutil
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from lab.toy import EXPERIMENT, Config

from tinymeta.lab import Claim, Outcome, Row, UserError, execute, figures, table
from tinymeta.lab.report import newest_results, write_report


class Page(HTMLParser):
    """Collects links, sources and visible text; a tag that is not closed is an error."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.hrefs, self.sources, self.texts, self.tags = [], [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.hrefs += [(tag, value) for key, value in attributes if key == "href"]
        self.sources += [value for key, value in attributes if key in ("src", "srcset", "poster", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    execute(EXPERIMENT, Config(steps=10), root)
    return root


def test_what_a_run_was_resumed_on_is_there(tmp_path):
    folder = execute(EXPERIMENT, Config(steps=10), tmp_path)
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"resumed_on": [{"numpy": "99.1"}]}))
    texts = Page(write_report(tmp_path).read_text()).texts
    assert texts.index("Versions and machine") < texts.index("Resumed on") < texts.index("99.1")


@pytest.fixture
def page(root):
    return Page(write_report(root).read_text())


def test_the_page_asks_the_network_for_nothing(root, page):
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert {tag for tag, _ in page.hrefs} <= {"a", "link"}
    assert [value for tag, value in page.hrefs if tag == "link"] == ["data:,"]
    assert [value for tag, value in page.hrefs if tag == "a"] == ["#toy", "https://arxiv.org/abs/1606.04474"]
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "base", "form"})
    text = (root / "report.html").read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert not re.search(r"@import|url\(", text)


def test_the_figures_inside_ask_for_nothing_either(page):
    assert len(page.sources) == 1
    svg = b64decode(page.sources[0].partition("base64,")[2]).decode()
    assert svg.rstrip().endswith("</svg>")
    assert not re.search(r"""href=["'](?!#)|url\((?!#)|@import|<script""", svg)


@pytest.fixture
def film(tmp_path):
    """The page of a run with a film of three frames."""

    def draw(_):
        return {
            "film": figures.Film(f"caption {HOSTILE}", {f"step {i} {HOSTILE}": figures.subplots()[0] for i in range(3)})
        }

    execute(replace(EXPERIMENT, draw=draw), Config(steps=2), tmp_path)
    return write_report(tmp_path).read_text()


def test_a_film_has_a_slider_and_all_of_its_frames(film):
    found = Page(film)
    assert len(found.sources) == 3
    assert "input" in found.tags
    assert "<input type=range min=0 max=2 value=0" in film
    assert f"caption {HOSTILE}" in found.texts
    assert "<i " not in film
    assert film.count("data-label='step ") == 3


def test_the_policy_lets_that_one_script_run_and_no_other(film):
    (script,) = re.findall(r"<script>(.*?)</script>", film, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in film
    assert not re.search(r"fetch\(|XMLHttpRequest|import|http", script)


HOSTILE = """<i title='"'>&amp;</i>"""


def test_text_is_never_markup(tmp_path):
    words = {key: f"{key} {HOSTILE}" for key in ("title", "paper", "summary", "how_to_read")}
    row = Row(f"quantity {HOSTILE}", 1.0, 2.0, unit=f"unit {HOSTILE}", source=f"source {HOSTILE}")
    claims = [Claim(f"sentence {HOSTILE}", True, f"detail {HOSTILE}")]

    def draw(_):
        figure, _ = figures.subplots(caption=f"caption {HOSTILE}")
        return {"a": figure}

    hostile = replace(EXPERIMENT, **words, train=lambda *_: Outcome([row], claims, {}), draw=draw)
    execute(hostile, Config(label=f"label {HOSTILE}"), tmp_path)
    text = write_report(tmp_path).read_text()
    shown = Page(text).texts
    assert "<i " not in text
    for name in (*words, "quantity", "source", "sentence", "detail", "caption", "label"):
        assert f"{name} {HOSTILE}" in shown
    assert f"1 unit {HOSTILE}" in shown


def test_every_text_is_there(page):
    for text in (
        "Least squares <by> SGD",
        "A line is fitted & drawn.",
        "Lower is better.",
        "The weights <w> at the end.",
        "<made up> & escaped",
        "w stays finite",
        "1 of 2 claims held",
        "✓",
        "✗",
        "learning_rate",
        "numpy",
    ):
        assert text in page.texts
    assert "by" not in page.tags


def test_the_table_has_its_five_columns(page):
    start = page.texts.index("quantity")
    cells = [text for text in page.texts[start:] if text][:10]
    assert cells[:5] == ["quantity", "published", "ours ± 95 % CI", "ratio", "source"]
    assert cells[5:7] == ["norm of w", "1"]
    assert re.fullmatch(r"\d\.\d{3} ± 0\.010", cells[7])


def test_the_newest_result_of_each_experiment_is_shown(root, tmp_path):
    shutil.copytree(root, tmp_path / "runs")
    newer = execute(EXPERIMENT, Config(steps=11), tmp_path / "elsewhere")
    assert [result.folder for result in newest_results(tmp_path)] == [newer]


def test_what_is_not_there_or_damaged_is_one_sentence(root, tmp_path):
    with pytest.raises(UserError, match="there is no finished run below"):
        write_report(tmp_path / "nowhere")
    runs = tmp_path / "runs"
    shutil.copytree(root, runs)
    folder = next((runs / "toy").iterdir())
    (folder / "figures" / "captions.json").write_text('{"weights": {"caption": "a film"}}')
    with pytest.raises(UserError, match=r"captions\.json is damaged: 'weights' is no film; draw it again by"):
        write_report(runs)
    (folder / "figures" / "captions.json").write_text('{"weights": "a figure"}')
    (folder / "figures" / "weights.svg").unlink()
    with pytest.raises(UserError, match=r"cannot read .*weights\.svg: .*; draw it again by: tinymeta run toy --resume"):
        write_report(runs)
    shutil.rmtree(folder / "figures")
    with pytest.raises(UserError, match="has no figures yet; draw them by: tinymeta run toy --resume"):
        write_report(runs)
    record = json.loads((folder / "result.json").read_text())
    for change, named in (
        ({"format": 2}, "has format 2"),
        ({"rows": [{"new": 1}]}, "is damaged or of another version: its 'rows' is not"),
        ({"rows": [{**record["rows"][0], "ours": "9"}]}, "its 'rows' is not as tinymeta writes it"),
        ({"rows": [{**record["rows"][0], "ours": 10**400}]}, "its 'rows' is not as tinymeta writes it"),
        ({"experiment": "other"}, "is of other in a run of toy"),
        ({"series": None}, "its 'series' is not as tinymeta writes it"),
        ({"title": 3}, "its 'title' is not as tinymeta writes it"),
    ):
        (folder / "result.json").write_text(json.dumps(record | change))
        with pytest.raises(UserError, match=f"{named}.*; delete it and go on with: tinymeta run toy --resume"):
            write_report(runs)
    (folder / "result.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="lacks experiment, title"):
        write_report(runs)
    (folder / "result.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        write_report(runs)


def test_a_folder_with_spaces_is_quoted_in_the_command_that_draws_its_figures(tmp_path):
    folder = execute(EXPERIMENT, Config(steps=2), tmp_path / "my runs")
    shutil.rmtree(folder / "figures")
    with pytest.raises(UserError, match=re.escape(f"tinymeta run toy --resume '{folder}'")):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("a", 94.3123, 94.4, 0.1123, "%", "T1"), ("a", "94.4 %", "94.31 ± 0.11 %", "0.999", "T1")),
        (Row("a", 0.5), ("a", "–", "0.5", "–", "–")),
        (Row("a", 1234.6, 1e-3, 21.0), ("a", "0.001", "1235 ± 21", "1.23e+06", "–")),
        (Row("a", 49_500, 60_000), ("a", "60,000", "49,500", "0.825", "–")),
        (Row("a", -12345.6, None, 210.0), ("a", "–", "-12,346 ± 210", "–", "–")),
        (Row("a", float("nan"), 0.0, float("nan")), ("a", "0", "nan ± nan", "–", "–")),
        (Row("a", float("inf"), 2.0, 1.0), ("a", "2", "inf ± 1", "inf", "–")),
        (Row("a", 1e24, 2.0, 1e23), ("a", "2", "1e+24 ± 1e+23", "5.00e+23", "–")),
        (Row("a", 0.5, 0.5, 0.0), ("a", "0.5", "0.5 ± 0", "1.00", "–")),
    ],
)
def test_numbers_are_written_to_the_digits_that_mean_something(row, expected):
    assert table.cells(row) == expected


def test_the_table_as_text_is_aligned():
    lines = table.as_text([Row("a", 1.0), Row("a long one", 2.0, 3.0, source="x")]).splitlines()
    assert [line.index("p") for line in lines[:1]] == [lines[3].index("3")]
    assert table.as_text([]).startswith("quantity")
    assert table.claim_text(Claim("It holds", False, "1 > 0")) == "✗ did not hold: It holds (1 > 0)"
