"""The commands that import, export and verify features. None of them needs Prefect."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter

from feature_extraction.foreign.boxes import BoxForm
from feature_extraction.samples.regions import Encoding
from feature_extraction.samples.tars import ShardError
from flows.commands.shared import Json, Root, exit_codes
from flows.views.progress import counts_text
from tasks.errors import StageError, UserError
from tasks.features.export_features import ExportFormat, Ids, export_features
from tasks.features.feature_sets import feature_sets, one_feature_set
from tasks.features.imports.config import ImportConfig, ImportSummary
from tasks.features.imports.features import import_features
from tasks.features.imports.pictures import Match
from tasks.features.imports.sources import recognise
from tasks.features.imports.texts import import_texts, lost_text
from tasks.features.verify_features import Verification, verify_features
from tasks.storage import root as storage

log = logging.getLogger("flows.features")

_Dataset = Annotated[str, typer.Option("--dataset", help="DATASET/SPLIT, such as coco/train.")]
_Features = Annotated[
    str | None, typer.Option("--features", help="Name of the folder under ROOT/features, where there are several.")
]


def add_commands(app: typer.Typer) -> None:
    """Add import-features, export-features and verify to a command line."""
    app.command("import-features")(import_command)
    app.command("export-features")(export_command)
    app.command("verify")(verify_command)


def import_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="TSV files, one folder of .npz files, or one of UNITER's image databases.", metavar="FILE..."
        ),
    ],
    dataset: _Dataset,
    detector: Annotated[
        str, typer.Option("--detector", help="Name of what made them; what has one name is one feature set.")
    ],
    root: Root = None,
    match: Annotated[
        Match,
        typer.Option(
            "--match",
            help="How a downloaded picture finds its row: by the name of its file, the last number in it, or its key. "
            "order: nothing was downloaded, and the rows are numbered, or named as in UNITER's database.",
        ),
    ] = "order",
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="Label names, one a line, without the background.")
    ] = None,
    background_first: Annotated[
        bool, typer.Option("--background-first", help="Class numbers of .npz files count the background as 0.")
    ] = False,
    boxes: Annotated[
        BoxForm | None,
        typer.Option(
            "--boxes",
            help="What boxes are measured in: pixels, or normalised, as shares of width and height.",
            show_default="as they tell",
        ),
    ] = None,
    feature_dim: Annotated[
        int | None,
        typer.Option(
            "--feature-dim",
            min=1,
            help="Numbers a region has: tells float16 from float32 features in a TSV.",
            show_default="as they tell",
        ),
    ] = None,
    max_regions: Annotated[
        int | None,
        typer.Option("--max-regions", min=1, max=1000, help="Regions kept a picture.", show_default="theirs, or 100"),
    ] = None,
    encoding: Annotated[
        Encoding, typer.Option("--encoding", help="How features are stored; fp16 where some are below zero.")
    ] = "sqrt8",
    class_scores: Annotated[
        Literal["none", "all"] | None,
        typer.Option(
            "--class-scores",
            help="all: store the distribution over all classes, of files that hold it.",
            show_default="all of UNITER's databases",
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", help="One of UNITER's text databases, whose texts become the split's captions."),
    ] = None,
    word_pieces: Annotated[
        str | None,
        typer.Option("--word-pieces", help="With --texts: the vocab.txt, BERT's folder or hub name of its pieces."),
    ] = None,
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="With --match order: pictures a shard.")
    ] = 1024,
    json: Json = False,
) -> None:
    """Import features of LXMERT, bottom-up attention, VinVL (TSV, .npz) or UNITER (LMDB) as shards for training.

    Stopped, the same command goes on at its shard.
    """
    with exit_codes():
        config = ImportConfig(
            sources=tuple(sources),
            detector=detector,
            vocabulary=vocabulary,
            match=match,
            background_first=background_first,
            boxes=boxes,
            feature_dim=feature_dim,
            max_regions=max_regions,
            encoding=encoding,
            class_scores=class_scores,
            shard_size=shard_size,
        )
        name, split = _split_name(dataset)
        target = storage.Root(root or "data")
        target.check_writable()
        captions = None
        if texts is not None:
            if match != "order" or recognise(sources).form != "uniter":
                raise UserError(
                    "--texts needs pictures that are named as in UNITER's image database: give that alone, no --match"
                )
            captions = import_texts(target, name, split, texts, word_pieces, sources[0])
        summary = import_features(target, name, split, config, _shards_logged("import"))
        if captions is not None:
            summary = summary.model_copy(update={"imported_captions": captions})
        print(summary.model_dump_json() if json else import_text(summary))


def import_text(summary: ImportSummary) -> str:
    """What was imported, what was not and why, and how to train on it."""
    lines = [
        f"{summary.form} features: {summary.shards} shards, {summary.skipped} of them done before; "
        f"{counts_text(summary.counts)}",
        f"in {summary.folder}",
    ]
    if summary.replaced:
        lines.append(f"{summary.replaced} shards made from other files or pictures were replaced")
    for name, number, what in (
        ("missing", summary.counts["missing"], "pictures have no row in the files"),
        ("unused", summary.unused_rows, "rows of the files are of no picture of this split"),
    ):
        if number:
            lines.append(f"{number:,} {what}, such as {', '.join(summary.examples[name])}")
    if summary.repeated_rows:
        lines.append(f"{summary.repeated_rows:,} rows repeat the id of an earlier one and were not read")
    for number, what in (
        (summary.absent, "names in the database's lists have no entry"),
        (summary.unlisted, "entries of the database are not in its list of box counts"),
    ):
        if number:
            lines.append(f"{number:,} {what}; the log names some")
    if (captions := summary.imported_captions) is not None:
        changed = f", {captions.changed:,} of which the vocabulary cuts otherwise" if captions.changed else ""
        lines.append(f"{captions.texts:,} captions{changed}")
        if lost := lost_text(captions):
            lines.append(lost)
    if summary.ignored:
        lines.append(f"passed over in the database: {counts_text(summary.ignored)}")
    if summary.counts["reshaped"]:
        lines.append(
            f"{summary.counts['reshaped']:,} stored pictures have another shape than those of the files: "
            "were they turned, or are they others?"
        )
    if summary.counts["outside"]:
        lines.append(
            f"{summary.counts['outside']:,} pictures have boxes that are empty or leave them: are width and height "
            "those that the boxes were measured in? unicoder-vl inspect shows them"
        )
    if summary.counts["failed"] or summary.counts["missing"]:
        lines.append("keys and reasons of pictures without regions: failed-*.parquet there")
    lines.append(f'train on them with: "extractor": {{"backend": "imported", "model": "{summary.extractor[:12]}"}}')
    return "\n".join(lines)


def export_command(
    dataset: _Dataset,
    out: Annotated[Path, typer.Option("--out", help="The TSV file, or the folder of .npz files; not there yet.")],
    root: Root = None,
    format_: Annotated[
        ExportFormat,
        typer.Option("--format", help="lxmert: TSV of ten fields; npz: as bottom-up-attention.pytorch's."),
    ] = "lxmert",
    ids: Annotated[
        Ids, typer.Option("--ids", help="What pictures are called: our keys, or the names of their files.")
    ] = "key",
    features: _Features = None,
    json: Json = False,
) -> None:
    """Export feature shards for other programs, as float32. Attributes, which are not stored, are zeros."""
    with exit_codes():
        source = storage.Root(root or "data")
        _split_name(dataset)
        chosen = one_feature_set(source, dataset, features)
        try:
            summary = export_features(source, chosen, format_, out, ids, _shards_logged("export"))
        except ShardError as error:
            raise StageError(f"{error}; unicoder-vl verify --deep names all that are damaged") from error
        text = f"{summary.pictures:,} pictures, {summary.regions:,} regions, {summary.bytes:,} bytes in {summary.path}"
        print(summary.model_dump_json() if json else text)


def verify_command(
    root: Root = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="DATASET/SPLIT to look at.", show_default="all")
    ] = None,
    features: _Features = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read everything: checksums, and every record. Else sizes and counts.")
    ] = False,
    json: Json = False,
) -> None:
    """Check that feature shards are whole. Names each damaged one and what to run; exit code 1 if there is any."""
    with exit_codes():
        source = storage.Root(root or "data")
        if dataset is not None:
            _split_name(dataset)
        found = [
            verify_features(source, item, deep, _shards_logged("verify"))
            for item in feature_sets(source, dataset, features)
        ]
        print(
            TypeAdapter(dict[str, list[Verification]]).dump_json({"features": found}).decode()
            if json
            else "\n".join(map(verification_text, found))
        )
    if any(item.problems for item in found):
        raise typer.Exit(1)


def verification_text(found: Verification) -> str:
    """One line for what is whole, and one for each problem."""
    how = "read through" if found.deep else "receipts, sizes and counts"
    state = "finished" if found.finished else "not finished"
    lines = [
        f"{found.dataset}/{found.split} of {found.extractor}: {found.shards} shards, {found.samples:,} images "
        f"({state}; {how}): " + _problems_text(len(found.problems))
    ]
    lines += [f"  {problem.file}: {problem.what}; {problem.command}" for problem in found.problems]
    remove = dict.fromkeys(file for problem in found.problems for file in problem.remove)
    if len(remove) > 1:
        lines.append(f"  all that is to be removed: {' '.join(remove)}")
    return "\n".join(lines)


def _problems_text(number: int) -> str:
    return "whole" if not number else "1 problem" if number == 1 else f"{number} problems"


def _split_name(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\w[\w.-]*)/(\w[\w.-]*)", name)
    if match is None:
        raise UserError(f"--dataset {name!r} is not DATASET/SPLIT, such as coco/train")
    return match[1], match[2]


def _shards_logged(what: str) -> Callable[[int, int], None]:
    """Log a progress line every hundredth shard."""

    def heard(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            log.info("%s: %d of %d shards", what, done, total)

    return heard
