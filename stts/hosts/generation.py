"""Generation over the tokens that survive: transformers' own, on a prompt that was pruned first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pruning.sequence import plan_survivors
from .llm_attention import check_masks
from .survivors import Batch, prune


class PrunedGeneration:
    """generate of a pruning VLM."""

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """transformers' generate on the surviving prompt.

        Takes what forward takes, padded on either side, and generate's own options. Returns input_ids as given,
        followed by the new tokens. last_keep_windows then holds what was kept.
        """
        self.last_keep_windows = None
        input_ids, kwargs = kwargs.pop("input_ids", inputs), self.host.accept(kwargs)
        names = ("layout", "window_scores", "visual")
        asked = {name: kwargs.pop(name, None) for name in names}
        if kwargs.get("inputs_embeds") is not None:
            return super().generate(input_ids, **kwargs)
        text = (input_ids, kwargs.get("attention_mask"), kwargs.get("position_ids"))
        check_masks(self, None, asked["visual"] is not None or kwargs.get(self.host.keys[0]) is not None)
        pruned = prune(self, Batch(*text, **asked, prompt=True), kwargs)
        if pruned is None:
            kwargs.pop("frames_per_video", None)
            return self._as_given(super().generate(**padded_left(input_ids, kwargs)), input_ids)
        self.last_keep_windows = pruned.encoded.keep
        kwargs = pruned.others | pruned.tokens
        length = pruned.tokens["input_ids"].shape[1]
        for bound in ("max_length", "min_length"):  # counted from the prompt the caller knows
            if kwargs.get(bound) is not None:
                kwargs[bound] += length - input_ids.shape[1]
        return self._as_given(super().generate(**kwargs), input_ids, length)

    @staticmethod
    def _as_given(output: Any, input_ids: Tensor | None, length: int | None = None) -> Any:
        """generate's output with the prompt that the caller knows, in place of one of so many tokens."""
        if input_ids is None:
            return output
        sequences = output if isinstance(output, Tensor) else output.sequences
        new = sequences[:, input_ids.shape[1] if length is None else length :]
        sequences = torch.cat([input_ids.repeat_interleave(len(new) // len(input_ids), 0), new], 1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Tensor, dict]:
        """For beams: our features row by row, which transformers, counting placeholders, would not always find."""
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get(self.host.modality)
        again = getattr(encoded, "again", None)
        if expand_size == 1 or again is None:
            return super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
        others = {k: v for k, v in kwargs.pop("mm_encoder_outputs").items() if k != self.host.modality}
        ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, mm_encoder_outputs=others or None, **kwargs
        )
        others = kwargs.get("mm_encoder_outputs") or {}
        return ids, kwargs | {"mm_encoder_outputs": others | {self.host.modality: again(expand_size)}}


def padded_left(input_ids: Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """generate's arguments, padding moved to the left in all that have an entry for every token."""
    mask = inputs.get("attention_mask")
    if input_ids is None:
        return inputs
    inputs = {"input_ids": input_ids, **inputs}
    if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
        return inputs
    survivors = plan_survivors(mask.bool(), mask.shape[1], left=True)
    return {
        name: survivors.take(x, 0) if isinstance(x, Tensor) and x.shape == mask.shape else x
        for name, x in inputs.items()
    }
