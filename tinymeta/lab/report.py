"""One self-contained HTML page from the results below a folder."""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from tinymeta.lab.errors import UserError
from tinymeta.lab.experiment import Claim, Outcome, Row, conforms
from tinymeta.lab.files import file_errors, read_json, write_text
from tinymeta.lab.page import page
from tinymeta.lab.records import check_unedited, read_config, read_result, resuming
from tinymeta.lab.table import HEADINGS, cells

TITLE = "tinymeta: figures of three papers, redrawn"
ABOUT = (
    "tinymeta is one small autodiff engine in NumPy with three algorithms written by hand on it: learned optimizers "
    "(L2L), model-agnostic meta-learning (MAML) and elastic weight consolidation (EWC). Every figure and number below "
    "was made by a run of this code; beside each number stands the published one where there is one. "
    "A ratio of 1 means that both agree."
)
SMALLEST = 0.62  # of its natural width: a figure on a phone is never drawn smaller, it scrolls in its box instead


class Result(NamedTuple):
    folder: Path
    record: dict[str, Any]  # config.json: preset, seed, started, config, versions
    words: dict[str, Any]  # result.json: experiment, title, paper, summary, how_to_read
    outcome: Outcome


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from the newest result of each experiment below; UserError if there is none."""
    results = newest_results(folder)
    if not results:
        raise UserError(f"there is no finished run below {folder}; make one by: tinymeta run NAME")
    path = folder / "report.html"
    body = _body(results)
    write_text(path, page(TITLE, body, films="<figure class=film>" in body))
    return path


def newest_results(folder: Path) -> list[Result]:
    """The newest result of each experiment below `folder`, in the order in which they were begun."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    with file_errors("read", folder):
        paths = sorted(folder.rglob("result.json"))
    for path in paths:
        record = read_config(path.parent)
        name = record["experiment"]
        if name not in found or record["started"] > found[name][1]["started"]:
            found[name] = path.parent, record
    newest = sorted(found.values(), key=lambda run: run[1]["started"])
    for folder, record in newest:
        check_unedited(folder, record)
    return [Result(folder, record, *read_result(folder)) for folder, record in newest]


def _body(results: list[Result]) -> str:
    entries = "".join(_entry(result) for result in results)
    sections = "".join(_section(result) for result in results)
    return (
        f"<header><h1>{escape(TITLE)}</h1><p>{escape(ABOUT)}</p></header>\n<nav><ol>{entries}</ol></nav>\n"
        f"<main>{sections}</main>\n<footer class=soft>Made by <code>tinymeta report</code>. "
        "This page is one file and asks the network for nothing.</footer>"
    )


def _entry(result: Result) -> str:
    claims = result.outcome.claims
    held = f"{sum(claim.held for claim in claims)} of {len(claims)} claims held" if claims else ""
    link = f"<a href='#{escape(result.record['experiment'])}'>{escape(result.words['title'])}</a>"
    return f"<li>{link}<span class=soft>{held}</span></li>"


def _section(result: Result) -> str:
    words, record = result.words, result.record
    begun = record["started"][:16].replace("T", " ")
    run = f"{record['experiment']}, preset {record['preset']}, seed {record['config']['seed']}, begun {begun} UTC"
    parts = [
        f"<h2>{escape(words['title'])}</h2>",
        f"<p class=soft>{_linked(words['paper'])}<br>{escape(run)}</p>",
        f"<p>{escape(words['summary'])}</p>",
        *_figures(result),
        f"<h3>How to read this</h3><p class=read>{escape(words['how_to_read'])}</p>",
        _table(result.outcome.rows),
        _claims(result.outcome.claims),
        _facts("Configuration", record["config"]),
        _facts("Versions and machine", record["versions"]),
        *(_facts("Resumed on", versions) for versions in record.get("resumed_on", [])),
    ]
    return f"\n<section id='{escape(record['experiment'])}'>\n" + "\n".join(parts) + "\n</section>"


def _linked(paper: str) -> str:
    """The paper's words, its arXiv number being a link."""
    number = r"((?:arXiv[: ])?)\b(\d{4}\.\d{4,5})\b"
    return re.sub(number, r"<a href='https://arxiv.org/abs/\2'>\1\2</a>", escape(paper))


def _figures(result: Result) -> list[str]:
    folder, command = result.folder / "figures", resuming(result.record["experiment"], result.folder)
    if not (folder / "captions.json").is_file():
        raise UserError(f"{result.folder} has no figures yet; draw them by: {command}")
    remedy = f"draw it again by: {command}"
    captions = read_json(folder / "captions.json", remedy)
    return [_shown(folder, name, caption, remedy) for name, caption in captions.items()]


def _shown(folder: Path, name: str, caption: Any, remedy: str) -> str:
    """A figure, or the frames of a film with a slider to step through them."""
    if not isinstance(caption, dict):
        image = _image(folder / f"{name}.svg", str(caption), remedy)
        return f"<figure><div class=scroll>{image}</div><figcaption>{escape(str(caption))}</figcaption></figure>"
    if not (conforms(str, caption.get("caption")) and conforms(list[str], caption.get("frames"))):
        raise UserError(f"{folder / 'captions.json'} is damaged: {name!r} is no film; {remedy}")
    labels = caption["frames"]
    images = "".join(_image(folder / f"{name}-{i}.svg", label, remedy) for i, label in enumerate(labels))
    slider = f"<input type=range min=0 max={len(labels) - 1} value=0 aria-label='which step is shown'>"
    return (
        f"<figure class=film><div class=scroll>{images}</div><div class=at hidden>{slider}<output></output></div>"
        f"<figcaption>{escape(caption['caption'])}</figcaption></figure>"
    )


def _image(path: Path, text: str, remedy: str) -> str:
    with file_errors("read", path, remedy):
        svg = path.read_bytes()
    size = re.search(rb'<svg [^>]*?width="([\d.]+)pt"', svg)
    pixels = float(size[1]) * 4 / 3 if size else 540.0
    return (
        f"<img alt='{escape(text)}' data-label='{escape(text)}' src='data:image/svg+xml;base64,{b64encode(svg).decode()}' "
        f"style='width:{pixels:.0f}px;min-width:{SMALLEST * pixels:.0f}px'>"
    )


_CLASSES = ("", "number", "number ours", "number", "source")


def _table(rows: list[Row]) -> str:
    def line(tag: str, texts: tuple[str, ...]) -> str:
        marked = zip(_CLASSES, texts, strict=True)
        return "<tr>" + "".join(f"<{tag} class='{name}'>{escape(text)}</{tag}>" for name, text in marked) + "</tr>"

    body = "".join(line("td", cells(row)) for row in rows)
    return (
        "<h3>Published and ours</h3><div class=scroll tabindex=0 role=region aria-label='Published and ours'>"
        f"<table><thead>{line('th', HEADINGS)}</thead><tbody>{body}</tbody></table></div>"
        if rows
        else ""
    )


def _claims(claims: list[Claim]) -> str:
    lines = "".join(map(_claim, claims))
    return f"<h3>Did the paper's claims hold?</h3><ul class=claims>{lines}</ul>" if claims else ""


def _claim(claim: Claim) -> str:
    name, words, sign = ("held", "held", "✓") if claim.held else ("failed", "did not hold", "✗")
    mark = f"<span class=mark role=img aria-label='{words}'>{sign}</span>"
    text = f"<span>{escape(claim.sentence)}<span class=soft>{escape(claim.detail)}</span></span>"
    return f"<li class={name}>{mark}{text}</li>"


def _facts(heading: str, facts: dict[str, Any]) -> str:
    lines = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>"
        for key, value in facts.items()
        if value is not None
    )
    return f"<details><summary>{escape(heading)}</summary><div class=scroll><table>{lines}</table></div></details>"
