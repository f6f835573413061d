"""examples/, run as their first lines say, and docs/webdataset.md, on a few drawn pictures."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.world.scenes import render_scene
from tests.searchable import NAME, PICTURES, make_searchable

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = (EXAMPLES.parent / "docs/webdataset.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def searchable(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_searchable(tmp_path_factory.mktemp("searchable")).uri


def run(name: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that an example prints. In this process, for torch is there already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        patch.delitem(sys.modules, "__mp_main__", raising=False)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_pictures_become_a_split_then_regions_then_a_users_own_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        scene = render_scene(np.random.default_rng(number), 2, 4)
        scene.image.point(lambda value, dark=number % 2: value // 3 if dark else value).save(
            tmp_path / f"pictures/{number}.jpg", quality=92
        )
    rows = [f"{number}.jpg,picture {number}" for number in range(6)] + ["0.jpg,the first again", "absent.jpg,nothing"]
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    root = str(tmp_path / "root")

    said = run("own_dataset.py", capsys, str(tmp_path / "pictures"), str(tmp_path / "captions.csv"), root)
    assert said[0].startswith("mine/train: ") and "'ok': 7" in said[0]
    assert len(said) == 1 + 6 and said[1].endswith("['picture 0', 'the first again']")

    said = run("own_detector.py", capsys, root, "mine/train")
    assert "'ok': 6" in said[0] and "'regions': 24" in said[0] and said[-1].endswith("mine/train: 6 images")
    assert "stood already" in run("own_detector.py", capsys, root, "mine/train")[0]

    said = run("read_shards.py", capsys, root, "mine/train")
    assert said[0].endswith("['picture 0', 'the first again']")
    losses = [float(re.findall(r"loss ([\d.]+)", line)[0]) for line in said[1:]]
    assert len(losses) == 20 and losses[-1] < 0.7 * losses[0]


def test_a_search_prints_pictures_and_captions(
    searchable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run("search.py", capsys, searchable, NAME, "a red circle")
    assert len(said) == 5 + 1 + 3 and PICTURES > 5
    assert all(re.match(r" *-?\d+\.\d{3}  \S", line) for line in said[:5] + said[6:])
    with Image.open(tmp_path / "best.jpg") as best:
        assert best.format == "JPEG"


def test_the_page_reads_what_it_says(searchable: str, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(program.replace('"data"', repr(searchable)).replace('"cc3m/train"', repr(NAME)), names)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 * PICTURES and all("'a red circle'" in line for line in said)
    (batch,) = names["loader"]  # type: ignore[misc]
    fields = {"size", "boxes", "labels", "scores", "background", "features", "top_labels", "top_scores"}
    assert set(batch[0]) == fields - {"top_labels", "top_scores"} | {
        *("key", "__key__", "__url__", "captions", "caption_ids")
    }
    assert not [name for name in batch[0] if f"`{name}`" not in PAGE]


def test_every_example_is_listed_and_run() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    listed = set(re.findall(r"`(\w+\.py)`", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert programs == listed == set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    for name in programs:
        assert f"python examples/{name} " in (EXAMPLES / name).read_text(encoding="utf-8")
