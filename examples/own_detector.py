"""Extract regions with a detector of your own, here the quarters of a picture, each dark or light.

python examples/own_detector.py data mine/train

docs/developers.md shows how a detector becomes a choice of `unicoder-vl extract`.
"""

import sys

import numpy as np
import torch

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import Detections, Prepared
from tasks.download.settings import begun_datasets
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.shard import extract_shard
from tasks.rows.manifest import list_shards
from tasks.storage.root import Root

# Features are found by their config. The model's name stands for the code below: change both together.
CONFIG = ExtractorConfig(backend="torchvision", model="quarters-1", max_regions=4, encoding="fp16", device="cpu")


class Quarters:
    """The interface is `feature_extraction.detectors.interface.Detector`."""

    labels = ("dark", "light")
    feature_dim = 6
    device = torch.device("cpu")

    def prepare(self, image: np.ndarray) -> Prepared:
        """Resize or normalise here; several threads call this."""
        height, width, _ = image.shape
        return Prepared(image, (width, height))

    def detect(self, pictures: list[Prepared]) -> list[Detections]:
        """Regions of pictures of one shape; boxes in pixels of the picture that `prepare` was given."""
        return [self.find_quarters(picture) for picture in pictures]

    def find_quarters(self, picture: Prepared) -> Detections:
        w, h = picture.size
        x, y = w // 2, h // 2
        boxes = np.array([(0, 0, x, y), (x, 0, w, y), (0, y, x, h), (x, y, w, h)])
        cuts = [picture.pixels[y0:y1, x0:x1].reshape(-1, 3) / 255 for x0, y0, x1, y1 in boxes]
        features = np.array([[*cut.mean(0), *cut.std(0)] for cut in cuts], np.float32)
        light = features[:, :3].mean(1)
        scores = np.maximum(light, 1 - light)
        best = np.argsort(-scores, kind="stable")  # Regions come best score first.
        return Detections(
            boxes=boxes[best].astype(np.float32),
            labels=(light > 0.5).astype(np.int16)[best],
            scores=scores[best],
            background=np.zeros(len(boxes), np.float32),
            features=features[best],
        )


def main(root_uri: str, name: str) -> None:
    root, (dataset_name, split) = Root(root_uri), name.split("/")
    ((dataset,), _) = begun_datasets(root, [name])
    for shard in list_shards(root, dataset, split):
        result = extract_shard(root, shard, CONFIG, load=lambda _: Quarters())
        print(shard, "stood already" if result.skipped else result.receipt.counts)
    manifest = write_feature_manifest(root, dataset_name, split, CONFIG)
    print(f"features/{manifest.extractor[:12]}/{name}: {sum(shard.samples for shard in manifest.shards)} images")


if __name__ == "__main__":
    main(*sys.argv[1:])
