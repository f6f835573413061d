"""Hold this project's models against arrays of the original programs: python -m tests.golden FOLDER.

Prints a line for each group of arrays; the exit code is 1 where one differs or was not tried, 2 where there are none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tests.golden import uniter_files, uniter_tasks, vl_bert_data, vl_bert_files
from tests.golden.reference import Comparison, Reference, Verdict

Compute = Callable[[Reference, Comparison], None]
UNITER: dict[str, Compute] = {
    "pretraining": uniter_files.pretraining,
    "retrieval": uniter_files.retrieval,
    "vqa": uniter_tasks.vqa,
    "ve": uniter_tasks.entailment,
    "nlvr2_paired": uniter_tasks.sentence_of_two_images,
    "nlvr2_paired_attn": uniter_tasks.sentence_of_two_images,
    "nlvr2_triplet": uniter_tasks.sentence_of_two_images,
    "re_mlp1": uniter_tasks.referring,
    "re_mlp2": uniter_tasks.referring,
    "vcr": uniter_tasks.commonsense,
    "vcr_pretraining": uniter_tasks.commonsense_pretraining,
}
"""By the file's name: what computes its arrays."""
VL_BERT: dict[str, Compute] = {
    "pretraining": vl_bert_files.pretraining,
    "geometry": vl_bert_files.geometries,
    "optimiser": vl_bert_files.optimiser,
}
"""The same of the other program; of files without weights no name is of both."""


def check_file(path: Path) -> list[tuple[str, Verdict]]:
    """The verdict on each group of a file's arrays, or of the samples of a data.json."""
    if path.suffix == ".json":
        return vl_bert_data.check_data(path)
    reference = Reference.read(path)
    comparison = Comparison(reference)
    files = VL_BERT if reference.under("w/vlbert.") or path.stem not in UNITER else UNITER
    if path.stem in files:
        with torch.random.fork_rng(devices=[]):
            files[path.stem](reference, comparison)
    return list(comparison.verdicts())


def main(folder: Path) -> int:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        print(f"{folder} holds no .safetensors; name a folder of reference arrays", file=sys.stderr)
        return 2
    paths += [path for path in (folder / "data.json",) if path.is_file()]
    passes = True
    print(f"{'file':<32} {'arrays':<28} {'compared':>8} {'difference':>11}  verdict")
    for path in paths:
        for group, verdict in check_file(path):
            passes &= verdict.passes
            difference = f"{verdict.difference:.1e}" if verdict.compared else "-"
            print(f"{path.name:<32} {group:<28} {verdict.compared:>8} {difference:>11}  {verdict.text}")
    return 0 if passes else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, help="of one program's arrays")
    sys.exit(main(parser.parse_args().folder))
