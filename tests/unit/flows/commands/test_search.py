"""The command `search`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from flows.commands.search import FoundLine, SearchResult, add_commands, search_text
from tasks.storage.root import Root
from tests.searchable import NAME, PICTURES, RUN, make_searchable


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return make_searchable(tmp_path_factory.mktemp("searchable"))


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)  # With one command alone, its name would not be asked for.
    add_commands(app)
    return CliRunner().invoke(app, ["search", *arguments], catch_exceptions=False)


def test_a_line_a_hit_and_a_page(root: Root, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    options = ("--root", root.uri, "--run", RUN, "--images", NAME, "--top", "3", "--page", str(page))
    result = run("a red circle and a zebra", *options)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    scores = [float(line.split()[1]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    for line in lines:
        _, _, key, path, caption = line.split(maxsplit=4)
        assert path == f"{Path(root.uri).parent}/pictures/{int(key) // 2}.jpg" and caption.startswith("a ")
    assert last == f"page: {page}" and page.read_text().count("<svg ") == 3
    assert "does not know: zebra" in result.stderr
    assert f"{PICTURES} pictures of {NAME}, with {RUN} (task-specific, step 7)" in result.stderr


def test_json_of_a_picture_names_its_captions(root: Root) -> None:
    picture = str(Path(root.uri).parent / "pictures" / "3.jpg")
    options = ("--root", root.uri, "--captions", NAME, "--top", "2", "--json")
    by_file = json.loads(run("--image", picture, *options).stdout)
    by_key = json.loads(run("--image", "000000006", *options).stdout)
    assert by_file["query"] == "3.jpg" and by_key["query"] == "000000006"
    assert [hit["caption"] for hit in by_file["hits"]] == [hit["caption"] for hit in by_key["hits"]]
    assert (by_file["run"], by_file["setting"], by_file["step"], by_file["data"]) == (RUN, "task-specific", 7, NAME)
    assert (by_file["candidates"], by_file["approximate"], by_file["page"]) == (2 * PICTURES, None, None)
    assert [hit["rank"] for hit in by_file["hits"]] == [1, 2]


def test_text_of_the_web_cannot_steer_the_terminal() -> None:
    hit = FoundLine(rank=1, score=1.5, key="000000001", path="http://a/\x1b]0;b", caption="red\x1b[2J\n\u202ecar " * 30)
    found = SearchResult(
        query="car", run="r", setting="s", step=1, data="a/b", candidates=9, approximate="some", hits=(hit,), page=None
    )
    first, second = search_text(found).splitlines()
    assert "\x1b" not in first and "\u202e" not in first and first.endswith(" ...") and len(first) < 160
    assert second == "approximate: some"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give what to look for: a text, such as"),
        (("a star", "--image", "1.jpg"), "give what to look for: a text, such as"),
        (("a star", "--captions", NAME), "--captions goes with --image"),
        (("--image", "000000000", "--images", NAME), "--images goes with a text"),
        (("--image", "absent.jpg"), "there is no picture file absent.jpg"),
        (("--image", "000000001"), "000000001 is neither a picture file nor the key of a picture of drawn/test"),
        (("zebra",), "knows no word of the query 'zebra'"),
        (("a star", "--run", "absent"), "there is no run 'absent'"),
        (("a star", "--images", "drawn/val"), "drawn/val has no finished features"),
        (("a star", "--checkpoint", "best"), "there is no checkpoint 'best'"),
        (("a star", "--page", "."), "--page . is a folder"),
        (("a star", "--page", "{root}/history.txt/page.html"), "cannot write"),
        (("a star", "--device", "tpu"), "device 'tpu' is unknown"),
    ],
)
def test_bad_input_is_one_sentence(root: Root, arguments: tuple[str, ...], message: str) -> None:
    root.publish_bytes("history.txt", b"")
    before = sorted(path for path in Path(root.uri).rglob("*") if "cache" not in path.parts)
    result = run("--root", root.uri, *(argument.format(root=root.uri) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr.splitlines()[-1] and result.stdout == ""
    assert sorted(path for path in Path(root.uri).rglob("*") if "cache" not in path.parts) == before


def test_damaged_shard_ends_with_1_and_its_name(root: Root, tmp_path: Path) -> None:
    shutil.copytree(root.uri, tmp_path / "root")
    (shard,) = (tmp_path / "root" / "features").rglob("regions-00001.tar")
    shard.write_bytes(shard.read_bytes()[:-512])
    result = run("a star", "--root", str(tmp_path / "root"))
    assert result.exit_code == 1 and "regions-00001.tar" in result.stderr.splitlines()[-1]
