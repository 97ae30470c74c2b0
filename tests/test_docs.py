"""The lessons run: every block of Python, from the top of its page, prints what stands below it; and every link leads somewhere.

A page is one namespace. A ```text block is what the Python block above it prints, decimal fractions to five digits (the
last ones differ between machines). Blocks marked ```python torch and ```python jax run where that package is installed.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md"))
PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *LESSONS]
PEERS = {"torch": "PyTorch", "jax": "JAX"}
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
FRACTION = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: what stands after the fence, the text, and the line of the page on which the text begins."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = (ROOT / page).read_text()
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)]


def execute(page: Path, namespace: dict, block: Block) -> str:
    """What the block prints; its lines keep their numbers in the page, for errors and for tm.show."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
    return printed.getvalue()


def compare(printed: str, shown: str, message: str) -> None:
    assert FRACTION.sub("#", printed) == FRACTION.sub("#", shown), message
    numbers = [float(x) for x in FRACTION.findall(printed)]
    assert numbers == pytest.approx([float(x) for x in FRACTION.findall(shown)], rel=1e-5), message


def run(page: Path, kinds: set[str]) -> int:
    """Execute the blocks of these kinds in order and compare what they print; the number of blocks."""
    namespace: dict = {"__name__": page.stem}
    found = blocks(page)
    chosen = [(block, after) for block, after in itertools.pairwise([*found, None]) if block and block.kind in kinds]
    for block, after in chosen:
        printed = execute(page, namespace, block)
        if after is not None and after.kind == "text":
            compare(printed, after.text, f"{page}:{after.line} is not what the block above it prints")
    return len(chosen)


def links(page: Path) -> list[str]:
    """The relative links of a page, without their #anchors; code is not searched for links."""
    text = re.sub(r"`[^`\n]*`", "code", FENCE.sub("", (ROOT / page).read_text()))
    return [target.partition("#")[0] for target in LINK.findall(text) if not re.match(r"[a-z]+:|#", target)]


def pages_with(kind: str) -> list[Path]:
    return [page for page in PAGES if any(block.kind == kind for block in blocks(page))]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # so that lessons, and the lines that errors and tm.show name, are relative to it


@pytest.mark.parametrize("page", pages_with("python"), ids=str)
def test_a_page_runs_from_top_to_bottom(page):
    assert run(page, {"python"}) > 0


@pytest.mark.parametrize(("page", "peer"), [(p, peer) for peer in PEERS for p in pages_with(f"python {peer}")], ids=str)
def test_a_page_runs_with_the_blocks_for_another_framework(page, peer):
    pytest.importorskip(peer, reason=f"the blocks of {page} for {PEERS[peer]} run where it is installed")
    assert run(page, {"python", f"python {peer}"}) > 0


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_is_run_or_is_the_output_of_one_that_is(page):
    """A misspelt fence would silently never run."""
    code = {"python", *(f"python {peer}" for peer in PEERS)}
    for before, block in itertools.pairwise([Block("", "", 0), *blocks(page)]):
        assert block.kind in code or (block.kind == "text" and before.kind in code), (
            f"{page}:{block.line}: {block.kind}"
        )
    fences = re.findall(r"^\s*```", (ROOT / page).read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_that_exist(page):
    missing = [target for target in links(page) if not (ROOT / page).parent.joinpath(target).exists()]
    assert not missing, f"{page} links to {missing}"


def test_the_index_names_every_lesson():
    assert set(links(Path("docs/README.md"))) >= {page.name for page in LESSONS} - {"README.md"}
    assert "docs" in {target.rstrip("/") for target in links(Path("README.md"))}


@pytest.fixture
def page(tmp_path):
    """Writes a page of Markdown and gives its path."""

    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text)
        return path

    return write


def test_the_runner_notices_a_wrong_output_and_a_failing_line(page):
    good = "# One\n```python\nx = 1 / 3\n```\ntext\n\n```python\nprint(2, x)\n```\ngives\n```text\n2 0.333333\n```\n"
    assert run(page(good), {"python"}) == 2
    for wrong in ("3 0.333333", "2 0.33334", "2 -0.333333", "2 0.333333 0.1"):
        with pytest.raises(AssertionError, match=r"page\.md:12 is not what"):
            run(page(good.replace("2 0.333333", wrong)), {"python"})
    with pytest.raises(ZeroDivisionError) as caught:
        run(page("\n\n```python\nx = 1\nx / 0\n```\n"), {"python"})
    assert caught.traceback[-1].lineno + 1 == 5


def test_the_runner_leaves_out_other_kinds_and_finds_links_outside_code(page):
    text = "[a](b/c.md#d) [w](https://x.org) [`e`](f.py) [h](#h) `[i](j)`\n```python torch\n[0](1)\n```\n"
    assert run(page(text), {"python"}) == 0
    assert links(page(text)) == ["b/c.md", "f.py"]
