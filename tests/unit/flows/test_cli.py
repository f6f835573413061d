"""Bad input: exit code 2, one sentence on stderr, nothing written, and Prefect not even imported."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows import entry
from flows.commands import experiment
from flows.commands.app import app
from flows.commands.experiment import rebuild_text
from flows.params.experiment import RebuildParams
from flows.params.recipes import DEMOS, recipe
from flows.results import RebuildResult, StageSummary
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.families.uniter_config import UniterConfig
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.records import Stage

REPOSITORY = Path(__file__).parents[3]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    """Parameters whose inputs are all there and well: tests spoil one."""
    content = recipe("demo", str(tmp_path / "root")).model_dump(mode="json")
    for dataset in ("pretraining_dataset", "retrieval_dataset"):
        for split in content[dataset]["splits"]:
            rows = tmp_path / f"{dataset}-{split}.tsv"
            rows.write_text("a red circle\thttp://127.0.0.1:1/1.jpg\n")
            content[dataset]["splits"][split] = str(rows)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    content["vocabulary_path"] = str(tmp_path / "vocab.txt")
    return content


def refused(tmp_path: Path, content: dict[str, Any], command: str = "rebuild") -> str:
    """Run a command that must be refused; its message."""
    path = tmp_path / "params.json"
    path.write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    result = run(command, "--params", str(path))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before
    message = result.stderr
    assert message.endswith("\n") and message.count("\n") == 1 and "Traceback" not in message
    return message


def test_missing_rows_are_named(tmp_path: Path, params: dict[str, Any]) -> None:
    params["pretraining_dataset"]["splits"]["train"] = str(tmp_path / "nowhere.tsv")
    message = refused(tmp_path, params)
    assert "nowhere.tsv" in message and "not found" in message and "caption TAB url" in message


def test_rows_without_tabs_are_named(tmp_path: Path, params: dict[str, Any]) -> None:
    (tmp_path / "commas.csv").write_text("a dog,http://example.com/1.jpg\n" * 50)
    params["retrieval_dataset"]["splits"]["test"] = str(tmp_path / "commas.csv")
    message = refused(tmp_path, params)
    assert "commas.csv" in message and "no row" in message and "tab" in message


def test_empty_rows_are_named(tmp_path: Path, params: dict[str, Any]) -> None:
    (tmp_path / "empty.tsv").write_text("")
    params["retrieval_dataset"]["splits"]["val"] = str(tmp_path / "empty.tsv")
    message = refused(tmp_path, params, "download")
    assert "retrieval/val are empty" in message and "empty.tsv" in message


def test_damaged_gzip_is_named(tmp_path: Path, params: dict[str, Any]) -> None:
    (tmp_path / "rows.tsv.gz").write_bytes(b"not gzip\t")
    params["pretraining_dataset"]["splits"]["train"] = str(tmp_path / "rows.tsv.gz")
    assert "rows.tsv.gz" in refused(tmp_path, params)


def test_root_that_is_a_file_is_named(tmp_path: Path, params: dict[str, Any]) -> None:
    (tmp_path / "taken").write_text("")
    params["root_uri"] = str(tmp_path / "taken")
    assert "cannot write under root" in refused(tmp_path, params)
    for command in ("extract", "download"):
        assert "cannot write under root" in refused(tmp_path, params, command)


def test_missing_vocabulary_is_named(tmp_path: Path, params: dict[str, Any]) -> None:
    params["vocabulary_path"] = str(tmp_path / "absent.txt")
    assert "absent.txt" in refused(tmp_path, params)


def test_missing_weights_are_named(tmp_path: Path, params: dict[str, Any]) -> None:
    params["extractor"]["weights"] = str(tmp_path / "absent.safetensors")
    assert "absent.safetensors" in refused(tmp_path, params)


def test_unknown_field_is_named_with_its_path(tmp_path: Path, params: dict[str, Any]) -> None:
    params["pretrain"]["step"] = 3
    message = refused(tmp_path, params)
    assert message.startswith("params.json: pretrain.step: there is no such field; known are steps, batch_size, seed, ")
    assert message.count("\n") == 1 and "root_uri" not in message


def test_bad_value_is_named_with_what_it_is(tmp_path: Path, params: dict[str, Any]) -> None:
    params["pretrain"]["steps"] = 0
    message = refused(tmp_path, params)
    assert message == "params.json: pretrain.steps: Input should be greater than or equal to 1 (it is 0)\n"


def test_disagreeing_rooms_are_one_sentence(tmp_path: Path, params: dict[str, Any]) -> None:
    params["encoder"]["max_regions"] = 50
    assert refused(tmp_path, params) == "params.json: encoder.max_regions=50 exceeds extractor.max_regions=8\n"


@pytest.mark.parametrize("command", ["extract", "pretrain", "finetune", "evaluate"])
def test_stage_before_its_input_names_the_command_to_run(tmp_path: Path, params: dict[str, Any], command: str) -> None:
    path = tmp_path / "params.json"
    path.write_text(json.dumps(params))
    result = run(command, "--params", str(path))
    assert result.exit_code == 2
    assert "unicoder-vl download" in result.stderr and result.stderr.count("\n") == 1


def test_params_that_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{")
    result = run("rebuild", "--params", str(tmp_path / "params.json"))
    assert result.exit_code == 2 and "not JSON" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rebuild", "--recipe", "demmo"), "there is no recipe 'demmo'; known are cc3m, demo"),
        (
            ("rebuild",),
            "--recipe NAME (known: cc3m, demo, demo-uniter, demo-vl-bert, unicoder-vl-v1, unicoder-vl-v1-coco",
        ),
        (("sweep", "depth", "--recipe", "demo"), "no sweep of 'depth'; known are layers, boxes, settings, objectives"),
        (("sweep", "boxes", "--recipe", "demo", "--values", "9"), "boxes=9 exceeds extractor.max_regions=8"),
        (
            ("sweep", "boxes", "--recipe", "demo", "--values", "8", "--set", "extractor.max_regions=7"),
            "encoder.max_regions=8 exceeds extractor.max_regions=7",
        ),
        (("rebuild", "--recipe", "demo", "--params", "x.json"), "exclude each other"),
        (("demo", "--family", "vilbert"), "there is no demo of family 'vilbert'; known are unicoder-vl, uniter"),
        (("rebuild", "--params", "absent.json"), "absent.json cannot be read"),
        (("evaluate", "--recipe", "demo", "--setting", "best"), "no setting 'best'"),
        (("finetune", "--recipe", "demo", "--setting", "zero-shot"), "no setting 'zero-shot'"),
        (("rebuild", "--recipe", "cc3m", "--root", "nofs://x"), "cannot be opened"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_found_without_prefect_or_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from flows.__main__ import app\n"
        "try: app(['rebuild', '--recipe', 'cc3m', '--root', 'data'])\n"
        "except SystemExit as end: print(end.code, sorted({'prefect', 'torch'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 []\n"


def test_params_command_prints_what_params_option_reads(tmp_path: Path) -> None:
    printed = run("params", "--recipe", "demo", "--root", "somewhere", "--seed", "3").stdout
    (tmp_path / "edited.json").write_text(printed)
    again = run("params", "--params", str(tmp_path / "edited.json")).stdout
    assert again == printed
    assert RebuildParams.model_validate_json(printed) == recipe("demo", "somewhere").with_seed(3)


@pytest.mark.parametrize("command", ["params --recipe demo", "inspect --recipe demo --of web/train"])
def test_a_seed_that_not_all_generators_take_is_refused_by_name(command: str) -> None:
    result = run(*command.split(), "--seed", str(2**64))
    assert result.exit_code == 2
    assert "Invalid value for '--seed'" in result.output and "9223372036854775807" in result.output


def test_result_text_tells_losses_and_what_was_skipped() -> None:
    row = SettingRow(
        setting="chance", image_to_text={1: 0.01}, text_to_image={1: 0.01}, images=2, captions=4, seed=None
    )
    result = RebuildResult(
        root_uri="data",
        table=(row,),
        outcomes={"web/train": {"ok": 990, "not_found": 8, "dns": 2}},
        stages=(
            StageSummary(stage=Stage.DOWNLOAD, name="web/train", ran=1, skipped=2),
            StageSummary(stage=Stage.DOWNLOAD, name="retrieval/train", ran=0, skipped=4),
            StageSummary(stage=Stage.PRETRAIN, name="pretrain-1", ran=1, skipped=0),
        ),
        report_path="data/report.html",
        seconds=61,
    )
    text = rebuild_text(result, UnicoderVLConfig())
    assert "web/train: 990 of 1,000 rows have an image; lost: 8 not_found, 2 dns" in text
    assert "done now: 1 download shard, 1 pretrain run (1 min 1 s)" in text
    assert "done before, skipped: 6 download shards" in text
    assert "data/report.html" in text
    assert rebuild_text(result, UniterConfig()) == f"family: uniter\n\n{text}"


@pytest.mark.parametrize("family", sorted(DEMOS))
def test_the_demo_of_a_family_is_the_recipe_of_its_name(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[RebuildParams] = []
    monkeypatch.setattr(experiment, "_rebuild", lambda params, json: loaded.append(params))
    result = run("demo", "--root", "somewhere", "--family", family, "--seed", "2")
    assert result.exit_code == 0 and "digits: another processor's kernels round otherwise" in result.stdout
    assert loaded == [recipe(DEMOS[family], "somewhere").with_seed(2)]
    assert loaded[0].encoder.family == family


def test_a_full_disk_is_one_sentence_and_other_os_errors_are_not_hidden(
    tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.params import checks

    path = tmp_path / "params.json"
    path.write_text(json.dumps(params))

    def fail_with(number: int) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(checks, "check_downloaded", fail)

    fail_with(errno.ENOSPC)
    result = run("extract", "--params", str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("the disk is full; free some space") and result.stderr.count("\n") == 1
    fail_with(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        run("extract", "--params", str(path))


def test_an_interrupt_outside_of_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.__main__.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("closed", [(0,), (0, 1), (2,), (0, 1, 2)])
def test_closed_descriptors_lead_nowhere(closed: tuple[int, ...], tmp_path: Path) -> None:
    """Each a file of the command's else, whatever it opens first."""
    code = (
        f"import os\nfor one in {closed}:\n    os.close(one)\n"
        "from flows.entry import _open_descriptors\n_open_descriptors()\n"
        f"opened = os.open({str(tmp_path / 'opened')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(opened, str([opened, *(os.get_inheritable(one) for one in (0, 1, 2))]).encode())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "opened").read_text() == "[3, True, True, True]"
