"""Read regions with WebDataset in a training loop of your own: a linear layer learns their labels from their features.

python examples/read_shards.py data mine/train

Where several extractors made features of the split, name one: extractor="..." in each call.
"""

import sys

import numpy as np
import torch
from torch.utils.data import DataLoader

from tasks.webdatasets import open_images, open_regions, read_labels


def join(samples: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """All regions of a batch of images: features (N, D) and labels (N,). Images have unequal numbers of regions."""
    features = np.concatenate([sample["features"] for sample in samples])
    labels = np.concatenate([sample["labels"] for sample in samples])
    return torch.from_numpy(features), torch.from_numpy(labels).long()


def main(root: str, split: str) -> None:
    picture = next(iter(open_images(root, split)))
    print(f"{picture['key']}: {picture['image'].size}, {picture['captions']}")

    labels = read_labels(root, split)
    regions = open_regions(root, split, shuffle=1000)
    batches = DataLoader(regions, batch_size=16, collate_fn=join)  # num_workers: at most as many as there are shards.
    model = torch.nn.LazyLinear(len(labels))
    model(join(list(regions.slice(1)))[0])  # Now it knows D.
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for epoch in range(20):
        for features, targets in batches:
            loss = torch.nn.functional.cross_entropy(model(features), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        right = (model(features).argmax(1) == targets).float().mean()
        print(f"epoch {epoch}: loss {loss:.3f}, {right:.0%} of the last batch right")


if __name__ == "__main__":
    main(*sys.argv[1:])
