"""The command `search`: pictures for a text, captions for a picture. It is no flow and needs no Prefect server."""

from __future__ import annotations

import logging
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from feature_extraction.samples.tars import ShardError
from flows.commands.shared import Json, exit_codes
from flows.commands.shared import Root as RootOption
from flows.views.progress import ProgressLog
from model.downstream.retrieval.config import ScoringConfig, Shortlist
from tasks.errors import StageError, UserError
from tasks.records import Record
from tasks.search.page import search_page
from tasks.search.query_picture import DetectorFiles
from tasks.search.search import QueryPicture, Search, open_search
from tasks.storage.root import Root
from tasks.training.runs import checkpoint_choice

log = logging.getLogger("flows.search")

_SHOWN_CAPTION = 100
"""Characters of a caption on a line of the terminal."""


class FoundLine(Record):
    """One hit of a search."""

    rank: int = Field(description="1 is best")
    score: float = Field(description="matching logit")
    key: str = Field(description="of the picture, or of the caption's picture")
    path: str = Field(description="file or URL of the picture, or its shard and member")
    caption: str = Field(description="the one found, or the picture's first one")


class SearchResult(Record):
    """The JSON that --json prints."""

    query: str = Field(description="the text, or the name of the picture")
    run: str
    setting: str
    step: int = Field(description="of the checkpoint that was asked")
    data: str = Field(description="DATASET/SPLIT that was searched")
    candidates: int = Field(description="pictures, or captions, that were searched")
    approximate: str | None = Field(description="what was scored exactly; None: everything")
    hits: tuple[FoundLine, ...]
    page: str | None = Field(description="full name of the HTML page")


def add_commands(app: typer.Typer) -> None:
    """Add `search` to a command line."""
    app.command("search")(search)


def search(
    text: Annotated[
        str | None, typer.Argument(help='What is to be seen, such as "a dog on a beach".', show_default=False)
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="Instead of a text: find captions for this picture file, or for this key."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Name of a run under ROOT/runs, or its beginning.",
            show_default="the newest complete finetuning run",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", help="With a text: DATASET/SPLIT whose pictures are searched.", show_default="the only one"
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            "--captions", help="With --image: DATASET/SPLIT whose captions are searched.", show_default="the only one"
        ),
    ] = None,
    root: RootOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Hits that are shown.")] = 5,
    page: Annotated[
        Path | None, typer.Option("--page", help="Write the hits with their pictures to this file.")
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", help="result: that of a complete run; newest: of a run under way, too; or a step."
        ),
    ] = "result",
    shortlist: Annotated[
        int | None,
        typer.Option(
            "--shortlist",
            min=10,
            help="Faster, approximate: score exactly only the best so many of a first pass over few regions.",
            show_default="everything is scored exactly",
        ),
    ] = None,
    detector_weights: Annotated[
        str | None,
        typer.Option(
            "--detector-weights",
            help="With --image FILE: weights of the features' detector, where they do not come with its name.",
        ),
    ] = None,
    detector_config: Annotated[
        str | None,
        typer.Option("--detector-config", help="With --image FILE: the detector's config file, where it has one."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Json = False,
) -> None:
    """Find pictures for a text, or captions for a picture, by a run's scores."""
    with exit_codes():
        _check_query(text, image, images, captions)
        if page is not None and (page.is_dir() or not page.name):
            raise UserError(f"--page {page} is a folder; give the name of a file")
        chosen = None if shortlist is None else Shortlist(size=shortlist)
        try:
            opened = open_search(
                root or "data",
                run,
                images if image is None else captions,
                checkpoint_choice(checkpoint),
                ScoringConfig(device=device, shortlist=chosen),
                DetectorFiles(detector_weights, detector_config),
            )
            result = _find(opened, text, image, top, page)
        except ShardError as error:
            raise StageError(str(error)) from error
        print(result.model_dump_json() if json else search_text(result))


def search_text(result: SearchResult) -> str:
    """A line a hit: rank, score, key, path and caption; then remarks."""
    paths = [_printable(hit.path) for hit in result.hits]
    width = max(map(len, paths))
    lines = [
        f"{hit.rank:>3}  {hit.score:>8.3f}  {hit.key}  {path:<{width}}  "
        f"{textwrap.shorten(_printable(hit.caption), _SHOWN_CAPTION, placeholder=' ...')}"
        for hit, path in zip(result.hits, paths, strict=True)
    ]
    if result.approximate is not None:
        lines.append(f"approximate: {result.approximate}")
    if result.page is not None:
        lines.append(f"page: {result.page}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Text of the web without terminal control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def _check_query(text: str | None, image: str | None, images: str | None, captions: str | None) -> None:
    if (text is None) == (image is None):
        raise UserError('give what to look for: a text, such as "a dog on a beach", or --image FILE')
    if image is not None and ("." in image or "/" in image) and not Path(image).is_file():
        raise UserError(f"there is no picture file {image}; give one, or the key of a picture that has regions")
    if text is not None and captions is not None:
        raise UserError("--captions goes with --image; a text is looked for among pictures: --images DATASET/SPLIT")
    if image is not None and images is not None:
        raise UserError("--images goes with a text; a picture is looked for among captions: --captions DATASET/SPLIT")


def _find(opened: Search, text: str | None, image: str | None, top: int, page: Path | None) -> SearchResult:
    """Search by `text` or `image`; see `_check_query`."""
    query = text if text is not None else opened.read_picture(str(image))
    count, what = (opened.num_captions, "captions") if text is None else (opened.num_images, "pictures")
    searched, step = f"{opened.dataset}/{opened.split}", opened.checkpoint.step
    log.info("%d %s of %s, with %s (%s, step %d)", count, what, searched, opened.run.name, opened.run.setting, step)
    progress = ProgressLog(log, "search", "pairs")
    hits = (
        opened.captions(query, top, progress)
        if isinstance(query, QueryPicture)
        else opened.images(query, top, progress)
    )
    return SearchResult(
        query=query.name if isinstance(query, QueryPicture) else query,
        run=opened.run.name,
        setting=opened.run.setting,
        step=step,
        data=searched,
        candidates=count,
        approximate=opened.approximate(count),
        hits=tuple(
            FoundLine(rank=rank, score=hit.score, key=hit.key, path=hit.path, caption=hit.caption)
            for rank, hit in enumerate(hits, 1)
        ),
        page=None if page is None else _publish(page, search_page(opened, query, hits)),
    )


def _publish(page: Path, content: str) -> str:
    place = Root(str(page.parent))
    try:
        place.publish_bytes(page.name, content.encode())
    except OSError as error:
        raise UserError(f"cannot write {page} ({error.strerror}); give another file") from error
    return place.path(page.name)
