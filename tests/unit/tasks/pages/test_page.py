"""The page kit: templates escape by themselves, name what they miss, and travel with the package."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from tasks.pages.page import number, render, web_text

EVIL = "<b onclick='x'>&\""
TASKS = Path(__file__).parents[4] / "tasks"
TEMPLATES = sorted(str(path.relative_to(TASKS)) for path in TASKS.rglob("*.html"))


def report(name: str, content: str) -> str:
    return render("reports/report.html", title=EVIL, note=EVIL, sections=[("part-1", name, content)])


def test_text_is_escaped_and_markup_is_not() -> None:
    page = report(EVIL, EVIL)
    assert EVIL not in page
    assert page.count("&lt;b onclick=&#39;x&#39;&gt;&amp;&#34;") == 6  # title twice, note, link, heading, content
    assert "<p>ours</p>" in report("a", Markup("<p>ours</p>"))


def test_a_value_that_was_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'sections' is undefined"):
        render("reports/report.html", title="t", note="n")


def test_pages_allow_neither_scripts_nor_fetches() -> None:
    assert "default-src 'none'" in report("a", "b") and "<script" not in report("a", "b")


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_installed_and_escapes(template: str) -> None:
    project = tomllib.loads((TASKS.parent / "pyproject.toml").read_text())
    assert any(fnmatch(template, pattern) for pattern in project["tool"]["setuptools"]["package-data"]["*"])
    assert (TASKS / template).with_name("__init__.py").exists()
    source = (TASKS / template).read_text()
    assert "autoescape" not in source and "<script" not in source


def test_foreign_text_is_cut_before_it_is_escaped() -> None:
    assert web_text("<<<", 2) == "<bdi>&lt;&lt;…</bdi>"
    assert web_text("<<", 2) == "<bdi>&lt;&lt;</bdi>"


def test_numbers_are_written_by_format_and_none_is_a_dash() -> None:
    assert [number(1234), number(0.125, ".1%"), number(None)] == ["1,234", "12.5%", "–"]
