"""Our UNITER computes what its program computed: `python -m tests.golden` on the arrays that the project keeps."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.golden import __main__ as golden

FOLDER = Path(__file__).parents[3] / "golden" / "uniter"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.safetensors")))
def test_outputs_and_gradients_are_those_of_the_program(name):
    verdicts = dict(golden.check_file(FOLDER / f"{name}.safetensors"))
    assert {group: verdict.text for group, verdict in verdicts.items()} == dict.fromkeys(verdicts, "ok")
    assert sum(verdict.compared for verdict in verdicts.values()) > 50


def test_every_kind_of_head_is_kept_here():
    assert len(list(FOLDER.glob("*.safetensors"))) == 6


def test_a_difference_and_an_array_that_is_not_tried_fail(tmp_path, capsys):
    path = FOLDER / "retrieval.safetensors"
    arrays = load_file(path)
    arrays["out/rank/scores"][0] += 1e-4
    arrays["out/rank/unheard_of"] = arrays["out/rank/loss"].clone()
    arrays["grad/rank/rank_output.bias"] *= 1.0001
    save_file(arrays, tmp_path / path.name, golden.Reference.read(path).metadata)
    assert golden.main(tmp_path) == 1
    told = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "not tried: out/rank/unheard_of" in told["out/rank"] and "1.0e-04" in told["out/rank"]
    assert "DIFFERS at grad/rank/rank_output.bias" in told["grad/rank"] and told["grad/hard_texts"].endswith("ok")


def test_another_program_is_not_tried_and_an_empty_folder_is_named(tmp_path, capsys):
    save_file({"out/a/b": load_file(FOLDER / "retrieval.safetensors")["out/rank/loss"]}, tmp_path / "other.safetensors")
    assert golden.main(tmp_path) == 1 and "not tried: out/a/b" in capsys.readouterr().out
    (tmp_path / "other.safetensors").unlink()
    assert golden.main(tmp_path) == 2 and "holds no .safetensors" in capsys.readouterr().err
