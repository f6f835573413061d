from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image

from tasks.errors import UserError
from tasks.world.dataset import Fault, WorldConfig, WorldFiles, make_world, read_world
from tasks.world.server import WorldServer

SMALL = WorldConfig(pretraining_images=40, retrieval_train=1, retrieval_val=1, retrieval_test=1, workers=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return make_world(tmp_path_factory.mktemp("world"), SMALL, port=8001)


@pytest.fixture
def server(world: WorldFiles) -> Iterator[WorldServer]:
    with WorldServer(world.folder) as server:
        yield server


def get(server: WorldServer, path: str, **options: bool) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{server.port}{path}", timeout=10, **options)  # type: ignore[arg-type]


def path_with(world: WorldFiles, wanted: Fault | None) -> str:
    faults = read_world(world.folder).faults
    paths = (f"/web/{i:06d}.jpg" for i in range(40))
    return next(path for path in paths if faults.get(path) == wanted)


def test_hands_out_pictures_as_they_lie_on_disk(server: WorldServer, world: WorldFiles) -> None:
    for path in (path_with(world, None), "/retrieval/test/000000.jpg"):
        response = get(server, path)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "image/jpeg"
        assert response.content == (world.folder / "pictures" / path[1:]).read_bytes()


def test_missing_picture_is_404_every_time(server: WorldServer, world: WorldFiles) -> None:
    path = path_with(world, Fault.NOT_FOUND)
    assert [get(server, path).status_code for _ in range(2)] == [404, 404]


def test_unavailable_picture_comes_at_the_second_request(server: WorldServer, world: WorldFiles) -> None:
    path = path_with(world, Fault.UNAVAILABLE_ONCE)
    assert [get(server, path).status_code for _ in range(3)] == [503, 200, 200]
    assert server.requests[path] == 3


def test_redirect_leads_to_the_picture(server: WorldServer, world: WorldFiles) -> None:
    path = path_with(world, Fault.REDIRECT)
    assert get(server, path, allow_redirects=False).status_code == 302
    response = get(server, path)
    assert response.content == (world.folder / "pictures" / path[1:]).read_bytes()
    assert [hop.status_code for hop in response.history] == [302]


def test_truncated_picture_breaks_off_though_http_is_complete(server: WorldServer, world: WorldFiles) -> None:
    path = path_with(world, Fault.TRUNCATED)
    response = get(server, path)
    assert response.status_code == 200
    assert len(response.content) == (world.folder / "pictures" / path[1:]).stat().st_size // 2
    with Image.open(io.BytesIO(response.content)) as image, pytest.raises(OSError, match="truncated"):
        image.load()


def test_html_page_says_200(server: WorldServer, world: WorldFiles) -> None:
    response = get(server, path_with(world, Fault.HTML))
    assert response.status_code == 200
    assert response.content.startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/world.json",
        "/../world.json",
        "/web/../../world.json",
        "/web/%2e%2e/%2e%2e/world.json",
        "//etc/hosts",
        "/web/../../rows/web-train.tsv",
        "/web/999999.jpg",
        "/moved/moved/web/000000.jpg",
    ],
)
def test_serves_nothing_but_pictures(server: WorldServer, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)  # leaves ".." as it is
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_one_connection_serves_many_requests(server: WorldServer, world: WorldFiles) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    own_port = connection.sock.getsockname()[1]
    for _ in range(3):
        connection.request("GET", path_with(world, None))
        assert len(connection.getresponse().read()) > 500
    assert connection.sock.getsockname()[1] == own_port
    connection.close()


def test_counts_requests_of_many_threads_exactly(server: WorldServer, world: WorldFiles) -> None:
    path = path_with(world, None)

    def ask() -> None:
        with requests.Session() as session:
            for _ in range(10):
                assert session.get(f"http://127.0.0.1:{server.port}{path}", timeout=10).ok

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == {path: 80}


def test_a_taken_port_is_an_error(server: WorldServer, world: WorldFiles) -> None:
    with pytest.raises(OSError, match="in use"), WorldServer(world.folder, server.port):
        pass


def test_leaving_ends_kept_alive_connections_and_frees_the_port(world: WorldFiles) -> None:
    with WorldServer(world.folder) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", path_with(world, None))
        connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    with WorldServer(world.folder, server.port) as again:
        assert get(again, path_with(world, None)).ok


def test_needs_a_finished_world(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished world"):
        WorldServer(tmp_path)
