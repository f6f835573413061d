"""The features and captions that training and scoring read: where they lie, and their digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from feature_extraction.config import ExtractorConfig
from model.config import ExampleSource, FeatureSource, LoaderConfig
from tasks.errors import UserError
from tasks.examples.table import ExamplesReceipt
from tasks.extractor import extractor_fingerprint
from tasks.made_from import check_features
from tasks.records import Receipt
from tasks.storage.local_copy import local_copy
from tasks.storage.paths import (
    CACHE,
    captions_path,
    captions_receipt_path,
    examples_path,
    examples_receipt_path,
    feature_manifest_path,
    features_folder,
)
from tasks.storage.root import Root


@dataclass(frozen=True)
class DataSpec:
    """One split, seen through one extractor, and how it is read."""

    dataset: str
    split: str
    extractor: ExtractorConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class ResolvedData:
    """Paths of a split's features and captions, and their digests.

    Attributes:
        source: as the root has it; captions on an object store are fetched by `with_local_captions`.
    """

    source: FeatureSource
    identity: dict[str, str]


def resolve_data(root: Root, data: DataSpec) -> ResolvedData:
    """Find a split's features and captions.

    Raises:
        UserError: they are not there yet, or were made from other rows or images than the root has now.
    """
    extractor, _ = extractor_fingerprint(data.extractor)
    return resolve_features(root, data.dataset, data.split, extractor, data.loader)


def resolve_features(root: Root, dataset: str, split: str, extractor: str, loader: LoaderConfig) -> ResolvedData:
    """Find the features and captions of an extractor known by its fingerprint."""
    name = f"{dataset}/{split}"
    manifest = feature_manifest_path(extractor, dataset, split)
    captions = root.read_model(captions_receipt_path(dataset, split), Receipt)
    if captions is None:
        raise UserError(f"{name} has no captions under {root.uri}; run `unicoder-vl download` with the same parameters")
    if not root.exists(manifest):
        raise UserError(
            f"{name} has no finished features of this extractor ({extractor[:12]}) under {root.uri}; "
            "run `unicoder-vl extract` with the same parameters"
        )
    check_features(root, dataset, split, extractor)
    return ResolvedData(
        source=FeatureSource(
            features_path=root.path(features_folder(extractor, dataset, split)),
            captions_path=root.path(captions_path(dataset, split)),
            cache_path=str(local_copy(root).local(CACHE)),
            name=name,
            loader=loader,
        ),
        identity={
            "features": hashlib.sha256(root.read_bytes(manifest)).hexdigest(),
            "captions": captions.content_digest(),
        },
    )


@dataclass(frozen=True)
class ResolvedExamples:
    """Paths of a split's features and of a task's examples, both local or the features remote; and their digests."""

    source: ExampleSource
    identity: dict[str, str]


def resolve_examples(root: Root, data: ResolvedData, task: str) -> ResolvedExamples:
    """Find a task's examples on a split, beside its features.

    Raises:
        UserError: there are none, or they are another task's.
    """
    name = data.source.name
    dataset, _, split = name.partition("/")
    receipt = root.read_model(examples_receipt_path(dataset, split), ExamplesReceipt)
    if receipt is None:
        raise UserError(f"{name} has no examples of {task} under {root.uri}; prepare them, see docs/developers.md")
    if receipt.task != task:
        raise UserError(
            f"the examples of {name} under {root.uri} are of task {receipt.task}, not {task}; name a split of it"
        )
    path = root.path(examples_path(dataset, split))
    if not root.is_local:
        target = local_copy(root).local(f"fetched/examples-{receipt.file.sha256[:16]}.parquet")
        if not target.exists():
            root.fetch(examples_path(dataset, split), target, receipt.file)
        path = str(target)
    content = data.source.model_dump(exclude={"captions_path"}) | {"examples_path": path}
    identity = {"features": data.identity["features"], "examples": receipt.file.sha256}
    return ResolvedExamples(ExampleSource.model_validate(content), identity)
