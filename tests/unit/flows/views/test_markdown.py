"""Text that stays text on a page of markdown, checked against an independent reader of CommonMark."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from flows.views.markdown import code, code_block, escaped, table

HOSTILE = [
    "[x](javascript:alert(1))",
    "![x](https://example.org/a.png)",
    "<img src=x onerror=alert(1)>",
    "https://example.org/x and www.example.org, a@example.org",
    "`code` ``more`` **bold** _it_ ~~no~~",
    "# head",
    "1. first",
    "- item",
    "> said",
    "a\nb\x1b[31m\u202ec",
    "&lt;b&gt; &#60;",
    "`",
    "back\\slash",
    "| a | b |",
]


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def visible(text: str) -> str:
    """On one line, without characters that are no print, as HTML shows it."""
    line = " ".join(text.split())
    line = "".join(character for character in line if character.isprintable())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


@pytest.mark.parametrize("text", HOSTILE)
def test_an_escaped_text_is_a_paragraph_that_reads_as_it_does(text: str) -> None:
    assert rendered(escaped(text)) == f"<p>{visible(text)}</p>\n"
    assert "://" not in escaped(text)  # Nor a link to those who make links of bare URLs.


@pytest.mark.parametrize("text", HOSTILE)
def test_code_holds_any_text(text: str) -> None:
    assert rendered(code(text)) == f"<p><code>{visible(text)}</code></p>\n"


def test_no_text_is_no_code() -> None:
    assert code(" \n") == ""


def test_a_block_holds_fences() -> None:
    assert rendered(code_block(["a", "```", "<b>"])) == "<pre><code>a\n```\n&lt;b&gt;\n</code></pre>\n"


def test_a_table_holds_code_with_bars_and_has_its_numbers_to_the_right() -> None:
    html = rendered(table([{"of": code("a|b"), "done": "1,200"}, {"of": "c", "done": "3"}]))
    assert '<td style="text-align:left"><code>a|b</code></td>' in html
    assert '<td style="text-align:right">1,200</td>' in html
