"""Generation over the tokens that survive: transformers' own, on a prompt that was pruned first."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .layout import BatchLayout
from .survivors import plan_survivors

_VIDEO_KEYS = ("pixel_values_videos", "video_token_pooling", "video_grids")


class PrunedGeneration:
    """generate() of a model whose `model` is an STTSMolmo2Model; stands before transformers' class."""

    last_keep_windows: Tensor | None = None

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs):
        """transformers' generate on the surviving prompt.

        Takes what forward takes, padded on either side, and generate's own options. Returns input_ids as given,
        followed by the new tokens. last_keep_windows then holds what was kept, (F, W) bool or None.
        """
        self.last_keep_windows = None
        input_ids = kwargs.pop("input_ids", inputs)
        layout = kwargs.pop("layout", None)
        if input_ids is None or kwargs.get("inputs_embeds") is not None:
            return super().generate(input_ids, **kwargs)
        prompt = self._prompt(input_ids, layout, kwargs)
        if prompt is None:
            return super().generate(input_ids, **kwargs)
        for bound in ("max_length", "min_length"):  # counted from the prompt the caller knows
            if kwargs.get(bound) is not None:
                kwargs[bound] += prompt["input_ids"].shape[1] - input_ids.shape[1]
        output = super().generate(**kwargs | prompt)
        sequences = output if isinstance(output, Tensor) else output.sequences
        new = sequences[:, prompt["input_ids"].shape[1] :]
        sequences = torch.cat([input_ids.repeat_interleave(len(new) // len(input_ids), 0), new], 1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def _prompt(self, input_ids: Tensor, layout: BatchLayout | None, kwargs: dict) -> dict | None:
        """The prompt pruned and padded on the left, its videos encoded; None when it can go in as it is."""
        mask, types = kwargs.get("attention_mask"), kwargs.get("mm_token_type_ids")
        pixels = kwargs.get("pixel_values_videos")
        if pixels is not None:
            layout = layout or self.model.layout_of(input_ids, mask, kwargs["video_grids"])
        if pixels is None or not self.model.prunes(layout):
            return None if mask is None else _left_padded(input_ids, mask, types)
        pixels, pooling, _ = (kwargs.pop(key) for key in _VIDEO_KEYS)
        positions = kwargs.pop("position_ids", None)
        if positions is None and mask is not None:
            positions = (mask.long().cumsum(-1) - 1).clamp(0)
        pruned = self.model.prune(input_ids, pixels, pooling, layout, mask, positions, types, left=True)
        self.last_keep_windows = pruned.vision.keep
        visual = pruned.visual.split(self.model.kept_windows(layout))
        return {
            "input_ids": pruned.input_ids,
            "attention_mask": pruned.attention_mask,
            "position_ids": pruned.position_ids,
            "mm_token_type_ids": pruned.mm_token_type_ids,
            "mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=visual)},
        }


def _left_padded(input_ids: Tensor, mask: Tensor, types: Tensor | None) -> dict:
    """Move padding to the left, where generation needs it; the same tensors when it stands there already."""
    survivors = plan_survivors(mask.bool(), input_ids.shape[1], left=True)
    return {
        "input_ids": survivors.take(input_ids, 0),
        "attention_mask": survivors.valid.long(),
        "mm_token_type_ids": survivors.take(types, 0),
    }
