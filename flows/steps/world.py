"""The demo's small drawn web: made once under the root, and served while a command or a flow runs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.params.checks import check_extract
from flows.params.demo import WORLD_FOLDER, passages_path, world_path
from flows.params.experiment import RebuildParams
from flows.views.status import downloads_pending
from tasks.storage.local_copy import local_copy
from tasks.storage.root import Root

if TYPE_CHECKING:
    from tasks.world.dataset import WorldConfig
    from tasks.world.server import WorldServer

log = logging.getLogger(__name__)

_served_here: set[Path] = set()
"""Folders of the worlds that this process serves now: a flow asks for what the command that started it has."""


def uses_world(params: RebuildParams) -> bool:
    """True where the rows are those of the demo's own web under the root."""
    world = f"{world_path(params.root_uri)}/"
    return all(
        dataset.rows_config(split).rows.startswith(world) for dataset in params.datasets for split in dataset.splits
    )


@contextmanager
def rows_ready(params: RebuildParams) -> Iterator[RebuildParams]:
    """The parameters, ready for a download: rows of the demo's web are served meanwhile.

    Raises:
        UserError: as `world_served`; or the extractor's files are not there, which is looked at before anything is
            drawn.
    """
    if not uses_world(params):
        yield params
        return
    check_extract(params)
    with world_served(params):
        yield params.model_copy(update={"accept_changes": True})  # The world may have moved to another port.


@contextmanager
def world_served(params: RebuildParams, config: WorldConfig | None = None) -> Iterator[None]:
    """Make the world unless it is there, and serve it while the block runs.

    The rows name the port, so another port means downloading again. The port of the existing world is therefore kept;
    where another program has taken it and nothing is left to download, the world is not served at all. Within a block
    that serves it, a further one does nothing.

    Args:
        config: of a new world; an existing one keeps its own.

    Raises:
        UserError: the root cannot be written.
    """
    from tasks.world.dataset import WORLD, WorldConfig, make_world, read_world
    from tasks.world.passages import make_passages

    root = Root(params.root_uri)
    folder = local_copy(root).local(WORLD_FOLDER)
    if folder.resolve() in _served_here:
        yield
        return
    root.check_writable()
    existing = read_world(folder) if (folder / WORLD).exists() else None
    if existing is None:
        log.info("drawing the pictures of a small web in %s, once", folder)
    config = existing.config if existing else config or WorldConfig()
    port = existing.port if existing else _free_port()
    make_world(folder, config, port)
    if _reads_passages(params):
        make_passages(Path(passages_path(params.root_uri)), config.seed)
    server = _start(folder, port)
    if server is None and downloads_pending(params):
        port = _free_port()
        log.info("another program listens on the world's port; moving it to %d, which downloads it again", port)
        make_world(folder, config, port)
        server = _start(folder, port)
    if server is None:
        yield
        return
    _served_here.add(folder.resolve())
    try:
        yield
    finally:
        _served_here.remove(folder.resolve())
        server.__exit__(None, None, None)


def _reads_passages(params: RebuildParams) -> bool:
    """Whether the text beside the world's pictures is among the files of the experiment's text."""
    file = passages_path(params.root_uri)
    return any(file in files for text in params.texts for files in text.splits.values())


def _start(folder: Path, port: int) -> WorldServer | None:
    """Start the server; None where the port is taken."""
    from tasks.world.server import WorldServer

    server = WorldServer(folder, port)
    try:
        return server.__enter__()
    except OSError:
        return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
