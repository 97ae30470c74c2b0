"""The frame of an HTML page that asks the network for nothing."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape

# The policy makes the browser itself refuse every request but the images inside the page, and every script but SCRIPT.
_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{scripts}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
{script}</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #596275; --line: #dfe3ea; --paper: #fff; --card: #f6f7f9;
  --link: #0b5cad; --good: #00724f; --bad: #b04a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #a3acbd; --line: #363d4b; --paper: #14171d;
  --card: #1d222b; --link: #7db8f5; --good: #4fc79c; --bad: #f0995a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
a { color: var(--link); }
p a { white-space: nowrap; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .25rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 2rem; }
.soft, figcaption, .source { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
nav ol { list-style: none; margin: 1.25rem 0 0; padding: 0; border: 1px solid var(--line); border-radius: .5rem; }
nav li { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; padding: .55rem .9rem; }
nav li + li { border-top: 1px solid var(--line); }
figure { margin: 1.25rem 0; }
figure .scroll { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; }
figure img { display: block; height: auto; margin: 0 auto; max-width: 100%; }
figcaption { margin-top: .4rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .45rem .9rem .45rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
td:first-child { min-width: 11rem; }
.ours { font-weight: 650; }
.source { padding-left: .5rem; }
td.source { min-width: 11rem; }
.claims { list-style: none; margin: 0; padding: 0; }
.claims li { display: grid; grid-template-columns: 1.6rem 1fr; padding: .3rem 0; }
.mark { font-weight: 700; }
.held .mark { color: var(--good); }
.failed .mark { color: var(--bad); }
.claims .soft { display: block; }
.read { background: var(--card); border-left: 4px solid var(--link); border-radius: .25rem; padding: .6rem .9rem; }
.film [hidden] { display: none; }
.film .at { display: flex; align-items: center; gap: .9rem; margin-top: .6rem; }
.film input { flex: 1 1 auto; min-width: 6rem; max-width: 24rem; height: 2.2rem; accent-color: var(--link); }
.film output { flex: 0 0 9.5rem; font-variant-numeric: tabular-nums; }
details { margin-top: 1.25rem; }
summary { cursor: pointer; color: var(--soft); }
details td { font-size: .85rem; padding-right: 1.5rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  section { margin-top: 2rem; padding-top: 1.5rem; }
  figure .scroll { padding: .4rem; }
  table { font-size: .84rem; }
  th, td { padding-right: .65rem; }
  td:first-child { min-width: 7rem; }
}
footer { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 1rem; }
"""


# A film shows all of its frames to a reader without scripts, and one of them, chosen by a slider, to all others.
SCRIPT = """
for (const film of document.querySelectorAll(".film")) {
  const frames = film.querySelectorAll("img"), slider = film.querySelector("input"), text = film.querySelector("output");
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== slider.valueAsNumber; });
    text.value = frames[slider.valueAsNumber].dataset.label;
  };
  film.querySelector(".at").hidden = false;
  slider.addEventListener("input", show);
  show();
}
"""


def page(title: str, body: str, films: bool = False) -> str:
    """The whole document; `title` is text, `body` is HTML. With `films` it has the script that steps through them."""
    script = f"<script>{SCRIPT}</script>\n" if films else ""
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    scripts = f"; script-src 'sha256-{digest}'" if films else ""
    return _FRAME.format(title=escape(title), style=STYLE, body=body, script=script, scripts=scripts)
