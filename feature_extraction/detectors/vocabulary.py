"""Label names of the foreground classes, from a file with one class a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Label names in class order.

    A line may hold synonyms after commas, as the Visual Genome lists do ("stop sign,stopsign"): the first is the
    name. Line ends may be CRLF and the last may be missing. There is no line for the background.

    Raises:
        ValueError: the file cannot be read as UTF-8 text, has an empty line or no line at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"vocabulary {path} cannot be read ({error}); give a UTF-8 file, one label a line") from error
    names = tuple(line.split(",")[0].strip() for line in text.removesuffix("\n").split("\n"))
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"vocabulary {path}, line {number}: no label name; give one a line, none for background")
    return names


def check_length(labels: Sequence[str], num_classes: int, source: str) -> tuple[str, ...]:
    """The labels, checked to be one for each foreground class: a shifted list would misname every region.

    Raises:
        ValueError: the counts differ. `source` names the list in the message.
    """
    if len(labels) != num_classes:
        raise ValueError(
            f"{source} names {len(labels)} labels, but the detector has {num_classes} foreground classes; "
            "give the list the detector was trained with, without the background"
        )
    return tuple(labels)
