"""What feature files hold, seen from their first pictures: label names, D and R."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_extraction.foreign import ForeignError, ForeignRegions, region_sample
from feature_extraction.vocabulary import read_vocabulary
from tasks.errors import UserError
from tasks.features.foreign_sources import ForeignSource
from tasks.features.import_config import ImportConfig

_PROBED = 64
_MOST_REGIONS = 100
_GENERATED_CLASSES = 1600  # Of the Visual Genome vocabulary that nearly all such files are of.
_MOST_CLASSES = 1 << 15


@dataclass(frozen=True)
class Probe:
    """Labels in class order, with a note where they are from; D; R; and the number of each label name."""

    labels: tuple[str, ...]
    label_note: str
    feature_dim: int
    max_regions: int
    classes: Mapping[str, int]

    def classes_of(self, regions: ForeignRegions) -> Mapping[str, int] | int:
        """What `region_sample` needs to number these regions' labels."""
        return self.classes if isinstance(regions.labels, tuple) else len(self.labels)


def probe(source: ForeignSource, config: ImportConfig) -> Probe:
    """Look at the first pictures.

    Raises:
        UserError: the vocabulary cannot be read; most of the pictures looked at are not what their form and the
            vocabulary promise; or none of them has a region.
    """
    labels, note = _labels(source, config.vocabulary)
    classes = {name: number for number, name in reversed(list(enumerate(labels)))}
    counts: set[int] = set()
    dims: Counter[int] = Counter()
    looked = 0
    problems: list[str] = []
    for number in range(min(_PROBED, source.numbers)):
        row = source.row(number)
        if row is None:
            continue
        looked += 1
        try:
            regions = source.read(row, len(labels))
            stored = None if config.match == "order" else regions.size or (1, 1)  # Any: it is scaled to it later.
            numbers = classes if isinstance(regions.labels, tuple) else len(labels)
            region_sample(regions, row.image_id, stored, 1, numbers)
        except ForeignError as error:
            problems.append(f"{row.image_id!r}: {error}")
            continue  # It fails when its turn comes, and is counted there.
        counts.add(len(regions.boxes))
        if len(regions.boxes):
            dims[regions.features.shape[1]] += 1
    if 2 * len(problems) > looked:
        raise UserError(
            f"{len(problems)} of the first {looked} pictures cannot be imported, such as {problems[0]}; are the files "
            "whole, and is the vocabulary theirs?"
        )
    if not dims:
        raise UserError(f"none of the first {_PROBED} pictures has a region; are these feature files?")
    fixed = counts.pop() if len(counts) == 1 else _MOST_REGIONS
    return Probe(labels, note, dims.most_common(1)[0][0], config.max_regions or min(fixed, _MOST_REGIONS), classes)


def _labels(source: ForeignSource, vocabulary: Path | None) -> tuple[tuple[str, ...], str]:
    """Label names in class order, and where they are from."""
    if vocabulary is not None:
        if source.form == "bottom-up":
            raise UserError("these files have no labels that a vocabulary could name; leave out --vocabulary")
        try:
            names = read_vocabulary(vocabulary)
        except ValueError as error:
            raise UserError(str(error)) from error
        if len(names) > _MOST_CLASSES:
            raise UserError(f"vocabulary {vocabulary} has {len(names)} lines; at most {_MOST_CLASSES} can be stored")
        return names, "given"
    if source.form == "bottom-up":
        return ("object",), "the files have none: one class, score 1"
    if source.form == "vinvl":
        return source.class_names(), "the names in the files, sorted"
    return tuple(f"class {number}" for number in range(_GENERATED_CLASSES)), "generated: the files hold numbers alone"
