"""What a search found, as one HTML page that needs nothing else: the report's gallery, and where each hit lies."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tasks.pages.page import html_page, minute, web_text
from tasks.reports.pictures import MIN_SCORE, MOST_DRAWN, picture_of
from tasks.reports.retrieval.gallery import FoundCaption, FoundImage, ImageQuery, TextQuery
from tasks.reports.retrieval.gallery_page import image_queries, text_queries
from tasks.search.search import Hit, QueryPicture, Search
from tasks.storage.root import now


def search_page(search: Search, query: str | QueryPicture, hits: Sequence[Hit]) -> str:
    """The page of one query.

    Args:
        search: that was asked.
        query: a text, or the picture that captions were found for.
        hits: best first.

    Raises:
        ShardError: a shard is damaged.
    """
    if isinstance(query, str):
        title, body = "Pictures for a text", _found_images(search, query, hits)
    else:
        title, body = "Captions for a picture", _found_captions(search, query, hits)
    note = (
        f"Made at {minute(now())} UTC with {search.run.name} ({search.run.setting}, step {search.checkpoint.step:,}). "
        f"Scores are matching logits. Boxes are the regions detected with a score of at least {MIN_SCORE:g}, the best "
        f"{MOST_DRAWN}."
    )
    return html_page(title, note, f"<section>{body}</section><section>{_places(hits)}</section>")


def _found_images(search: Search, text: str, hits: Sequence[Hit]) -> str:
    stored = search.pictures
    images = [
        FoundImage(picture_of(stored.jpeg(hit.key), stored.regions(hit.key), search.labels), hit.score, rank)
        for rank, hit in enumerate(hits, 1)
    ]
    return text_queries([TextQuery(caption=text, images=images, about=_about(search, search.num_images, "pictures"))])


def _found_captions(search: Search, query: QueryPicture, hits: Sequence[Hit]) -> str:
    captions = [FoundCaption(hit.caption, hit.score, rank) for rank, hit in enumerate(hits, 1)]
    picture = picture_of(query.jpeg, query.regions, search.labels)
    about = _about(search, search.num_captions, "captions")
    return f"<h2>{web_text(query.name)}</h2>" + image_queries(
        [ImageQuery(picture=picture, captions=captions, about=about)]
    )


def _about(search: Search, count: int, what: str) -> str:
    left_out = search.approximate(count)
    approximate = f" Approximate: {left_out}." if left_out else ""
    return f"The best of {count:,} {what} of {search.dataset}/{search.split}.{approximate}"


def _places(hits: Sequence[Hit]) -> str:
    """Key, file and caption of each hit: what the cards have no room for."""
    lines = "".join(
        f'<tr><th scope="row">{rank}</th><td>{hit.score:.3f}</td><td class="text">{escape(hit.key)}</td>'
        f'<td class="text web">{web_text(hit.caption)}</td><td class="text web">{web_text(hit.path)}</td></tr>'
        for rank, hit in enumerate(hits, 1)
    )
    heads = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("rank", ""),
            ("score", ""),
            ("key", ' class="text"'),
            ("caption", ' class="text"'),
            ("file", ' class="text"'),
        )
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<h2>Where they lie</h2><div class="wide">{table}</div>'
