"""A loss on supervised tokens alone needs no logits of the others, and is the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import Molmo2ForConditionalGeneration

import stts
from tests.helpers.hosts import Described, rows
from tests.helpers.molmo2 import build, make_inputs

VIDEOS = [[4], [3, 2], []]


def models() -> dict[str, nn.Module]:
    """Molmo2's own class, and the same through the mechanism that all hosts share."""
    own = build(prune_ratio=0.5).train()
    plain = Molmo2ForConditionalGeneration(copy.deepcopy(own.config))
    return {"own": own, "shared": stts.insert_stts(plain, own.stts, host=Described).train()}


def answers(inputs: dict[str, Tensor], at_once: bool) -> Tensor:
    """Labels on the last tokens of each row, in the last one on all words; at_once: on nearly all tokens."""
    ids = inputs["input_ids"]
    labels = ids.masked_fill((inputs["mm_token_type_ids"] == 1) | (inputs["attention_mask"] == 0), -100)
    labels = labels.masked_fill(labels >= 48, -100)
    if not at_once:
        labels[:-1, :-6] = -100
    return labels


@pytest.mark.parametrize("name", ["own", "shared"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_loss_and_gradients_are_those_of_all_logits(name: str, ratio: float, weighted: bool, at_once: bool):
    model, inputs = models()[name], make_inputs(VIDEOS)
    model.stts = model.stts.replace(prune_ratio=ratio)
    inputs["labels"] = answers(inputs, at_once)
    if weighted:
        inputs["loss_weights"] = torch.rand(inputs["labels"].shape)
    count = int((inputs["labels"][:, 1:] != -100).sum())
    losses, grads = [], []
    for more in ({}, {"num_targets": count}, {"num_targets": count + 2}):  # an upper bound will do
        model.zero_grad()
        out = model(**inputs, **more)
        out.loss.backward()
        losses.append(out.lm_loss)
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        expected = more.get("num_targets", out.logits.shape[1] - 1) + 1
        assert out.logits.shape[:2] == (1 if more else 3, expected)
    assert not model.get_output_embeddings()._forward_pre_hooks
    largest = max(float(grad.abs().max()) for grad in grads[0].values())
    for loss, grad in zip(losses[1:], grads[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=0, atol=1e-6)
        assert grad.keys() == grads[0].keys()
        for parameter, value in grad.items():
            torch.testing.assert_close(value, grads[0][parameter], rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_every_host_takes_it(row):
    model, inputs = row.pruned(prune_ratio=0.5).train(), row.batch(pad="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    inputs["labels"] = labels.masked_fill(labels >= row.words, -100)
    count = int((inputs["labels"][:, 1:] != -100).sum())
    few = model(**inputs, num_targets=count)
    assert few.logits.shape[:2] == (1, count + 1)
    torch.testing.assert_close(few.lm_loss, model(**inputs).lm_loss, rtol=0, atol=2e-6)
    inputs["labels"].fill_(-100)
    none = model(**inputs, num_targets=0).lm_loss
    assert none == 0
    none.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert model.get_input_embeddings().weight.grad is not None
