"""The frame and the look of the report: one style sheet, light and dark, for wide and narrow screens."""

from __future__ import annotations

from html import escape


def html_page(title: str, note: str, body: str) -> str:
    """A whole document around `body`, which is HTML; `title` and `note` are text."""
    return _PAGE.format(title=escape(title), note=escape(note), style=_STYLE, body=body)


def minute(created_at: str) -> str:
    """2025-01-04T12:30:59+00:00 as 2025-01-04 12:30: records are in UTC."""
    return created_at[:16].replace("T", " ")


def web_text(text: str, longest: int = 300) -> str:
    """Foreign text as HTML: escaped, cut, and in <bdi>, so that its direction marks turn nothing around outside of it.

    `longest` is in characters.
    """
    cut = text if len(text) <= longest else text[:longest] + "…"
    return f"<bdi>{escape(cut)}</bdi>"


# The policy forbids scripts and every fetch: text from the web stays text even where an escape were forgotten.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:;
base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p class="note">{note}</p></header>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #1c1d20; --dim: #63666d; --line: #e1e2e5; --good: #15803d;
  --s0: #2463c4; --s1: #c05a0e; --s2: #15803d; --s3: #8a3fc0; --s4: #b3264c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --card: #1f2125; --ink: #ececee; --dim: #a2a6ae; --line: #35383e; --good: #5cc98a;
    --s0: #7eaef5; --s1: #f0a05c; --s2: #5cc98a; --s3: #c596f0; --s4: #f286a4;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 16px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 24px 0 8px; overflow-wrap: anywhere; }
a { color: var(--s0); }
.note { color: var(--dim); font-size: .875rem; margin: 8px 0; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; }
th { font-weight: 500; }
thead th { color: var(--dim); }
th:first-child, .text { text-align: left; }
tbody tr { border-top: 1px solid var(--line); }
.recall thead tr:last-child th { text-align: right; }
.recall thead th[colspan] { text-align: center; }
.recall th, .recall td { padding: 7px 9px; }
.recall th[rowspan], .recall th[scope="row"] { position: sticky; left: 0; background: var(--card); }
.recall th[scope="row"] { white-space: normal; min-width: 7.5rem; }
.recall .divider th { color: var(--dim); font-size: .8125rem; padding-top: 14px; }
.recall b { font-weight: 700; color: var(--good); }
.recall small { display: block; color: var(--dim); font-size: .6875rem; line-height: 1.3; }
.trend thead th { white-space: normal; }
.cut { border-left: 1px solid var(--line); }
@media (max-width: 480px) { .recall th, .recall td { padding: 7px 6px; } }
.charts { display: grid; gap: 16px; margin: 0 0 16px; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.charts.pair { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); align-items: start; }
.charts.pair { margin-top: 16px; }
.strip { height: 20px; }
figure { margin: 0; padding: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-size: .875rem; margin-bottom: 8px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--dim); font-variant-numeric: tabular-nums; }
svg .value { fill: var(--ink); }
.grid { stroke: var(--line); }
.bar { fill: var(--key, var(--s0)); }
polyline { fill: none; stroke: var(--key); stroke-width: 1.75; stroke-linejoin: round; }
circle { fill: var(--key); }
.mark { fill: none; stroke: var(--ink); stroke-width: 1.75; }
.s0 { --key: var(--s0); } .s1 { --key: var(--s1); } .s2 { --key: var(--s2); } .s3 { --key: var(--s3); }
.s4 { --key: var(--s4); }
polyline.again { stroke-dasharray: 5 3; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 8px 0 0; padding: 0; }
.legend { font-size: .8125rem; color: var(--dim); }
.legend b { color: var(--ink); font-weight: 600; }
.key { display: inline-block; width: 14px; margin-right: 6px; vertical-align: middle; }
.key { border-top: 3px solid var(--key); }
.key.again { border-top-style: dashed; }
.gallery { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px; }
.gallery { grid-template-columns: repeat(auto-fill, minmax(min(45%, 165px), 1fr)); }
.gallery li, .gallery figure { height: 100%; }
.gallery figcaption { margin: 8px 0 0; line-height: 1.35; }
.gallery small { color: var(--dim); }
.gallery .right { border: 2px solid var(--good); padding: 11px; }
em { font-style: normal; white-space: nowrap; }
.right em { color: var(--good); font-weight: 600; }
.wrong em { color: var(--dim); }
.query { display: grid; grid-template-columns: minmax(0, 240px) minmax(0, 1fr); gap: 12px 20px; margin: 0 0 16px; }
.query svg { max-width: 240px; }
.query figcaption { margin: 8px 0 0; }
.query small { color: var(--dim); }
.found { list-style: none; margin: 0; padding: 0; font-size: .875rem; }
.found li { display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 4px 12px; padding: 6px 10px; }
.found li { border-left: 3px solid transparent; border-top: 1px solid var(--line); }
.found li:first-child { border-top: none; }
.found .right { border-left-color: var(--good); }
.found .web { font-size: inherit; }
@media (max-width: 560px) {
  .query { grid-template-columns: minmax(0, 1fr); }
  .found li { grid-template-columns: minmax(0, 1fr); }
}
.absent { fill: var(--line); }
.gallery.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); }
.gallery img { display: block; width: auto; height: auto; max-width: 100%; max-height: 420px; margin: 0 auto; }
.warn, .warn b { color: var(--s4); }
.caption { font-weight: 500; }
bdi { overflow-wrap: anywhere; }
.region { fill: none; stroke: #ffffff; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.lead { font-size: 1.125rem; margin: 0 0 16px; }
.web { white-space: normal; overflow-wrap: anywhere; font-size: .8125rem; }
th.web { min-width: 13rem; }
td.web { min-width: 17rem; }
th img { display: block; max-width: 96px; max-height: 72px; border: 1px solid var(--line); }
pre { overflow-x: auto; padding: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
pre { font-size: .8125rem; }
summary { cursor: pointer; }
"""
