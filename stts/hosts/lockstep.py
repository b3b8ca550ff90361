"""What a process without a video does while others encode theirs.

Sharded weights are gathered by all processes together, unit by unit, just before each runs. So all must run the same
units in the same order, whatever is in their batches, forwards and back: a process without a video encodes a still
frame, and takes none of its tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .encoding import encode
from .survivors import by_row


def check_images(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Raises ValueError for images in a sharded model: encoding them is out of step with every other batch."""
    if model.lockstep and model.host.modality != "image" and inputs.get("pixel_values") is not None:
        raise ValueError("a sharded model takes videos and text, no images: train those with parallel=ddp")


def still_beside(model: nn.Module, input_ids: Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """The LLM's tokens, (B, L), of a batch that may hold no video: then with nothing of a still frame among them."""
    known = inputs.get("mm_encoder_outputs") or inputs.get("inputs_embeds") is not None
    if known or input_ids is None or inputs.get(model.host.keys[0]) is not None:
        return {"input_ids": input_ids}
    host = model.host
    frame = host.still()
    clips = host.clips(frame)
    frame = {name: x.to(model.device, non_blocking=True) for name, x in frame.items()}
    scores = torch.zeros(clips.frames[0], clips.windows[0], device=model.device)
    encoded = encode(model, frame, clips, scores)
    nothing = encoded.features[:0]
    if encoded.scores is not None:
        nothing = nothing + encoded.scores.sum() * 0
    extra = {name: [x[:0] for x in parts] for name, parts in encoded.extra.items()}
    if (given := host.embed(input_ids, nothing, extra)) is not None:
        return given
    rows = by_row(host, nothing, extra, [0] * len(input_ids))
    return {"input_ids": input_ids, "mm_encoder_outputs": {host.modality: rows}}
