"""Bring in a folder of pictures with captions of your own; nothing is fetched from any network.

python examples/own_dataset.py pictures/ captions.csv data

The csv has the columns `file`, a name below the folder, and `caption`; a picture may have several rows.
"""

import sys

from flows.commands.run_stage import run_stage
from flows.params.shards import DownloadParams
from tasks.config import DatasetConfig, RowsConfig
from tasks.webdatasets import open_images


def main(pictures: str, captions: str, root: str) -> None:
    rows = RowsConfig(rows=captions, images=pictures)
    dataset = DatasetConfig(name="mine", splits={"train": rows})
    (summary,) = run_stage("download", DownloadParams(root_uri=root, datasets=(dataset,), max_workers=1))
    print(f"{summary.name}: {summary.counts}")  # Every row by its outcome, such as ok and not_found.

    for sample in open_images(root, "mine/train"):
        print(sample["key"], sample["image"].size, sample["captions"])


if __name__ == "__main__":  # Workers are processes that import this file.
    main(*sys.argv[1:])
