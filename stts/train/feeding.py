"""The batches of a run, from where it stands in its data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..data.feed.account import log_path
from ..data.feed.collator import Collator
from ..data.feed.feed import Feed, FeedSpec
from ..data.feed.order import Place, deal_again
from ..pruning.config import STTSConfig
from .config import TrainConfig
from .signals import leave_signals_to_the_parent


def open_feed(
    dataset: Dataset,
    processor: Any,
    stts: STTSConfig,
    config: TrainConfig,
    places: Sequence[Mapping[str, Any]],
    process: tuple[int, int],
    output_dir: Path,
) -> tuple[Place, Feed]:
    """Where this process begins in the data, and what makes its batches from there.

    places: where each process stood when the run was saved, in however many processes; empty: at the beginning.
    process: which one this is, and of how many.
    """
    if config.num_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    rank, num_processes = process
    saved = [Place.from_dict(place) for place in places] or [Place()]
    place = deal_again(saved, config.batch_size, num_processes)[rank]
    collate = Collator(
        processor.pad_token_id,
        stts.prune_ratio,
        config.max_tokens,
        config.max_frames,
        config.loss_weight,
        processor.video_form,
    )
    spec = FeedSpec(
        config.batch_size,
        config.seed,
        config.pack_buffer,
        config.too_long,
        config.num_workers,
        rank,
        num_processes,
        processor.context_length,
        stts.position_ids,
        log_path(output_dir, rank),
    )
    return place, Feed(dataset, collate, spec, place, leave_signals_to_the_parent)
