"""Fields that several of the flows' parameters share, each described once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from feature_extraction.config import ExtractorConfig
from model.config import VOCABULARY_PATH, LoaderConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.configs import AnyEncoderConfig
from model.objectives.config import PretrainConfig
from tasks.config import Name
from tasks.download.config import DownloadConfig

RootUri = Annotated[str, Field(description="folder or fsspec URI under which everything is kept")]
DatasetName = Annotated[Name, Field(description="name of the dataset")]
Download = Annotated[DownloadConfig, Field(description="how images are fetched and stored")]
Extractor = Annotated[ExtractorConfig, Field(description="which detector, and what it keeps")]
VocabularyPath = Annotated[str, Field(description=VOCABULARY_PATH)]
Encoder = Annotated[AnyEncoderConfig, Field(description="size and wiring of the model")]
Pretrain = Annotated[PretrainConfig, Field(description="objectives and loop of pretraining")]
Finetune = Annotated[FinetuneConfig, Field(description="loss and loop of finetuning")]
Scoring = Annotated[ScoringConfig, Field(description="how pairs are scored")]
Loader = Annotated[LoaderConfig, Field(description="how features are read")]
