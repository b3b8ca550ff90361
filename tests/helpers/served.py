"""A small pruning model to serve: the tiny one's trained weights and a scorer that no training has seen."""

from __future__ import annotations

from pathlib import Path

import torch

from stts.chat import load


def make_served(folder: Path, **settings: object) -> Path:
    """Save it, in full precision."""
    torch.manual_seed(0)
    model, processor = load("tiny", device="cpu", **{"prune_ratio": 0.5} | settings)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
