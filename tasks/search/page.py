"""What a search found, as one HTML page that needs nothing else: the report's gallery, and where each hit lies."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tasks.pages.page import minute, render, web_text
from tasks.reports.pictures import MIN_SCORE, MOST_DRAWN, picture_of
from tasks.reports.retrieval.gallery import FoundCaption, FoundImage, ImageQuery, TextQuery
from tasks.reports.retrieval.gallery_page import image_queries, text_queries
from tasks.search.search import Hit, QueryPicture, Search
from tasks.storage.root import now


def search_page(search: Search, query: str | QueryPicture, hits: Sequence[Hit]) -> Markup:
    """The page of one query.

    Args:
        search: that was asked.
        query: a text, or the picture that captions were found for.
        hits: best first.

    Raises:
        ShardError: a shard is damaged.
    """
    if isinstance(query, str):
        title, name, found = "Pictures for a text", "", _found_images(search, query, hits)
    else:
        title, name, found = "Captions for a picture", query.name, _found_captions(search, query, hits)
    note = (
        f"Made at {minute(now())} UTC with {search.run.name} ({search.run.setting}, step {search.checkpoint.step:,}). "
        f"Scores are matching logits. Boxes are the regions detected with a score of at least {MIN_SCORE:g}, the best "
        f"{MOST_DRAWN}."
    )
    # Key, file and caption of each hit: what the cards have no room for.
    places = [
        [rank, f"{hit.score:.3f}", hit.key, web_text(hit.caption), web_text(hit.path)]
        for rank, hit in enumerate(hits, 1)
    ]
    return render("search/page.html", title=title, note=note, picture_name=name, found=found, places=places)


def _found_images(search: Search, text: str, hits: Sequence[Hit]) -> Markup:
    stored = search.pictures
    images = [
        FoundImage(picture_of(stored.jpeg(hit.key), stored.regions(hit.key), search.labels), hit.score, rank)
        for rank, hit in enumerate(hits, 1)
    ]
    return text_queries([TextQuery(caption=text, images=images, about=_about(search, search.num_images, "pictures"))])


def _found_captions(search: Search, query: QueryPicture, hits: Sequence[Hit]) -> Markup:
    captions = [FoundCaption(hit.caption, hit.score, rank) for rank, hit in enumerate(hits, 1)]
    picture = picture_of(query.jpeg, query.regions, search.labels)
    about = _about(search, search.num_captions, "captions")
    return image_queries([ImageQuery(picture=picture, captions=captions, about=about)])


def _about(search: Search, count: int, what: str) -> str:
    left_out = search.approximate(count)
    approximate = f" Approximate: {left_out}." if left_out else ""
    return f"The best of {count:,} {what} of {search.dataset}/{search.split}.{approximate}"
