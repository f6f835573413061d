"""Turn features that another program extracted into feature shards, which training uses as its own.

A shard of a downloaded split holds the pictures of the image shard of its number, found by name, number or key;
without a downloaded split, pictures are numbered in the order of the files. Every picture is accounted for: `ok`;
`failed`, its row being damaged; or `missing`, there being no row for it. The last two are in the shard's
failed-NNNNN.parquet with the reason. Rows that no picture has are counted in the summary.

The features' fingerprint says which detector made them, by the name that the user gives, and in which form they are
stored. Receipts say which rows of which files went into a shard: an import that was stopped goes on at its shard.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import IO, Any

import numpy as np

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import ForeignRegions, region_sample
from feature_extraction.samples.manifest import FeatureManifest, ShardEntry
from feature_extraction.samples.regions import REGION_FORMAT, RegionLayout, encode_regions
from feature_extraction.samples.tars import ShardError, write_tar
from tasks.errors import UserError
from tasks.extractor import ExtractorRecord
from tasks.features.failed_regions import failure_table
from tasks.features.imports.config import ImportConfig, ImportSummary
from tasks.features.imports.pictures import Picture, ShardPictures, name_function
from tasks.features.imports.probe import probe
from tasks.features.imports.sources import ForeignSource, Row, open_source, recognise
from tasks.features.inspection.region_statistics import boxes_outside
from tasks.made_from import begin_import, check_captions, image_digests, made_from_path, publish_features
from tasks.records import Receipt, Stage, fingerprint
from tasks.storage import paths
from tasks.storage import root as storage
from tasks.storage.locks import alone
from tasks.storage.root import Root, Stopwatch

logger = logging.getLogger("tasks.import_features")

OnProgress = Callable[[int, int], None]
"""Called with (shards done, shards)."""

_EXAMPLES = 5
_SHAPE_CHANGE = 0.05
_COUNTS = ("ok", "failed", "missing", "regions", "cut", "reshaped", "outside")


def import_features(
    root: Root, dataset: str, split: str, config: ImportConfig, on_progress: OnProgress | None = None
) -> ImportSummary:
    """Import a split's features, skipping finished shards.

    Writes what extraction writes: `regions-NNNNN.tar`, `failed-NNNNN.parquet` and a receipt per shard, extractor.json
    and, last, manifest.json.

    Raises:
        StageError: another process is importing such features.
        UserError: the files, or the split, are missing; their form is not known; nothing in them is a picture of the
            split; or they cannot be stored with this encoding.
    """
    files = recognise(config.sources)
    with open_source(files, name_function(config.match), config.background_first, config.feature_dim) as source:
        importer = _Importer(root, dataset, split, config, source)
        name = f"import-{importer.extractor[:12]}-{dataset}-{split}"
        with alone(root, name, f"importing features of {dataset}/{split}"):
            return importer.run(on_progress)


class _Importer:
    """One import, with the state that all its shards share."""

    def __init__(self, root: Root, dataset: str, split: str, config: ImportConfig, source: ForeignSource) -> None:
        self.root, self.dataset, self.split, self.config, self.source = root, dataset, split, config, source
        self.pictures = ShardPictures(root, dataset, split, config.match, config.shard_size, source)
        self.about = probe(source, config)
        if source.database is not None:
            source.database.ignored.clear()  # The first pictures are read again.
        self.layout = RegionLayout(
            self.about.max_regions,
            self.about.feature_dim,
            config.encoding,
            num_classes=len(self.about.labels) if self.about.has_class_scores else 0,
        )
        self.details: dict[str, Any] = {
            "format": self.layout.format,
            "imported_from": source.form,
            "detector": config.detector,
            "labels": self.about.label_note,
            "vocabulary_sha256": hashlib.sha256("\n".join(self.about.labels).encode()).hexdigest(),
            "background": "of class probabilities that have it, else 0",
            "background_first": config.background_first,
            "feature_dim": self.layout.feature_dim,
            "max_regions": self.layout.max_regions,
            "encoding": config.encoding,
            **({"class_scores": "all"} if self.about.has_class_scores else {}),
            **_sizes_note(source, config),
        }
        self.extractor = fingerprint(self.details)
        self.folder = paths.features_folder(self.extractor, dataset, split)
        self.used = bytearray(source.numbers)
        self.missing: list[str] = []
        self.replaced = 0
        self.added: list[int] = []

    def run(self, on_progress: OnProgress | None) -> ImportSummary:
        for shard in range(self.pictures.shards):
            self._mark(list(self.pictures.of_shard(shard)))
        if not any(self.used):
            raise UserError(self._nothing_fits())
        by_order = self.config.match == "order"
        if not by_order:
            check_captions(self.root, self.dataset, self.split)
        images = {} if by_order else image_digests(self.root, self.dataset, self.split, range(self.pictures.shards))
        receipts = []
        skipped = 0
        try:
            for shard in range(self.pictures.shards):
                receipt, existed = self._shard(shard)
                receipts.append(receipt)
                skipped += existed
                if on_progress is not None:
                    on_progress(shard + 1, self.pictures.shards)
        except UserError:
            self._take_back()  # A refused import can never be finished; a stopped one can.
            raise
        self._publish_record()
        self._publish_manifest(receipts, images, by_order)
        return self._summary(receipts, skipped)

    def _mark(self, wanted: list[Picture]) -> None:
        """Mark rows as used.

        Raises:
            UserError: two pictures have one row.
        """
        for picture in wanted:
            if picture.row is None:
                self.missing += [picture.name][: _EXAMPLES - len(self.missing)]
                continue
            if self.used[picture.row]:
                raise UserError(
                    f"picture {picture.key} and an earlier one of {self.dataset}/{self.split} are both named "
                    f"{picture.name!r}, so their features cannot be told apart; use --match key"
                )
            self.used[picture.row] = 1

    # --- one shard

    def _shard(self, number: int) -> tuple[Receipt, bool]:
        """The shard's receipt, and whether it was there before."""
        wanted = list(self.pictures.of_shard(number))
        shard_fingerprint = fingerprint(
            {
                "format": REGION_FORMAT,
                "extractor": self.extractor,
                "source": self.source.sha256,
                "pictures": [picture.model_dump() for picture in wanted],
                **self._reading(),
            }
        )
        receipt_path = f"{self.folder}/{paths.region_receipt_name(number)}"
        done = self.root.done(receipt_path, shard_fingerprint)
        if done is not None:
            return done, True
        existed = self.root.exists(receipt_path)
        watch = Stopwatch()
        counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        failures: list[tuple[str, str]] = []
        name = paths.region_shard_name(number)
        members = self._members(wanted, counts, failures)

        def write(out: IO[bytes]) -> None:
            write_tar(out, members)
            # Nothing refuses the shard any more. The manifest promises all shards: it is written again after the last.
            self.root.remove(paths.feature_manifest_path(self.extractor, self.dataset, self.split))
            self._publish_record()
            begin_import(self.root, self.dataset, self.split, self.extractor, self.config.match == "order")

        if not existed:
            self.added.append(number)
        files = {name: self.root.publish(f"{self.folder}/{name}", write)}
        failed_name = paths.failed_regions_name(number)
        if failures or self.root.exists(f"{self.folder}/{failed_name}"):
            files[failed_name] = self.root.publish_bytes(f"{self.folder}/{failed_name}", failure_table(failures))
        receipt = Receipt(
            stage=Stage.EXTRACT,
            dataset=self.dataset,
            split=self.split,
            shard=number,
            fingerprint=shard_fingerprint,
            counts=dict(counts),
            files=files,
            seconds=watch.seconds,
            created_at=storage.now(),
        )
        self.root.publish_model(receipt_path, receipt)
        self.replaced += existed
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        logger.info("imported %s/%s %05d: %s", self.dataset, self.split, number, outcomes)
        return receipt, False

    def _reading(self) -> dict[str, object]:
        """The file-reading settings in a fingerprint; empty for the defaults, so that older imports stay valid."""
        reading: dict[str, object] = {}
        if self.about.are_boxes_given or "normalised" in self.about.box_forms:
            reading["boxes"] = self.about.box_forms
        if set(self.source.float_types) != {"float32"}:
            reading["numbers"] = self.source.float_types
        return reading

    def _members(
        self, wanted: list[Picture], counts: Counter[str], failures: list[tuple[str, str]]
    ) -> Iterator[tuple[str, bytes]]:
        for picture in wanted:
            row = None if picture.row is None else self.source.row(picture.row)
            if row is None:
                counts["missing"] += 1
                failures.append((picture.key, f"no features of {picture.name!r} in the imported files"))
                continue
            try:
                record = self._record(picture, row, counts)
            except (ForeignError, ShardError) as error:
                counts["failed"] += 1
                failures.append((picture.key, f"features of {row.image_id!r}: {error}"))
                continue
            counts["ok"] += 1
            yield f"{picture.key}.rgn", record

    def _record(self, picture: Picture, row: Row, counts: Counter[str]) -> bytes:
        """Encode the picture's record.

        Raises:
            ForeignError, ShardError: its row is damaged.
            UserError: features below zero cannot be stored with this encoding.
        """
        regions = self.about.read(self.source, row)
        dim, expected = regions.features.shape[1], self.layout.feature_dim
        if not len(regions.boxes):
            regions = _without_regions(regions, expected)
        elif dim != expected:
            raise ForeignError(f"{dim} numbers a region, but {expected} in most of the first pictures")
        sample = region_sample(
            regions, picture.key, picture.size, self.layout.max_regions, self.about.classes_of(regions)
        )
        lowest = float(sample.features.min(initial=0))
        if self.config.encoding == "sqrt8" and lowest < 0:
            raise UserError(
                f"features of {row.image_id!r} are below zero ({lowest:.4g}), and sqrt8 stores none such; import with "
                "--encoding fp16"
            )
        if not self.layout.num_classes:
            sample = replace(sample, class_scores=None)
        elif not len(sample.boxes):
            sample = replace(sample, class_scores=np.zeros((0, 1 + self.layout.num_classes), np.float32))
        elif sample.class_scores is None:
            raise ForeignError("no distribution over the classes, which others have")
        record = encode_regions(sample, self.layout)
        counts["regions"] += len(sample.boxes)
        counts["cut"] += len(regions.boxes) > len(sample.boxes)
        counts["reshaped"] += _is_reshaped(regions.size, picture.size)
        counts["outside"] += bool(boxes_outside(sample.boxes, sample.size).any())
        return record

    # --- the whole split

    def _take_back(self) -> None:
        """Remove this import's shards, and the record of a feature set that holds nothing else."""
        for number in self.added:
            self.root.remove(f"{self.folder}/{paths.region_receipt_name(number)}")
            for name in (paths.region_shard_name(number), paths.failed_regions_name(number)):
                self.root.remove(f"{self.folder}/{name}")
        about = made_from_path(self.extractor, self.dataset, self.split)
        if self.root.names(self.folder) == [about.rpartition("/")[2]]:
            self.root.remove(about)
        self.root.remove_empty_folders(self.folder)
        record = paths.extractor_path(self.extractor)
        folder, _, name = record.rpartition("/")
        if self.root.names(folder) == [name]:
            self.root.remove(record)
            self.root.remove_empty_folders(folder)

    def _nothing_fits(self) -> str:
        row = self.source.row(0)
        ids = "" if row is None else f" ({row.image_id!r})"
        names = f" ({self.missing[0]!r})" if self.missing else ""
        return (
            f"no id in the files{ids} is the {self.config.match} of a picture of {self.dataset}/{self.split}{names}; "
            "try another --match, or give the features of this split"
        )

    def _publish_record(self) -> None:
        path = paths.extractor_path(self.extractor)
        if not self.root.exists(path):
            record = ExtractorRecord(
                fingerprint=self.extractor,
                details=self.details,
                feature_dim=self.layout.feature_dim,
                labels=self.about.labels,
            )
            self.root.publish_model(path, record)

    def _publish_manifest(self, receipts: list[Receipt], images: dict[int, str], by_order: bool) -> None:
        names = [paths.region_shard_name(receipt.shard) for receipt in receipts]
        manifest = FeatureManifest(
            format=self.layout.format,
            max_regions=self.layout.max_regions,
            feature_dim=self.layout.feature_dim,
            encoding=self.config.encoding,
            num_classes=self.layout.num_classes,
            labels=self.about.labels,
            extractor=self.extractor,
            extractor_details=self.details,
            shards=tuple(
                ShardEntry(
                    name=name,
                    samples=receipt.counts["ok"],
                    bytes=receipt.files[name].bytes,
                    sha256=receipt.files[name].sha256,
                )
                for name, receipt in zip(names, receipts, strict=True)
            ),
        )
        publish_features(self.root, self.dataset, self.split, manifest, images, by_order)

    def _summary(self, receipts: list[Receipt], skipped: int) -> ImportSummary:
        counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        for receipt in receipts:
            counts.update(receipt.counts)
        rows = (self.source.row(number) for number, used in enumerate(self.used) if not used)
        unused = [row.image_id for row in islice(filter(None, rows), _EXAMPLES)]
        return ImportSummary(
            extractor=self.extractor,
            folder=self.root.path(self.folder),
            form=self.source.form,
            shards=len(receipts),
            skipped=skipped,
            replaced=self.replaced,
            counts=dict(counts),
            unused_rows=self.source.length - sum(self.used),
            repeated_rows=self.source.numbers - self.source.length,
            examples={"unused": tuple(unused), "missing": tuple(self.missing)},
            **self._of_database(),
        )

    def _of_database(self) -> dict[str, Any]:
        """What has no partner in UNITER's database, and what was passed over."""
        database = self.source.database
        if database is None:
            return {}
        return {
            "ignored": dict(database.ignored),
            "absent": len(database.absent),
            "unlisted": len(database.unlisted),
        }


def _sizes_note(source: ForeignSource, config: ImportConfig) -> dict[str, str]:
    """What everyone who looks at these features is told of their boxes."""
    if source.picture_size is None or config.match != "order":
        return {}
    width, height = source.picture_size
    return {"note": f"boxes are shares of pictures whose size nothing tells: it is taken as {width} x {height}"}


def _without_regions(regions: ForeignRegions, feature_dim: int) -> ForeignRegions:
    """A picture without regions, whose form may not tell D."""
    return replace(regions, features=np.zeros((0, feature_dim), np.float32))


def _is_reshaped(own: tuple[int, int] | None, stored: tuple[int, int] | None) -> bool:
    """True where a stored picture is no resized copy of the boxes' picture."""
    if own is None or stored is None:
        return False
    return abs((own[0] * stored[1]) / (own[1] * stored[0]) - 1) > _SHAPE_CHANGE
