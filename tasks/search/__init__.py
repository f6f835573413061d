"""Users write `from tasks.search import open_search`; torch is imported once it is called for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.search.search import Hit as Hit
    from tasks.search.search import open_search as open_search


def __getattr__(name: str) -> Any:
    if name in ("Hit", "open_search"):
        from tasks.search import search

        return getattr(search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
