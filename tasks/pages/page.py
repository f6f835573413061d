"""The page kit: templates that escape whatever is no markup of ours, one frame and one style sheet for all pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

NO_VALUE = "–"


def render(template: str, **values: Any) -> Markup:
    """HTML from a template that lies beside the code, `reports/outcomes.html` in `tasks/reports/`.

    Values are text, and escaped, unless they are `Markup` themselves. A whole page extends `pages/base.html`.
    """
    return Markup(_environment().get_template(template).render(values))  # noqa: S704, the template has escaped


def minute(created_at: str) -> str:
    """2025-01-04T12:30:59+00:00 as 2025-01-04 12:30: records are in UTC."""
    return created_at[:16].replace("T", " ")


def number(value: float | None, form: str = ",") -> str:
    """A number as `format` writes it, or a dash for None."""
    return NO_VALUE if value is None else format(value, form)


def web_text(text: str, longest: int = 300) -> Markup:
    """Foreign text as HTML: escaped, cut, and in <bdi>, so that its direction marks turn nothing around outside of it.

    `longest` is in characters.
    """
    cut = text if len(text) <= longest else text[:longest] + "…"
    return Markup("<bdi>{}</bdi>").format(cut)


@cache
def _environment() -> Environment:
    # Imported by whoever makes a page: most commands make none.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(minute=minute, number=number, web=web_text)
    return made
