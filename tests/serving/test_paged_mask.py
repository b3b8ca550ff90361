"""The mask of GPUs, a rule over rows of a batch and slots of a paged cache, laid out whole on a CPU.

It has not run on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("vllm", reason="needs vLLM, in a virtual environment of its own: make test-serving")

from vllm.v1.attention.backends.flex_attention import FlexAttentionMetadata, physical_to_logical_mapping

from stts.serving.layout import both_ways
from stts.serving.vllm.attention import VisualTokens, use_mask

BLOCK, BLOCKS = 16, 16


@dataclass(frozen=True)
class Request:
    visual: Tensor
    """(L,) bool, of all its tokens so far."""
    computed: int
    """Tokens that lie in the cache already."""
    blocks: tuple[int, ...]
    """Where its tokens lie, BLOCK each."""

    def slots(self) -> Tensor:
        """(L,) of the cache."""
        places = torch.arange(len(self.visual))
        return torch.tensor(self.blocks)[places // BLOCK] * BLOCK + places % BLOCK


def flags(length: int, *stretches: range) -> Tensor:
    visual = torch.zeros(length, dtype=torch.bool)
    for stretch in stretches:
        visual[list(stretch)] = True
    return visual


REQUESTS = (
    Request(flags(41, range(3, 12), range(15, 27), range(30, 33)), 0, (5, 2, 9)),  # whole, text between
    Request(flags(23, range(2, 9)), 22, (7, 3)),  # the next token of a reply
    Request(flags(45, range(4, 20), range(24, 39)), 32, (4, 11, 8)),  # the rest was cached
    Request(flags(20), 0, (1, 14)),  # no video
)


def metadata(requests: tuple[Request, ...]) -> FlexAttentionMetadata:
    """As FlexAttentionMetadataBuilder fills it."""
    new = [len(r.visual) - r.computed for r in requests]
    starts = torch.tensor([0, *torch.tensor(new).cumsum(0).tolist()], dtype=torch.int32)
    lengths = torch.tensor([len(r.visual) for r in requests], dtype=torch.int32)
    table = torch.tensor([[*r.blocks, *[13] * (3 - len(r.blocks))] for r in requests], dtype=torch.int32)
    count = int(starts[-1])
    return FlexAttentionMetadata(
        causal=True,
        num_actual_tokens=count,
        max_query_len=max(new),
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        max_seq_len=int(lengths.max()),
        seq_lens=lengths,
        block_table=table,
        slot_mapping=torch.cat([r.slots()[r.computed :] for r in requests]),
        total_cache_tokens=BLOCK * BLOCKS,
        block_size=BLOCK,
        max_possible_sequence_length=64,
        num_reqs=len(requests),
        physical_to_logical=physical_to_logical_mapping(table, lengths, BLOCK, BLOCKS),
        decode_offset=torch.tensor([r.computed for r in requests], dtype=torch.int32),
        num_blocks_per_seq=-(-lengths // BLOCK),
        persistent_kv_indices=torch.zeros(64, 64, dtype=torch.int32),
        persistent_kv_num_blocks=torch.zeros(64, dtype=torch.int32),
        persistent_doc_ids=torch.zeros(256, dtype=torch.int32),
    )


def wanted(requests: tuple[Request, ...]) -> Tensor:
    """(rows, slots) bool, one row and slot after the other."""
    rows = []
    for request in requests:
        own = both_ways(request.visual)
        for i in range(request.computed, len(request.visual)):
            row = torch.zeros(BLOCK * BLOCKS, dtype=torch.bool)
            row[request.slots()[own[i]]] = True
            rows.append(row)
    return torch.stack(rows)


def laid_out(mask, count: int) -> Tensor:
    """(rows, slots) bool, a mask_mod at every pair."""
    zero = torch.zeros((), dtype=torch.int64)
    return mask(zero, zero, torch.arange(count)[:, None], torch.arange(BLOCK * BLOCKS)[None])


def looked_at(meta: FlexAttentionMetadata) -> Tensor:
    """(rows, slots) bool, pairs in blocks that flex attention looks at."""
    count, mask = meta.num_actual_tokens, meta.block_mask
    seen = torch.zeros(-(-count // BLOCK) * BLOCK, BLOCK * BLOCKS, dtype=torch.bool)
    for group, (many, blocks) in enumerate(zip(mask.kv_num_blocks[0, 0], mask.kv_indices[0, 0], strict=True)):
        for block in blocks[:many]:
            seen[BLOCK * group : BLOCK * (group + 1), BLOCK * block : BLOCK * (block + 1)] = True
    return seen[:count]


def test_the_mask_of_a_paged_batch_is_ours():
    seen = VisualTokens()
    for request in REQUESTS:  # what earlier steps left in the cache
        if request.computed:
            before = Request(request.visual[: request.computed], 0, request.blocks)
            seen.start(before.visual)
            seen.mark_slots(metadata((before,)))
    meta = metadata(REQUESTS)
    seen.start(torch.cat([r.visual[r.computed :] for r in REQUESTS]))
    mask = seen.mark_slots(meta)
    expected = wanted(REQUESTS)
    assert torch.equal(laid_out(mask, meta.num_actual_tokens), expected)
    assert seen.mark_slots(meta) is None  # the step's other layers
    causal = laid_out(meta.get_mask_mod(), meta.num_actual_tokens)
    assert (expected & ~causal).any()

    meta.block_mask = meta._build_block_mask_direct()
    assert not looked_at(meta)[expected].all()  # blocks of later tokens, which vLLM leaves out
    use_mask(meta, mask)
    assert looked_at(meta)[expected].all()
    assert meta.block_mask.mask_mod is mask


def test_slots_that_text_is_written_to_are_visual_no_more():
    first, second = Request(flags(20, range(3, 18)), 0, (5, 2)), Request(flags(32), 0, (2, 5))
    seen = VisualTokens()
    for request in (first, second):
        seen.start(request.visual)
        mask = seen.mark_slots(metadata((request,)))
    assert torch.equal(laid_out(mask, 32), wanted((second,)))
    assert not seen.slots.any()


def test_steps_of_replies_alone_leave_blocks_as_they_are():
    meta = metadata((REQUESTS[1],))
    seen = VisualTokens()
    seen.start(REQUESTS[1].visual[22:])
    use_mask(meta, seen.mark_slots(meta))
    assert meta.causal
    assert looked_at(meta)[wanted((REQUESTS[1],))].all()
