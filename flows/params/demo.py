"""The demo's parameters: every stage on a small web that the project draws itself."""

from __future__ import annotations

from pathlib import Path

import tasks.world
from feature_extraction.config import ExtractorConfig
from flows.params.experiment import RebuildParams
from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.families.uniter_config import UniterConfig
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from tasks.config import DatasetConfig
from tasks.download.config import DownloadConfig
from tasks.storage.local_copy import local_copy
from tasks.storage.root import Root

WORLD_FOLDER = "world"
"""Where, under a local root or the `tasks.storage.local_copy` of another, the demo's own small web is made."""

_PACKAGED = Path(tasks.world.__file__).parent


def world_path(root_uri: str) -> str:
    """The folder of a root's small web, which is drawn and served on this machine."""
    root = Root(root_uri)
    return f"{root_uri.rstrip('/')}/{WORLD_FOLDER}" if root.is_local else local_copy(root).path(WORLD_FOLDER)


def demo(root_uri: str) -> RebuildParams:
    """An experiment of minutes on two CPU cores: a web of drawn scenes, and the package's small detector.

    Sizes and rates were chosen on this world's validation pictures, so they say nothing about other data. Liberties
    against the paper, each a documented option: every caption is fed with its own and with another image; features
    are standardised and [CLS] goes through BERT's pooler, for a small model's sake; regions the detector is not sure
    of are left out; and finetuning averages its hinge at first, without which training from scratch would stall and
    the comparison would be unfair.
    """
    world = world_path(root_uri)
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
        download=DownloadConfig(allow_private_addresses=True, env_proxies=False, threads=8),
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
        encoder=UnicoderVLConfig(
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


def demo_uniter(root_uri: str) -> RebuildParams:
    """The same experiment with UNITER (arXiv:1909.11740): the demo's pictures, regions, sizes and finetuning.

    Each step has one objective, with the shares of UNITER's in-domain recipe. Rate and steps were chosen on the
    validation pictures with seed 0: at nearly twice the rate (1.5e-3) pretraining is stuck for a thousand steps and
    finetuning from it is worse than from new weights. Liberties against UNITER beside the demo's own: MRC learns
    the detector's label and not its distribution, which would take features of their own. Evaluations are a variant's,
    so that over time they are not held against Unicoder-VL's under the same root.
    """
    base = demo(root_uri)
    encoder = UniterConfig(
        hidden_size=128,
        num_layers=2,
        num_heads=4,
        intermediate_size=512,
        max_positions=64,
        max_text_tokens=32,
        max_regions=8,
        initializer_range=(1 / 128) ** 0.5,
        dropout=0.0,
        attention_dropout=0.0,
    )
    pretrain = PretrainConfig(
        steps=4000,
        batch_size=32,
        optim=OptimConfig(learning_rate=8e-4, beta2=0.98, warmup_share=0.1),
        word_masking=WordMasking(mask_share=0.8, random_share=0.1),
        region_masking=RegionMasking(zero_share=1.0, at_least_one=True),
        matching="paired",
        negative="image",
        objectives={"mlm": 2.0, "itm": 2.0, "mrfr": 1.0, "mrc": 1.0},
        combine="draw",
        checkpoint_steps=1000,
        log_steps=25,
        device="cpu",
        num_threads=1,
    )
    return base.model_copy(update={"encoder": encoder, "pretrain": pretrain, "variant": "UNITER"})
