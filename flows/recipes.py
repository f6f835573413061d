"""Named, complete experiments. A new one is a function that copies another and changes what differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tasks.world
from feature_extraction.config import ExtractorConfig
from flows.params import RebuildParams
from model.config import (
    EncoderConfig,
    FinetuneConfig,
    OptimConfig,
    PretrainConfig,
    RegionMasking,
    ScoringConfig,
    WordMasking,
)
from tasks.config import DatasetConfig, DownloadConfig, RowsConfig
from tasks.errors import UserError

WORLD_FOLDER = "world"
"""Where, under a local root, the demo's own small web is made."""

_PACKAGED = Path(tasks.world.__file__).parent


def demo(root_uri: str) -> RebuildParams:
    """Minutes on two CPU cores: a self-made web of drawn scenes, a small detector that comes with the package.

    Sizes and rates were chosen on this world's validation pictures, so they say nothing about other data. Liberties
    against the paper, each a documented option: every caption is fed with its own and with another image; features
    are standardised and [CLS] goes through BERT's pooler, for a small model's sake; regions the detector is not sure
    of are left out; and finetuning averages its hinge at first, without which training from scratch would stall and
    the comparison would be unfair.
    """
    world = f"{root_uri.rstrip('/')}/{WORLD_FOLDER}"
    finetune = FinetuneConfig(
        steps=350,
        batch_size=16,
        optim=OptimConfig(learning_rate=6e-4, beta2=0.98, warmup_share=0.1),
        score="logit",
        margin=0.2,
        negatives=3,
        mean_hinge_share=0.6,
        checkpoint_steps=175,
        log_steps=25,
        device="cpu",
        num_threads=1,
    )
    return RebuildParams(
        root_uri=root_uri,
        pretraining_dataset=DatasetConfig(name="web", splits={"train": f"{world}/rows/web-train.tsv"}, shard_size=1000),
        retrieval_dataset=DatasetConfig(
            name="retrieval",
            splits={split: f"{world}/rows/retrieval-{split}.tsv" for split in ("train", "val", "test")},
            shard_size=1000,
        ),
        # The world is served from this machine.
        download=DownloadConfig(allow_private_addresses=True, threads=8),
        extractor=ExtractorConfig(
            backend="torchvision",
            model="small",
            weights=str(_PACKAGED / "detector.safetensors"),
            vocabulary=str(_PACKAGED / "vocabulary.txt"),
            max_regions=8,
            min_score=0.1,
            min_regions=1,
            # Five objects at most: more proposals cost time (25 against 11 ms an image) and find nothing further.
            num_proposals=64,
            device="cpu",
        ),
        vocabulary_path=f"{world}/vocabulary.txt",
        encoder=EncoderConfig(
            hidden_size=128,
            num_layers=2,
            num_heads=4,
            intermediate_size=512,
            max_positions=64,
            max_text_tokens=32,
            max_regions=8,
            feature_norm="standard",
            image_token=False,
            segments="modality",
            pooler=True,
            # Xavier's spread for a square matrix of this width.
            initializer_range=(1 / 128) ** 0.5,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        pretrain=PretrainConfig(
            steps=1400,
            batch_size=32,
            optim=OptimConfig(learning_rate=1.5e-3, beta2=0.98, warmup_share=0.1),
            word_masking=WordMasking(mask_share=0.8, random_share=0.1),
            matching="paired",
            negative="image",
            min_label_score=0.2,
            checkpoint_steps=350,
            log_steps=25,
            device="cpu",
            num_threads=1,
        ),
        finetune=finetune,
        task_specific=finetune.model_copy(update={"start": "scratch"}),
        scoring=ScoringConfig(device="cpu", num_threads=1),
        max_workers=2,
        max_trainings=2,
    )


def unicoder_vl_v1(root_uri: str) -> RebuildParams:
    """The first version of the paper (arXiv:1908.06066v1): Conceptual Captions 3M to Flickr30K.

    What it leaves open is read so: 192 is the effective batch, whatever the accumulation; 20,000 warm-up steps are of
    the 156,250 that 10 epochs make; 15% of the regions are hidden and wrong pairs teach no words and labels, as in
    v3; the random vector is normal noise of the image's own spread; the hinge weights 1.0 and 1.5 belong to wrong
    captions and wrong images, and the third one named, .05, to nothing; Adam decays weights and drops out as BERT's.
    """
    finetune = FinetuneConfig(
        batch_size=_BATCH,
        optim=OptimConfig(learning_rate=2e-5),
        score="logit",
        margin=0.5,
        text_weight=1.0,
        image_weight=1.5,
        precision="bf16",
    )
    return _conceptual_captions_to_flickr(
        root_uri,
        ExtractorConfig(),
        EncoderConfig(bert=_BERT, box_code="corners", region_fusion="concat", image_token=False, segments="modality"),
        PretrainConfig(
            steps=_TEN_EPOCHS,
            batch_size=_BATCH,
            optim=OptimConfig(learning_rate=5e-5, warmup_share=20_000 / _TEN_EPOCHS),
            word_masking=WordMasking(mask_share=0.8, random_share=0.1),
            region_masking=RegionMasking(zero_share=0.0, noise_share=0.8, swap_share=0.1),
            negative="image",
            validation_steps=_VALIDATION_STEPS,
            precision="bf16",
        ),
        finetune,
    )


def unicoder_vl_v3(root_uri: str) -> RebuildParams:
    """The AAAI 2020 version (arXiv:1908.06066v3), on Conceptual Captions 3M alone, to Flickr30K.

    The published model saw SBU's 0.8M pairs as well; its row "3M" did not. Learning rate and batch of the finetuning
    are v1's. Regions below a score of .2 are dropped, so that an image may have fewer than 100.
    """
    finetune = FinetuneConfig(
        batch_size=_BATCH,
        optim=OptimConfig(learning_rate=2e-5),
        score="sigmoid",
        margin=0.2,
        text_weight=1.0,
        image_weight=1.0,
        precision="bf16",
    )
    return _conceptual_captions_to_flickr(
        root_uri,
        ExtractorConfig(min_score=0.2),
        EncoderConfig(bert=_BERT, box_code="corners_area", region_fusion="sum", image_token=True, segments="none"),
        PretrainConfig(
            steps=_TEN_EPOCHS,
            batch_size=_BATCH,
            optim=OptimConfig(learning_rate=1e-4, warmup_share=0.1),
            word_masking=WordMasking(mask_share=1.0),
            region_masking=RegionMasking(zero_share=0.9),
            negative="image_or_caption",
            validation_steps=_VALIDATION_STEPS,
            precision="bf16",
        ),
        finetune,
    )


_BERT = "bert-base-uncased"
_BATCH = 192
_VALIDATION_STEPS = 5_000
_TEN_EPOCHS = 156_250
"""Steps of ten epochs of 3,000,000 pairs, 192 at a time."""


def _conceptual_captions_to_flickr(
    root_uri: str,
    extractor: ExtractorConfig,
    encoder: EncoderConfig,
    pretrain: PretrainConfig,
    finetune: FinetuneConfig,
) -> RebuildParams:
    """The data of both versions.

    Expects in the working directory Google's Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv as they
    are, Flickr30K's pictures in the folder flickr30k-images with Karpathy's dataset_flickr30k.json beside it, and in
    the folder bert-base-uncased BERT's word pieces, vocab.txt, with its config.json and model.safetensors; these two
    may come from the hub instead.
    """
    return RebuildParams(
        root_uri=root_uri,
        pretraining_dataset=DatasetConfig(
            name="cc3m",
            splits={"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"},
        ),
        retrieval_dataset=DatasetConfig(
            name="flickr30k",
            splits=dict.fromkeys(
                ("train", "val", "test"), RowsConfig(rows="dataset_flickr30k.json", images="flickr30k-images")
            ),
        ),
        extractor=extractor,
        vocabulary_path=f"{_BERT}/vocab.txt",
        encoder=encoder,
        pretrain=pretrain,
        finetune=finetune,
        task_specific=finetune.model_copy(update={"start": "scratch"}),
        scoring=ScoringConfig(precision="bf16"),
    )


RECIPES: dict[str, Callable[[str], RebuildParams]] = {
    "cc3m": unicoder_vl_v3,
    "demo": demo,
    "unicoder-vl-v1": unicoder_vl_v1,
    "unicoder-vl-v3": unicoder_vl_v3,
}
"""By the name given on the command line; cc3m is another name of the newest version on that data."""


def recipe(name: str, root_uri: str) -> RebuildParams:
    """A recipe by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name](root_uri)
