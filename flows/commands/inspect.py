"""The command `inspect`: the features of a split on one page, as a contact sheet, or as JSON."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from feature_extraction.samples.tars import ShardError
from flows.commands.shared import MOST_SEED, Json, Params, Recipe, exit_codes
from flows.commands.shared import Root as RootOption
from flows.params import checks
from tasks.errors import StageError, UserError, is_disk_full
from tasks.extractor import extractor_fingerprint
from tasks.features.feature_sets import FeatureSet, one_feature_set
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.doubts import comparison_text, doubts, warnings
from tasks.features.inspection.drawing import contact_sheet
from tasks.features.inspection.inspection import Inspection, inspect_features
from tasks.features.inspection.page import inspection_page
from tasks.features.inspection.shown_pictures import ShownPicture
from tasks.records import Record
from tasks.storage.paths import inspection_page_path
from tasks.storage.root import Root, now


class InspectResult(Record):
    """The JSON that --json prints."""

    page: str = Field(description="full name of the HTML page")
    picture: str | None = Field(description="full name of the contact sheet")
    inspection: Inspection


def add_commands(app: typer.Typer) -> None:
    """Add `inspect` to a command line."""
    app.command("inspect")(inspect)


def inspect(
    of: Annotated[str | None, typer.Option("--of", help="DATASET/SPLIT to look at, such as web/train.")] = None,
    root: RootOption = None,
    recipe: Recipe = None,
    params: Params = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="Name of a folder under ROOT/features, instead of the one that belongs to the recipe's extractor.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="Another set of this split to compare with, by its folder under ROOT/features: are the same regions "
            "found, and called the same?",
        ),
    ] = None,
    keys: Annotated[str | None, typer.Option("--keys", help="Images to show, by key: 000000012,000000345.")] = None,
    count: Annotated[
        int, typer.Option("--count", min=0, max=200, help="Without --keys: images to show, drawn at random.")
    ] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of that draw.")] = 0,
    shards: Annotated[str | None, typer.Option("--shards", help="Look at these shards only, such as 0-9,12.")] = None,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="Draw no regions below this score.")
    ] = 0.2,
    regions: Annotated[
        int, typer.Option("--regions", min=1, help="Draw so many regions of an image, best first.")
    ] = 10,
    images: Annotated[
        int, typer.Option("--images", min=1, help="Images read for the statistics; of more, an even selection.")
    ] = 4096,
    out: Annotated[
        str | None, typer.Option("--out", help="The page.", show_default="ROOT/inspect-DATASET-SPLIT.html")
    ] = None,
    picture: Annotated[
        str | None, typer.Option("--picture", help="Write a contact sheet of the images as well, to this .png file.")
    ] = None,
    json: Json = False,
) -> None:
    """Show features: pictures with their regions, statistics of every shard, what failed. Reads what is finished."""
    with exit_codes():
        if picture is not None and not picture.lower().endswith(".png"):
            raise UserError(f"--picture {picture!r} is not the name of a .png file")
        if picture is not None and keys is None and not count:
            raise UserError("--picture needs pictures; give a --count above 0, or --keys")
        config = InspectConfig(
            shards=None if shards is None else shard_ranges(shards),
            keys=None if keys is None else tuple(dict.fromkeys(key.strip() for key in keys.split(",") if key.strip())),
            count=count,
            seed=seed,
            min_score=min_score,
            max_drawn=regions,
            max_images=images,
        )
        under, chosen = _choose_features(root, recipe, params, features, of)
        other = None if against is None else one_feature_set(under, f"{chosen.dataset}/{chosen.split}", against)
        try:
            inspection, pictures = inspect_features(under, chosen, config, other)
        except ShardError as error:
            raise StageError(str(error)) from error
        made = f"Made at {now()[:16].replace('T', ' ')} UTC from {under.uri}"
        place, name = (under, inspection_page_path(chosen.dataset, chosen.split)) if out is None else _place(out)
        _publish(place, name, inspection_page(inspection, pictures, made).encode())
        sheet = None if picture is None else _publish_sheet(picture, pictures)
        result = InspectResult(page=place.path(name), picture=sheet, inspection=inspection)
        print(result.model_dump_json() if json else inspect_text(result))


def shard_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Parse `0-9,12` to ((0, 9), (12, 12)).

    Raises:
        UserError: it is no such list.
    """
    if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text) is None:
        raise UserError(f"--shards {text!r} cannot be read: give numbers and ranges, such as 0-9,12")
    ranges = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ranges.append((int(first), int(last or first)))
    return tuple(ranges)


def inspect_text(result: InspectResult) -> str:
    """The inspection's result, for a terminal."""
    found, statistics = result.inspection, result.inspection.statistics
    lines = [f"warning: {text}" for text in (*warnings(found.details), *doubts(found))]
    lines.append(
        f"{found.dataset}/{found.split}: {found.samples:,} images with regions in {len(found.shards):,} shards, "
        f"{found.failed:,} failed; statistics over {statistics.images:,} images"
    )
    lines.append(
        f"regions an image: {statistics.min_regions} to {statistics.max_regions}, median {statistics.median_regions:g}"
    )
    lines.append(
        f"mean score {statistics.mean_score:.3f}, mean feature norm {statistics.mean_norm:.4g}, "
        f"zeros {statistics.zeros:.1%}; {len(statistics.labels_absent):,} of {found.num_labels:,} labels never occur"
    )
    if found.captions is not None:
        lines.append(
            f"words of labels occur in {found.captions.own:.1%} of their own captions, {found.captions.others:.1%} of "
            "others"
        )
    if found.comparison is not None:
        lines.append(comparison_text(found.comparison))
    lines += [
        f"shard {line.shard:05d} stands out: {', '.join(line.outliers)}" for line in found.shards if line.outliers
    ]
    lines.append(f"page: {result.page}")
    if result.picture is not None:
        lines.append(f"picture: {result.picture}")
    return "\n".join(lines)


def _choose_features(
    root_uri: str | None, recipe: str | None, params: Path | None, features: str | None, of: str | None
) -> tuple[Root, FeatureSet]:
    """The root, and features under it: of the extractor named, the recipe's, or else the only one there is."""
    loaded = checks.load_params(recipe, params, root_uri) if recipe is not None or params is not None else None
    root = Root(root_uri or "data") if loaded is None else Root(loaded.root_uri)
    if of is None or of.count("/") != 1 or not all(of.split("/")):
        raise UserError(f"--of {of or ''!r} is not DATASET/SPLIT: name what to look at, such as --of web/train")
    if features is None and loaded is not None:
        features = extractor_fingerprint(loaded.extractor)[0][:12]
    return root, one_feature_set(root, of, features)


def _place(path: str) -> tuple[Root, str]:
    """Split a file's path into folder and name."""
    folder, slash, name = path.rpartition("/")
    if not name:
        raise UserError(f"{path!r} is a folder; give the name of a file")
    return Root(folder or slash or "."), name


def _publish_sheet(path: str, pictures: list[ShownPicture]) -> str:
    sheet = contact_sheet([(picture.image, " / ".join(picture.captions) or picture.key) for picture in pictures])
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    place, name = _place(path)
    _publish(place, name, stream.getvalue())
    return place.path(name)


def _publish(place: Root, name: str, content: bytes) -> None:
    try:
        place.publish_bytes(name, content)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"cannot write {place.path(name)} ({error.strerror}); give another file") from error
