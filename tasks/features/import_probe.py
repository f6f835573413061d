"""What feature files hold, seen from their first pictures: label names, D and R."""

from __future__ import annotations

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
        UserError: the vocabulary cannot be read; the first picture that is looked at is not what its form promises;
            or none of the first has a region.
    """
    labels, note = _labels(source, config.vocabulary)
    classes = {name: number for number, name in reversed(list(enumerate(labels)))}
    counts: set[int] = set()
    dims: list[int] = []
    for number in range(min(_PROBED, source.numbers)):
        row = source.row(number)
        if row is None:
            continue
        try:
            regions = source.read(row, len(labels))
            if not counts:
                stored = None if config.match == "order" else regions.size or (1, 1)  # Any: it is scaled to it later.
                numbers = classes if isinstance(regions.labels, tuple) else len(labels)
                region_sample(regions, row.image_id, stored, 1, numbers)
        except ForeignError as error:
            if not counts:
                raise UserError(f"features of {row.image_id!r} cannot be imported: {error}") from error
            continue  # It fails when its turn comes, and is counted there.
        counts.add(len(regions.boxes))
        if len(regions.boxes):
            dims.append(regions.features.shape[1])
    if not dims:
        raise UserError(f"none of the first {_PROBED} pictures has a region; are these feature files?")
    fixed = counts.pop() if len(counts) == 1 else _MOST_REGIONS
    return Probe(labels, note, dims[0], config.max_regions or min(fixed, _MOST_REGIONS), classes)


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
