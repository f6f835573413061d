"""Files of weights as they come from other people: wrapped, half there, or not weights at all."""

import argparse
import gzip
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from feature_extraction.weight_files import (
    WeightsError,
    check_numbers,
    content_problem,
    read_weights,
    without_prefix,
)

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0])}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 440449768\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>"
STRANGERS = [
    (b"", "is empty; get it again"),
    (LFS, "is a Git LFS pointer, .*run `git lfs pull`"),
    (PAGE, "is a web page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    (b'{"error": "Repository not found"}', 'is text, which begins with .{"error": "Repository'),
    (bytes(4096), "begins with zeros alone"),
    (gzip.compress(b"weights", mtime=0), "is packed by gzip; unpack it"),
    (b"rubbish", "cannot be read"),
    (b"PK\x03\x04 and then nothing", "cannot be read"),
]
ADVICE = ("weights_only", "weights only", "safe_globals", "torch.load", "arbitrary code")


def is_same(found) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in found)


def without_advice(raised) -> str:
    """The message, which is one line that never tells anybody to run what a file asks for."""
    text = str(raised.value)
    assert "\n" not in text and not any(word in text.lower() for word in ADVICE)
    return text


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
@pytest.mark.parametrize(("content", "what"), STRANGERS)
def test_what_is_no_file_of_weights_is_said_to_be_what_it_is(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"^{what}") as raised:
        read_weights(tmp_path / name)
    without_advice(raised)


def test_a_file_that_is_absent_or_cut_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"^cannot be read \(No such file or directory\)"):
        read_weights(tmp_path / "absent.pth")
    for name, save in (("w.pth", torch.save), ("w.safetensors", save_file)):
        save(WEIGHTS, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
        with pytest.raises(WeightsError, match=r"^cannot be read") as raised:
            read_weights(tmp_path / name)
        without_advice(raised)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"state": {}}},
        lambda weights: {"model_state_dict": {f"module.{name}": value for name, value in weights.items()}},
        lambda weights: {"state_dict": {f"module.module.{name}": value for name, value in weights.items()}},
        lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
        lambda weights: {"checkpoint": 1, "model": {"state_dict": weights}},
        lambda weights: weights | {"epoch": 3},
    ],
)
def test_wrapped_weights_are_found(tmp_path, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / "w.pth")
    assert is_same(read_weights(tmp_path / "w.pth"))


def test_the_form_is_told_by_content_not_by_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "pytorch_model.bin")
    assert is_same(read_weights(tmp_path / "pytorch_model.bin"))
    torch.save(WEIGHTS, tmp_path / "model.safetensors")
    assert is_same(read_weights(tmp_path / "model.safetensors"))
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert is_same(read_weights(tmp_path / "old.pth"))


def test_a_prefix_before_a_known_name_is_left_out():
    wrapped = {f"model.detector.{name}": value for name, value in WEIGHTS.items()}
    assert is_same(without_prefix(wrapped, "a.weight"))
    assert is_same(without_prefix(WEIGHTS, "a.weight"))
    both = wrapped | {f"teacher.{name}": value for name, value in WEIGHTS.items()}
    assert without_prefix(both, "a.weight").keys() == both.keys()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}, r"^is more than numbers: .*argparse\.Namespace"),
        (nn.Linear(2, 2), r"^is more than numbers: .*torch\.nn\.modules\.linear\.Linear"),
        ([1, 2], "^holds a list, not weights"),
    ],
)
def test_what_is_more_than_numbers_is_named_without_torch_s_advice(tmp_path, content, what):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=what) as raised:
        read_weights(tmp_path / "w.pth")
    without_advice(raised)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_no_weights(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"^is a TorchScript program") as raised:
        read_weights(tmp_path / "w.pth")
    without_advice(raised)


def test_a_trusted_file_may_hold_the_module_itself(tmp_path):
    torch.save({"model": nn.Linear(2, 2), "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth", trusted=True).keys() == {"weight", "bias"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_finite_numbers_are_named(value):
    check_numbers(WEIGHTS)
    check_numbers({"half": torch.full((9,), 60_000, dtype=torch.float16)})  # whose sum is not finite
    spoilt = WEIGHTS["a.weight"].clone()
    spoilt[1, 2] = value
    with pytest.raises(WeightsError, match=r"^has 1 of 6 values of a\.weight that are no finite numbers"):
        check_numbers(WEIGHTS | {"a.weight": spoilt})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(dtype):
    with pytest.raises(WeightsError, match=r"^holds a\.weight as \w+, which is no plain precision"):
        check_numbers({"a.weight": torch.ones(2, 3).to(dtype)})


def test_a_whole_file_is_no_stranger(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert content_problem(tmp_path / "w.safetensors") is None
    assert content_problem(Path(__file__)) is None
