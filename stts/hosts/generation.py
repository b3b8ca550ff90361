"""Generation over the tokens that survive: transformers' own, on a prompt that was pruned first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..pruning.layout import BatchLayout
from ..pruning.sequence import plan_survivors
from .images import IMAGE_KEYS, VIDEO_KEYS


class PrunedGeneration:
    """generate() of a model whose `model` is an STTSMolmo2Model; stands before transformers' class."""

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
        visual, scores = kwargs.pop("visual", None), kwargs.pop("window_scores", None)
        videos = {key: kwargs[key] for key in VIDEO_KEYS if kwargs.get(key) is not None}
        images = {key: kwargs[key] for key in IMAGE_KEYS if kwargs.get(key) is not None}
        if videos or visual is not None:
            layout = layout or self.model.layout_of(
                input_ids, mask, videos["video_grids"], images.get("image_grids")
            )
        prunes = layout is not None and self.model.prunes(layout)
        if not prunes and visual is None and not (videos and images):
            return None if mask is None else _left_padded(input_ids, mask, types)
        for key in (*VIDEO_KEYS, *IMAGE_KEYS, "image_num_crops"):
            kwargs.pop(key, None)
        if not prunes:  # videos and images, which transformers refuses together
            mask = torch.ones_like(input_ids) if mask is None else mask
            prompt = _left_padded(input_ids, mask, types)
            features = self.model.encode_whole(prompt["input_ids"], videos, images, visual)
            return prompt | self._encoded(prompt["input_ids"], features)
        positions = kwargs.pop("position_ids", None)
        if positions is None and mask is not None:
            positions = (mask.long().cumsum(-1) - 1).clamp(0)
        pixels, pooling, _ = (videos.get(key) for key in VIDEO_KEYS)
        text, chosen = (mask, positions, types), {"visual": visual, "window_scores": scores}
        pruned = self.model.prune(
            input_ids, pixels, pooling, layout, *text, images=images, left=True, **chosen
        )
        self.last_keep_windows = pruned.vision.keep
        return {
            "input_ids": pruned.input_ids,
            "attention_mask": pruned.attention_mask,
            "position_ids": pruned.position_ids,
            "mm_token_type_ids": pruned.mm_token_type_ids,
        } | self._encoded(pruned.input_ids, pruned.visual)

    def _encoded(self, input_ids: Tensor, visual: Tensor) -> dict:
        """Visual features (K, D), in the order of their placeholders, as an argument of transformers' generate,
        which repeats them row by row for beams."""
        per_row = (input_ids == self.config.image_token_id).sum(1).tolist()
        return as_encoded(visual.split(per_row))


def as_encoded(visual: Sequence[Tensor]) -> dict:
    """Visual features, (K_i, D) each, as the argument that makes transformers' Molmo2 take them for encoded."""
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=tuple(visual))}}


def _left_padded(input_ids: Tensor, mask: Tensor, types: Tensor | None) -> dict:
    """Move padding to the left, where generation needs it; the same tensors when it stands there already."""
    survivors = plan_survivors(mask.bool(), input_ids.shape[1], left=True)
    return {
        "input_ids": survivors.take(input_ids, 0),
        "attention_mask": survivors.valid.long(),
        "mm_token_type_ids": survivors.take(types, 0),
    }
