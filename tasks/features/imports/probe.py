"""Label names, D and R of feature files, told from their first pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from feature_extraction.detectors.vocabulary import read_vocabulary
from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.boxes import BoxForm, in_form, tell_box_form
from feature_extraction.foreign.tsv import ForeignRegions, region_sample
from tasks.errors import UserError
from tasks.features.imports.config import ImportConfig
from tasks.features.imports.sources import FIRST_ROWS, ForeignSource, Row

_MOST_REGIONS = 100
_GENERATED_CLASSES = 1600  # The size of the Visual Genome vocabulary, which nearly all such files use.
_MOST_CLASSES = 1 << 15


@dataclass(frozen=True)
class Probe:
    """The facts of feature files, told from their first pictures.

    Labels in class order, with a note where they are from; D; R; the number of each label name; the unit of boxes in
    each file, and whether the user says so; whether distributions over all classes are stored.
    """

    labels: tuple[str, ...]
    label_note: str
    feature_dim: int
    max_regions: int
    classes: Mapping[str, int]
    box_forms: tuple[BoxForm, ...]
    are_boxes_given: bool
    has_class_scores: bool

    def read(self, source: ForeignSource, row: Row) -> ForeignRegions:
        """Read a picture's regions.

        Raises:
            ForeignError: its row is damaged, or its boxes are not as those of the others.
        """
        regions = source.read(row, len(self.labels))
        return in_form(regions, self.box_forms[row.source], self.are_boxes_given)

    def classes_of(self, regions: ForeignRegions) -> Mapping[str, int] | int:
        """The classes that `region_sample` needs to number these regions' labels."""
        return self.classes if isinstance(regions.labels, tuple) else len(self.labels)


def probe(source: ForeignSource, config: ImportConfig) -> Probe:
    """Read the first pictures, and tell the facts of the files from them.

    Raises:
        UserError: the vocabulary cannot be read; most of the pictures looked at are not what their form and the
            vocabulary promise; it cannot be told what boxes are measured in; none of the pictures has a region, or
            their features have not so many numbers as the user says.
    """
    labels, note = _labels(source, config.vocabulary)
    classes = {name: number for number, name in reversed(list(enumerate(labels)))}
    forms = tuple(config.boxes or _box_form(source, number, len(labels)) for number in range(len(source.paths)))
    counts: set[int] = set()
    dims: Counter[int] = Counter()
    looked = distributions = 0
    problems: list[str] = []
    for number in range(min(FIRST_ROWS, source.numbers)):
        row = source.row(number)
        if row is None:
            continue
        looked += 1
        try:
            regions = in_form(source.read(row, len(labels)), forms[row.source], config.boxes is not None)
            # Any: it is scaled to it later.
            stored = source.picture_size if config.match == "order" else regions.size or (1, 1)
            numbers = classes if isinstance(regions.labels, tuple) else len(labels)
            region_sample(regions, row.image_id, stored, 1, numbers)
        except ForeignError as error:
            problems.append(f"{row.image_id!r}: {error}")
            continue  # The picture fails when its turn comes, and is counted there.
        counts.add(len(regions.boxes))
        if len(regions.boxes):
            dims[regions.features.shape[1]] += 1
            distributions += regions.class_scores is not None
    if 2 * len(problems) > looked:
        raise UserError(
            f"{len(problems)} of the first {looked} pictures cannot be imported, such as {problems[0]}; are the files "
            "whole, and is the vocabulary theirs?"
        )
    if not dims:
        raise UserError(f"none of the first {FIRST_ROWS} pictures has a region; are these feature files?")
    fixed = counts.pop() if len(counts) == 1 else _MOST_REGIONS
    dim = dims.most_common(1)[0][0]
    if config.feature_dim not in (None, dim):
        raise UserError(f"features have {dim} numbers a region, not the {config.feature_dim} of --feature-dim")
    regions_kept = config.max_regions or min(fixed, _MOST_REGIONS)
    if config.class_scores == "all" and not distributions:
        raise UserError(
            "none of the first pictures has a distribution over the background and the classes (soft_labels, cls_prob) "
            "for --class-scores all to store; leave it out, or give files that hold one"
        )
    wanted = config.class_scores or ("all" if source.form == "uniter" and distributions else "none")
    return Probe(labels, note, dim, regions_kept, classes, forms, config.boxes is not None, wanted == "all")


def _box_form(source: ForeignSource, number: int, num_classes: int) -> BoxForm:
    """The unit of the boxes of one file.

    Raises:
        UserError: it cannot be told.
    """
    pictures = []
    for row in source.first_rows(number):
        try:
            regions = source.read(row, num_classes)
        except ForeignError:
            continue  # It is counted later.
        pictures.append(replace(regions, features=np.zeros((0, 0), np.float32)))  # They are large.
    try:
        return tell_box_form(pictures)
    except ForeignError as error:
        raise UserError(f"{source.paths[number]}: {error}") from error


def _labels(source: ForeignSource, vocabulary: Path | None) -> tuple[tuple[str, ...], str]:
    """Label names in class order, and their source."""
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
