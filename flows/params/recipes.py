"""Named, complete experiments. A new one is a function that copies another and changes what differs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from feature_extraction.config import ExtractorConfig
from flows.params.datasets import COCO, FLICKR8K, FLICKR30K, RetrievalData
from flows.params.demo import demo, demo_uniter, demo_vl_bert
from flows.params.experiment import RebuildParams
from flows.params.uniter import uniter_base, uniter_base_cc, uniter_base_plain, uniter_large
from flows.params.vl_bert import vl_bert_base, vl_bert_base_no_text, vl_bert_large
from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.configs import AnyEncoderConfig
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from tasks.config import DatasetConfig
from tasks.errors import UserError


def unicoder_vl_v1(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """The first version of the paper (arXiv:1908.06066v1): Conceptual Captions 3M, then retrieval.

    What it leaves open is read so: 192 is the effective batch, whatever the accumulation; 20,000 warm-up steps are of
    the 156,250 that 10 epochs make; 15% of the regions are hidden and wrong pairs teach no words and labels, as in
    v3; the random vector is normal noise of the image's own spread; the hinge weights 1.0 and 1.5 belong to wrong
    captions and wrong images, and the third one named, .05, to nothing; Adam decays weights and drops out as BERT's.
    """
    return _after_conceptual_captions(
        root_uri,
        retrieval,
        ExtractorConfig(),
        UnicoderVLConfig(
            bert=_BERT, box_code="corners", region_fusion="concat", image_token=False, segments="modality"
        ),
        PretrainConfig(
            steps=_TEN_EPOCHS,
            batch_size=_BATCH,
            optim=OptimConfig(learning_rate=5e-5, warmup_share=20_000 / _TEN_EPOCHS),
            word_masking=WordMasking(mask_share=0.8, random_share=0.1),
            region_masking=RegionMasking(zero_share=0.0, noise_share=0.8, swap_share=0.1),
            negative="image",
            validation_steps=5_000,
            precision="bf16",
        ),
        _finetuning(score="logit", margin=0.5, image_weight=1.5),
    )


def unicoder_vl_v3(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """The AAAI 2020 version (arXiv:1908.06066v3), on Conceptual Captions 3M alone, then retrieval.

    The published model saw SBU's 0.8M pairs as well; its row "3M" did not. Learning rate and batch of the finetuning
    are v1's, on every dataset. Regions below a score of .2 are dropped, so that an image may have fewer than 100.
    """
    return _after_conceptual_captions(
        root_uri,
        retrieval,
        ExtractorConfig(min_score=0.2),
        UnicoderVLConfig(bert=_BERT, box_code="corners_area", region_fusion="sum", image_token=True, segments="none"),
        PretrainConfig(
            steps=_TEN_EPOCHS,
            batch_size=_BATCH,
            optim=OptimConfig(learning_rate=1e-4, warmup_share=0.1),
            word_masking=WordMasking(mask_share=1.0),
            region_masking=RegionMasking(zero_share=0.9),
            negative="image_or_caption",
            validation_steps=5_000,
            precision="bf16",
        ),
        _finetuning(score="sigmoid", margin=0.2, image_weight=1.0),
    )


_BERT = "bert-base-uncased"
_BATCH = 192
_TEN_EPOCHS = 156_250
"""Steps of ten epochs of 3,000,000 pairs, 192 at a time."""


def _finetuning(score: Literal["sigmoid", "logit"], margin: float, image_weight: float) -> FinetuneConfig:
    """Finetuning as both versions do it, with their hinge.

    Neither says which checkpoint it reports. Here it is the one with the best recall sum on 200 held-out images:
    200,000 pairs to score each time, where all of Flickr30K's validation split were five million.
    """
    return FinetuneConfig(
        batch_size=_BATCH,
        optim=OptimConfig(learning_rate=2e-5),
        score=score,
        margin=margin,
        text_weight=1.0,
        image_weight=image_weight,
        validation_steps=1_000,
        validation_images=200,
        keep_best="validation_recall_sum",
        precision="bf16",
    )


def _after_conceptual_captions(
    root_uri: str,
    retrieval: RetrievalData,
    extractor: ExtractorConfig,
    encoder: AnyEncoderConfig,
    pretrain: PretrainConfig,
    finetune: FinetuneConfig,
) -> RebuildParams:
    """The data of both versions.

    Expects in the working directory Google's Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv as they
    are, the pictures and the json of the retrieval dataset (see flows/params/datasets.py), and in the folder
    bert-base-uncased BERT's word pieces, vocab.txt, with its config.json and model.safetensors; these two may come
    from the hub instead. Recipes that share a root share what they have in common: images, features, and, of one
    version, the pretraining run.
    """
    return RebuildParams(
        root_uri=root_uri,
        pretraining_dataset=DatasetConfig(
            name="cc3m",
            splits={"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"},
        ),
        retrieval_dataset=retrieval.dataset,
        extractor=extractor,
        vocabulary_path=f"{_BERT}/vocab.txt",
        encoder=encoder,
        pretrain=pretrain,
        finetune=finetune,
        task_specific=finetune.model_copy(update={"start": "scratch"}),
        scoring=ScoringConfig(precision="bf16", protocols=retrieval.protocols),
    )


RECIPES: dict[str, Callable[[str], RebuildParams]] = {
    "cc3m": unicoder_vl_v3,
    "demo": demo,
    "demo-uniter": demo_uniter,
    "demo-vl-bert": demo_vl_bert,
    "unicoder-vl-v1": unicoder_vl_v1,
    "unicoder-vl-v1-coco": partial(unicoder_vl_v1, retrieval=COCO),
    "unicoder-vl-v1-flickr8k": partial(unicoder_vl_v1, retrieval=FLICKR8K),
    "unicoder-vl-v3": unicoder_vl_v3,
    "unicoder-vl-v3-coco": partial(unicoder_vl_v3, retrieval=COCO),
    "unicoder-vl-v3-flickr8k": partial(unicoder_vl_v3, retrieval=FLICKR8K),
    "uniter-base": uniter_base,
    "uniter-base-cc": uniter_base_cc,
    "uniter-base-cc-coco": partial(uniter_base_cc, retrieval=COCO),
    "uniter-base-coco": partial(uniter_base, retrieval=COCO),
    "uniter-base-plain": uniter_base_plain,
    "uniter-base-plain-coco": partial(uniter_base_plain, retrieval=COCO),
    "uniter-large": uniter_large,
    "uniter-large-coco": partial(uniter_large, retrieval=COCO),
    "vl-bert-base": vl_bert_base,
    "vl-bert-base-no-text": vl_bert_base_no_text,
    "vl-bert-large": vl_bert_large,
}
"""By the name given on the command line: the model and its version, then the retrieval dataset where it is not
Flickr30K. cc3m is another name of Unicoder-VL's newest version."""


DEMOS = {"unicoder-vl": "demo", "uniter": "demo-uniter", "vl-bert": "demo-vl-bert"}
"""Recipe of each family's demo."""


def demo_recipe(family: str) -> str:
    """Name of a family's demo.

    Raises:
        UserError: it has none.
    """
    if family not in DEMOS:
        raise UserError(f"there is no demo of family {family!r}; known are {', '.join(DEMOS)}")
    return DEMOS[family]


def recipe(name: str, root_uri: str) -> RebuildParams:
    """The recipe of this name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name](root_uri)
