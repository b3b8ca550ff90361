"""Visual tokens put in place by their number are where transformers puts them, forward and backward."""

from __future__ import annotations

import torch

from stts.hosts.deepstack import ARGUMENT, add_everywhere, spread_out
from tests.helpers.hosts import rows
from tests.helpers.hosts_flat import mrope

ROW = rows()[0]


def test_logits_and_gradients_are_those_of_transformers_bit_for_bit():
    model, inputs = ROW.plain(), ROW.theirs()
    model.model.language_model.register_forward_pre_hook(add_everywhere, with_kwargs=True)
    text = {"attention_mask": inputs["attention_mask"], "position_ids": mrope(model, inputs)}
    seen = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    features = [torch.cat(seen.pooler_output), *(torch.cat(x) for x in seen.deepstack_features)]
    found = []
    for ours in (False, True):
        given = [x.detach().requires_grad_() for x in features]
        if ours:
            places = inputs["mm_token_type_ids"] == 2
            embeds = spread_out(given[0], places, model.get_input_embeddings()(inputs["input_ids"]))
            beside = [spread_out(x, places, torch.zeros_like(embeds)) for x in given[1:]]
            out = model(inputs_embeds=embeds, **{ARGUMENT: beside}, **text)
        else:
            encoded = type(seen)(pooler_output=(given[0],), deepstack_features=[(x,) for x in given[1:]])
            out = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"video": encoded}, **text)
        out.logits.sum().backward()
        found.append([out.logits, *(x.grad for x in given)])
    assert all(torch.equal(ours, theirs) for theirs, ours in zip(*found, strict=True))
    assert all(grad.abs().max() > 0 for grad in found[0][1:])


def test_without_features_everything_stays_and_they_get_their_gradient_of_nothing():
    rest, nothing = torch.rand(1, 3, 2), torch.empty(0, 2, requires_grad=True)
    found = spread_out(nothing, torch.zeros(1, 3, dtype=torch.bool), rest)
    assert torch.equal(found, rest)
    found.sum().backward()
    assert nothing.grad.shape == (0, 2)
