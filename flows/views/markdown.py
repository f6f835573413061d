"""Escape text to markdown for Prefect's page: whatever it holds, it stays text.

That page renders markdown in cards, descriptions and the cells of tables, with links of any kind and with HTML. Names
and reasons may come from the web, so they go there as code or escaped: neither is live.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def escaped(text: object) -> str:
    """Escape a text on one line by backslashes. It wraps; code does not."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", _one_line(text))


def code(text: object) -> str:
    """Format a short text, such as a name, as inline code."""
    line = _one_line(text)
    if not line:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    # A space on either side is taken away again where both are there.
    return f"{fence} {line} {fence}" if line.startswith("`") or line.endswith("`") else f"{fence}{line}{fence}"


def code_block(lines: Sequence[str]) -> str:
    """Format lines, such as commands, as a code block."""
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Format rows with the same columns as a markdown table, numbers to the right. Cells are markdown."""
    heads = list(rows[0])
    rule = ["---:" if all(row[head][:1].isdigit() for row in rows) else ":---" for head in heads]
    return "\n".join(_line(cells) for cells in [heads, rule, *([row[head] for head in heads] for row in rows)])


def _one_line(text: object) -> str:
    return "".join(character for character in " ".join(str(text).split()) if character.isprintable())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
