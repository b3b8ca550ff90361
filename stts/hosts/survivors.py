"""From a batch with the placeholders of all windows to the shorter one that the LLM takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..pruning.layout import BatchLayout
from ..pruning.memory import Clips
from ..pruning.sequence import Survivors, compact_positions, keep_tokens, plan_survivors
from ..pruning.visual_tokens import VisualTokens
from .base import Host
from .encoding import Encoded, PerWindow, are_known, clips_of, encode, encoded_before, windows_of


@dataclass(frozen=True)
class Batch:
    """What is asked of the model, its videos' pixels and the host's own arguments left out."""

    input_ids: Tensor | None
    """(B, L), as those that follow."""
    mask: Tensor | None = None
    positions: Tensor | None = None
    """Or (3, B, L)."""
    sequence_ids: Tensor | None = None
    layout: BatchLayout | None = None
    window_scores: PerWindow | None = None
    visual: VisualTokens | None = None
    prompt: bool = False
    """To generate from: padded on the left, positions counted as generate does."""

    @property
    def real(self) -> Tensor:
        """(B, L), 1 at tokens."""
        return torch.ones_like(self.input_ids) if self.mask is None else self.mask


@dataclass(frozen=True)
class Pruned:
    """A batch whose videos were encoded and pruned: what the LLM takes."""

    tokens: dict[str, Any]
    """The host's arguments over survivors, (B, L_kept): input_ids, or inputs_embeds where the visual features are in
    them; attention_mask, position_ids, and mm_encoder_outputs."""
    survivors: Survivors
    encoded: Encoded
    clips: Clips
    ahead: Tensor | None
    """(B, 1) how far positions run ahead of the tokens, where they have three planes."""
    lengths: tuple[int, ...]
    """Tokens of each row that survive."""
    others: dict[str, Any] = field(default_factory=dict)
    """The host's further arguments, the videos' gone, those with an entry for every token shortened."""


def prune(model: nn.Module, batch: Batch, inputs: dict[str, Any]) -> Pruned | None:
    """Encode the videos, drop windows, take their placeholders out of the sequence; None: the host's own way will do.

    inputs: the host's own arguments, videos among them. Raises ValueError when placeholders do not fit the videos.
    """
    host, ratio, mask = model.host, model.stts.prune_ratio, batch.mask
    ours = is_ours(host, batch, inputs)
    if batch.visual is None and (inputs.get(host.keys[0]) is None or not (ratio or ours)):
        return None
    clips = clips_of(host, inputs, batch.layout, batch.visual)
    drops = clips.drops(ratio)
    if batch.visual is None and not any(drops) and not (ours or (model.lockstep and ratio)):
        return None
    check_whole_prompt(batch.input_ids, mask, inputs.get("past_key_values"))
    tokens = [len(owners) for owners in windows_of(host, clips)]
    of_video = host.placeholders(batch.input_ids, inputs)
    layout = batch.layout or BatchLayout.read(of_video, mask, clips.frames, clips.grids, tokens)
    host.check_images(batch.input_ids, of_video, inputs)
    places = None
    if batch.positions is None:
        places = host.positions(batch.input_ids, batch.real, inputs, clips)
    if batch.visual is None:
        encoded = encode(model, inputs, clips, batch.window_scores)
    else:
        encoded = encoded_before(batch.visual, host, clips, ratio)

    lengths, per_row = list(layout.lengths), [0] * len(layout.lengths)
    for row, drop, count in zip(layout.video_rows, drops, tokens, strict=True):
        lengths[row] -= drop
        per_row[row] += count - drop
    if not (any(drops) or batch.prompt or (model.lockstep and ratio)):
        survivors = all_survive(batch.real.bool())
        text = {"attention_mask": mask, "position_ids": places[0] if places else batch.positions}
    else:
        stays = encoded.stays.to(of_video.device)  # the ViT may be elsewhere than the LLM
        keep = keep_tokens(of_video, stays, mask)
        left_padded = None if mask is None else mask[:, 0] == 0
        survivors = plan_survivors(keep, max(lengths), True if batch.prompt else None, left_padded)
        text = {
            "attention_mask": survivors.valid.long(),
            "position_ids": positions(model, batch, places, survivors),
        }
    images, others = host.others(inputs), shortened(host, inputs, survivors)
    ids = survivors.take(batch.input_ids, 0)
    text |= visual_inputs(host, ids, encoded, images, per_row, batch.prompt)
    ahead = None
    if places is not None:
        ahead = places[1] + (batch.real.sum(1) - survivors.valid.sum(1))[:, None]
    return Pruned(text, survivors, encoded, clips, ahead, tuple(lengths), others)


def all_survive(keep: Tensor) -> Survivors:
    """What leaves every argument as it is, padding too. keep: (B, L) bool, real tokens."""
    places = torch.arange(keep.shape[1], device=keep.device)
    return Survivors(keep, places.expand_as(keep), torch.ones_like(keep))


def is_ours(host: Host, batch: Batch, inputs: dict[str, Any]) -> bool:
    """Whether videos that lose nothing are encoded here all the same: their class cannot take them, or would wait
    for the device to learn what the host knows."""
    mixed = not host.images_beside and inputs.get("pixel_values") is not None
    told = inputs.get("frames_per_video") is not None
    return mixed or told or (are_known(host, batch.layout) and not batch.prompt)


def visual_inputs(
    host: Host,
    ids: Tensor,
    encoded: Encoded,
    images: dict[str, ModelOutput],
    per_row: list[int],
    prompt: bool,
) -> dict[str, Any]:
    """Input ids of survivors, (B, L_kept), and features: as the host's forward takes them, or in its embeddings."""
    features, images = host.in_order(encoded.features, images, ids)
    given = None if prompt or images else host.embed(ids, features, encoded.extra)
    if given is not None:
        return given
    if len(features) > sum(per_row):  # images among them
        per_row = (ids == host.token_id).sum(1).tolist()
    rows = by_row(host, features, encoded.extra, per_row)
    return {"input_ids": ids, "mm_encoder_outputs": images | {host.modality: rows}}


def positions(
    model: nn.Module,
    batch: Batch,
    places: tuple[Tensor, Tensor] | None,
    survivors: Survivors,
) -> Tensor:
    """Positions of the survivors: (B, L_kept), or (3, B, L_kept) of mrope, in prompts below one plane for masks.

    places: what the host says of all tokens, where nobody gave positions.
    """
    if batch.positions is not None:
        planes = batch.positions
    elif places is not None:
        planes = places[0]
    else:
        planes = count_positions(batch.real, batch.mask is not None and batch.prompt)
    if planes.ndim > 2:
        planes = [survivors.take(plane, 0) for plane in planes[-3:]]
        if batch.prompt:  # generate reads its mask off a plane of its own
            planes = [compact_positions(survivors.valid), *planes]
        return torch.stack(planes)
    if model.stts.position_ids == "compact":
        return compact_positions(survivors.valid, survivors.take(batch.sequence_ids, -1))
    return survivors.take(planes.expand_as(survivors.keep), 0)


def count_positions(mask: Tensor, skip_padding: bool) -> Tensor:
    """(B, L) positions as transformers counts them: forward all columns, generate the tokens it has a mask for."""
    if skip_padding:
        return (mask.long().cumsum(1) - 1).clamp(0)
    return torch.arange(mask.shape[1], device=mask.device).expand_as(mask)


def shortened(host: Host, inputs: dict[str, Any], survivors: Survivors) -> dict[str, Any]:
    """The other arguments: the videos' gone, and of those with an entry for every token the survivors'."""
    kept = {name: x for name, x in inputs.items() if name not in (*host.keys, "frames_per_video")}
    for name, x in kept.items():
        if isinstance(x, Tensor) and x.shape == survivors.keep.shape:
            kept[name] = survivors.take(x, 0)
    return kept


def by_row(host: Host, features: Tensor, extra: dict[str, list[Tensor]], per_row: list[int]) -> ModelOutput:
    """Features of survivors as the host's forward takes them, and how to repeat them for beams."""
    rows = list(features.split(per_row))
    more = {name: [list(x.split(per_row)) for x in parts] for name, parts in extra.items()}

    def again(times: int) -> ModelOutput:
        order = [row for row in range(len(rows)) for _ in range(times)]
        return host.output(
            [rows[r] for r in order], {k: [[x[r] for r in order] for x in v] for k, v in more.items()}
        )

    encoded = again(1)
    object.__setattr__(encoded, "again", again)
    return encoded


def check_whole_prompt(input_ids: Tensor | None, mask: Tensor | None, cache: Any) -> None:
    """Raises ValueError unless the whole conversation is there as (B, L) tokens, none of it in the cache."""
    if input_ids is None or (mask is not None and mask.ndim != 2):
        raise ValueError("a pruning model needs input_ids, and an attention_mask of (B, L) if any")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            "past_key_values holds tokens already: a pruning model takes its videos with the whole conversation "
            "in input_ids, and goes on from there without them"
        )
