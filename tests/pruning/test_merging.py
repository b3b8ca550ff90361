from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stts.pruning.merging import match_windows, merge, merged_sizes
from stts.pruning.selection import num_dropped
from stts.pruning.windows import from_windows, to_windows, window_index
from tests.helpers.molmo2 import attend, build, make_inputs, slow_adapter, slow_block, slow_row


def directions(*degrees: float) -> Tensor:
    """Unit vectors in the plane, as windows of one patch."""
    radians = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([radians.cos(), radians.sin()], -1)


def test_matching_by_hand():
    """Two frames of six windows; the first frame only takes in. In one round windows 6, 8, 10 are sources."""
    x = torch.stack([directions(0, 60, 120, 180, 240, 300), directions(61, 90, 95, 182, 20, 30)])
    sizes = ([2], (1, 6), 1)
    # closest: 6 to 1 (1 degree), 8 to 7 (5), 10 to 11 (10 degrees)
    one, two, three = (match_windows(x, *sizes, drop / 12 + 1e-3, rounds=1).tolist() for drop in (1, 2, 3))
    assert one == [0, 1, 2, 3, 4, 5, 1, 7, 8, 9, 10, 11]
    assert two == [0, 1, 2, 3, 4, 5, 1, 7, 7, 9, 10, 11]
    assert three == [0, 1, 2, 3, 4, 5, 1, 7, 7, 9, 11, 11]
    # the fourth needs a second round, with 7 and 11 as sources: 7 (now 92.5) is 27.5 from 2, 11 (25) is 25 from 0
    four = match_windows(x, *sizes, 4 / 12 + 1e-3, rounds=1).tolist()
    assert four == [0, 1, 2, 3, 4, 5, 1, 7, 7, 9, 0, 0]


def test_rounds_take_the_best_pairs_first():
    """One pair a round: sources and targets are told apart anew in each."""
    x = torch.stack([directions(0, 0, 0, 0), directions(1, 3, 80, 82)])
    together = match_windows(x, [2], (1, 4), 1, 3 / 8, rounds=1).tolist()
    one_by_one = match_windows(x, [2], (1, 4), 1, 3 / 8, rounds=3).tolist()
    assert together[:4] == one_by_one[:4] == [0, 1, 2, 3]
    assert together[4:] == [0, 0, 7, 7]  # 4 and 6 in one round, then 5
    assert one_by_one[4:] == [0, 0, 6, 6]  # 4; of 5, 6, 7 then 7 into 6 (2 degrees); 5 last


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.floats(0, 0.99),
    st.integers(1, 30),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_exact_number_whole_first_frame_and_own_video(videos, ratio, rounds, seed):
    x = torch.randn(sum(videos), 36, 5, generator=torch.Generator().manual_seed(seed))
    owner = match_windows(x, videos, (6, 6), 3, ratio, rounds)
    stays = owner == torch.arange(len(owner))
    assert torch.equal(owner[owner], owner)  # whoever takes in stays
    start = 0
    for frames in videos:
        part = slice(start, start + 4 * frames)
        assert (~stays[part]).sum() == num_dropped(frames, 4, ratio)
        assert stays[start : start + 4].all()
        assert start <= owner[part].min() <= owner[part].max() < part.stop
        start = part.stop


@pytest.mark.parametrize("grid", [(6, 6), (7, 5)])
def test_merged_patches_are_means_over_members(grid):
    torch.manual_seed(0)
    x = torch.randn(3, grid[0] * grid[1], 4, requires_grad=True)
    index = window_index(grid, 3)
    windows = len(index)
    owner = torch.arange(3 * windows)
    owner[windows + 1], owner[2 * windows], owner[2 * windows + 2] = 0, 0, windows
    merged, sizes = merge(x, owner, grid, 3), merged_sizes(owner, x.shape[:2], grid, 3)
    flat = x.flatten(0, 1)
    for window in range(3 * windows):
        members = [m for m in range(3 * windows) if owner[m] == window]
        for place in range(9):
            here = int(index[window % windows, place])
            if not members or here < 0:
                continue
            patches = [int(index[m % windows, place]) + m // windows * x.shape[1] for m in members]
            patches = [p for p, m in zip(patches, members, strict=True) if index[m % windows, place] >= 0]
            expected = flat[patches].mean(0)
            torch.testing.assert_close(merged[window // windows, here], expected)
            assert sizes[window // windows, here] == len(patches)
    merged[0].sum().backward()
    from_member = x.grad[2, index[0][index[0] >= 0]]
    assert (from_member.abs().sum(1) > 0).all()


def test_from_windows_inverts_to_windows():
    for grid in [(6, 6), (7, 5), (4, 9)]:
        x = torch.randn(2, grid[0] * grid[1], 3)
        assert torch.equal(from_windows(to_windows(x, grid, 3), grid, 3), x)


def slow_merging_video(model, pixels: Tensor, owner: list[int]) -> Tensor:
    """(T, 36, 48) -> LLM tokens of the windows that stay, one frame at a time."""
    tower, members = model.model.vision_tower, window_index((6, 6), 3)
    frames = []
    for frame in pixels:
        x = tower.patch_embedding(frame) + tower.positional_embedding
        for block in tower.layers[:5]:
            x = slow_block(block, x)
        frames.append(x)
    tokens = []
    for t in range(len(frames)):
        stay = [w for w in range(4) if owner[4 * t + w] == 4 * t + w]
        x, bias = [], []
        for w in stay:
            joined = [m for m, o in enumerate(owner) if o == 4 * t + w]
            x.append(torch.stack([frames[m // 4][members[m % 4]] for m in joined]).mean(0))
            bias += [len(joined)] * 9
        if not stay:
            continue
        x, bias = torch.cat(x), torch.tensor(bias).log()
        features = [x]
        for block in tower.layers[5:7]:
            a, y = block.self_attn, block.layer_norm1(x)
            x = x + a.o_proj(attend(a.q_proj(y), a.k_proj(y), a.v_proj(y), 2, bias))
            x = x + block.mlp(block.layer_norm2(x))
            features.append(x)
        for i in range(len(stay)):
            window = torch.cat([features[2], features[0]], -1)[9 * i : 9 * i + 9]
            tokens.append(slow_adapter(model, window))
    return torch.stack(tokens)


@pytest.mark.parametrize("attention", ["loop", "bins"])
@pytest.mark.parametrize("ratio", [0.4, 0.7])
@torch.no_grad()
def test_the_model_equals_a_slow_loop(ratio, attention):
    model = build(policy="tome", prune_ratio=ratio, attention=attention)
    inputs = make_inputs([[5]])
    out, tower = model(**inputs), model.model.vision_tower
    scored = tower.patch_embedding(inputs["pixel_values_videos"]) + tower.positional_embedding
    for block in tower.layers[:4]:
        scored = block(scored, None)
    owner = match_windows(scored, [5], (6, 6), 3, ratio, rounds=2)
    assert torch.equal(out.keep_windows.flatten(), owner == torch.arange(20))
    assert max(owner.bincount().tolist()) > 2
    tokens = slow_merging_video(model, inputs["pixel_values_videos"], owner.tolist())
    ids, types = inputs["input_ids"][0], inputs["mm_token_type_ids"][0]
    logits, _ = slow_row(model, ids, types, tokens, out.keep_windows)
    torch.testing.assert_close(out.logits[0], logits, rtol=1e-4, atol=1e-4)
