"""Molmo2, described in twenty lines, says bit for bit what STTSMolmo2ForConditionalGeneration does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Molmo2ForConditionalGeneration

import stts
from stts.chat import prompt_inputs
from stts.data import Clip
from stts.data.video.pixels import normalize
from tests.helpers.hosts import Described


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any, dict[str, Tensor]]:
    """The shipped tiny model, the same weights through the mechanism, and a prompt of six frames."""
    model, processor = stts.load("tiny", prune_ratio=0.5)
    weights = model.state_dict()
    plain = Molmo2ForConditionalGeneration(copy.deepcopy(model.config)).eval()
    plain.load_state_dict({name: x for name, x in weights.items() if ".scorer." not in name})
    twin = stts.insert_stts(plain, model.stts, host=Described)
    twin.load_state_dict(weights)
    frames = np.random.default_rng(0).integers(0, 255, (6, 96, 96, 3), dtype=np.uint8)
    inputs = prompt_inputs(processor, "What colour came first?", Clip(frames, np.arange(6) * 0.5))
    pixels = inputs["pixel_values_videos"]
    inputs["pixel_values_videos"] = normalize(pixels) if pixels.dtype == torch.uint8 else pixels
    return model, twin, inputs


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
def test_logits_losses_and_gradients_are_the_same_bits(pair, ratio: float):
    model, twin, inputs = pair
    labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
    labels = labels.masked_fill(labels >= model.vocab_size, -100)
    outs, grads, answers = [], [], []
    for each in (model, twin):
        each.stts = each.stts.replace(prune_ratio=ratio)
        answers.append(each.eval().generate(**inputs, max_new_tokens=6, do_sample=False))
        each.train().zero_grad()
        out = each(**inputs, labels=labels)
        out.loss.backward()
        outs.append(out)
        grads.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
        each.eval().zero_grad()
    ours, theirs = outs[1], outs[0]
    assert torch.equal(answers[1], answers[0])
    for name in ("logits", "keep_mask", "lm_loss", "aux_loss", "loss"):
        assert torch.equal(ours[name], theirs[name]), name
    for name in ("keep_windows", "scores"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None) == (ratio == 0)
        assert ratio == 0 or torch.equal(ours[name], theirs[name]), name
    assert grads[0].keys() == grads[1].keys()
    largest = max(float(grad.abs().max()) for grad in grads[0].values())
    for name, grad in grads[0].items():
        # sums of the same terms, in another order where features lay dense
        torch.testing.assert_close(grads[1][name], grad, rtol=0, atol=1e-6 * largest, msg=name)
