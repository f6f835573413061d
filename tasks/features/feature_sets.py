"""The feature sets under a root: one for each extractor and split."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.errors import UserError
from tasks.storage.paths import features_folder
from tasks.storage.root import Root

FEATURES = "features"


@dataclass(frozen=True)
class FeatureSet:
    """One extractor's features of one split; the extractor is named by its fingerprint's first twelve digits."""

    extractor: str
    dataset: str
    split: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split} of {self.extractor}"

    @property
    def folder(self) -> str:
        return features_folder(self.extractor, self.dataset, self.split)


def feature_sets(root: Root, name: str | None = None, extractor: str | None = None) -> list[FeatureSet]:
    """The feature sets under a root, finished or not, in order.

    Args:
        root: where they lie.
        name: of one split only, DATASET/SPLIT.
        extractor: of one extractor only, by the first digits of its fingerprint.

    Raises:
        UserError: there is none.
    """
    found = [
        FeatureSet(folder, dataset, split)
        for folder in root.names(FEATURES)
        for dataset in root.names(f"{FEATURES}/{folder}")
        if not dataset.endswith(".json")
        for split in root.names(f"{FEATURES}/{folder}/{dataset}")
    ]
    chosen = [
        item
        for item in found
        if (name is None or f"{item.dataset}/{item.split}" == name)
        and (extractor is None or item.extractor.startswith(extractor[:12]))
    ]
    if not chosen:
        wanted = "" if name is None else f" of {name}"
        wanted += "" if extractor is None else f" by {extractor}"
        known = f"; there are {_listed(found)}" if found else "; run: unicoder-vl extract, or import-features"
        raise UserError(f"there are no features{wanted} under {root.uri}{known}")
    return chosen


def one_feature_set(root: Root, name: str, extractor: str | None = None) -> FeatureSet:
    """The only feature set of a split; see `feature_sets`.

    Raises:
        UserError: there is none, or more than one.
    """
    found = feature_sets(root, name, extractor)
    if len(found) > 1:
        raise UserError(f"{name} has features of {len(found)} extractors ({_listed(found)}); choose with --features")
    return found[0]


def _listed(sets: list[FeatureSet]) -> str:
    return ", ".join(map(str, sets[:8])) + (", ..." if len(sets) > 8 else "")
