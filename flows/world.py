"""The demo's own small web: made once under the root, and served from this machine while a command runs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.params import RebuildParams
from flows.recipes import WORLD_FOLDER
from flows.status import downloads_pending
from tasks.storage import Root
from tasks.world.dataset import WORLD, WorldConfig, make_world, read_world
from tasks.world.server import WorldServer

log = logging.getLogger(__name__)


def uses_world(params: RebuildParams) -> bool:
    """True where the rows are those of the demo's own web under the root."""
    world = f"{params.root_uri.rstrip('/')}/{WORLD_FOLDER}/"
    return all(
        dataset.rows_config(split).rows.startswith(world) for dataset in params.datasets for split in dataset.splits
    )


@contextmanager
def world_served(params: RebuildParams, config: WorldConfig | None = None) -> Iterator[None]:
    """Make the world unless it stands, and serve it while the block runs.

    The rows name the port, so another port means downloading again. The port of the standing world is therefore kept;
    where another program has taken it and nothing is left to download, the world is not served at all.

    Args:
        config: of a new world; one that stands keeps its own.

    Raises:
        UserError: the root is not a local folder that can be written.
    """
    root = Root(params.root_uri)
    folder = root.local(WORLD_FOLDER, "the demo")
    root.check_writable()
    standing = read_world(folder) if (folder / WORLD).exists() else None
    if standing is None:
        log.info("drawing the pictures of a small web in %s, once", folder)
    config = standing.config if standing else config or WorldConfig()
    port = standing.port if standing else _free_port()
    make_world(folder, config, port)
    server = _start(folder, port)
    if server is None and downloads_pending(params):
        port = _free_port()
        log.info("another program listens on the world's port; moving it to %d, which downloads it again", port)
        make_world(folder, config, port)
        server = _start(folder, port)
    if server is None:
        yield
        return
    try:
        yield
    finally:
        server.__exit__(None, None, None)


def _start(folder: Path, port: int) -> WorldServer | None:
    """The running server; None where the port is taken."""
    server = WorldServer(folder, port)
    try:
        return server.__enter__()
    except OSError:
        return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
