"""Layers that call scaled_dot_product_attention themselves can be told, too."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from stts.pruning.attention import KeyBias, Ragged
from stts.pruning.packing import Packing


def test_a_bias_or_segments_in_the_place_of_a_mask():
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([[0.0, -1.0, -2.0, 0.0, -0.5]])
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=KeyBias(bias).as_mask())
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None])
    torch.testing.assert_close(found, wanted)
    packing = Packing(torch.arange(5), torch.tensor([0, 2, 5, 5], dtype=torch.int32), 0, (2, 3))
    found = F.scaled_dot_product_attention(
        query, key, value, attn_mask=Ragged(packing, "loop").as_mask(), scale=0.5
    )
    frame = torch.tensor([0, 0, 1, 1, 1])
    mask = frame[:, None] == frame
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.5)
    torch.testing.assert_close(found, wanted)
