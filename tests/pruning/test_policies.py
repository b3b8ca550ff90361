from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from stts import STTSConfig, insert_stts
from stts.pruning.config import POLICIES
from stts.pruning.layout import BatchLayout
from stts.pruning.policies import RANKINGS, View, choose, kept_evenly
from stts.pruning.selection import explore, num_dropped, select_windows
from tests.helpers.molmo2 import (
    PATCH_ID,
    RefuseHostReads,
    build,
    labels_of,
    make_inputs,
    plain_twin,
    slow_row,
)
from tests.helpers.paths import ROOT
from tests.helpers.vision_models import clip, siglip

PRUNING = [policy for policy in POLICIES if policy not in ("none", "given")]
STEADY = [policy for policy in PRUNING if policy != "random"]
"""Policies that keep the same windows of a video whatever else is in the batch."""


def view_of(tokens: Tensor, videos: list[int], **stts) -> View:
    """Windows of one token each: (F, W, C)."""
    return View(tokens, videos, (1, tokens.shape[1]), 1, STTSConfig(**stts))


def walk(frames: int, windows: int, channels: int, step: float, seed: int = 0) -> Tensor:
    """Tokens that change a little from frame to frame, some windows more than others."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, windows, channels, generator=generator)
    steps[1:] *= step * torch.rand(frames - 1, windows, 1, generator=generator)
    return steps.cumsum(0)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a.double() @ b.double()) / (a.double().norm() * b.double().norm()))


# --- each policy on its own ----------------------------------------------------------------------------------


def test_every_policy_is_built_and_has_a_place():
    assert set(RANKINGS) | {"scorer", "tome", "none"} == set(POLICIES)
    assert set(POLICIES.values()) == {"nowhere", "frames", "vit", "llm"}
    table = (ROOT / "docs" / "policies.md").read_text().split("Only the scorer learns")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(POLICIES)


def test_uniform_keeps_evenly_spaced_frames():
    whole = [0, 1, 2, 3]
    assert kept_evenly([5], 4, 0.5) == [whole, [], whole, [], [0, 2]]  # 10 of 20 windows
    assert kept_evenly([4], 4, 0.9) == [whole, [], [], []]  # 4 at least
    assert kept_evenly([1, 3], 4, 0.4) == [whole, whole, [], whole]  # 12 - 4; a single frame loses nothing
    assert kept_evenly([6], 9, 0.3) == [list(range(9))] * 2 + [[]] + [list(range(9))] * 2 + [[0, 4]]


@given(st.integers(1, 40), st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_uniform_keeps_the_exact_number_and_both_ends(frames, windows, ratio):
    kept = kept_evenly([frames], windows, ratio)
    assert sum(map(len, kept)) == frames * windows - num_dropped(frames, windows, ratio)
    assert all(len(set(k)) == len(k) and set(k) <= set(range(windows)) for k in kept)
    used = [t for t, k in enumerate(kept) if k]
    assert kept[0] == list(range(windows))
    assert all(len(kept[t]) == windows for t in used[:-1])
    assert len(used) == 1 or used[-1] == frames - 1
    gaps = [b - a for a, b in pairwise(used)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_evs_keeps_what_changed_most_over_the_whole_video(ratio):
    videos, tokens = [5, 7], torch.cat([walk(5, 4, 6, 0.7), walk(7, 4, 6, 0.7, seed=1)])
    keep, _ = choose(view_of(tokens, videos, policy="evs", prune_ratio=ratio))
    for video, kept in zip(tokens.split(videos), keep.split(videos), strict=True):
        order = [(255.0, 0, w) for w in range(4)]  # dissimilarity, as it is run in vLLM
        for t in range(1, len(video)):
            order += [(1 - cosine(video[t, w], video[t - 1, w]), t, w) for w in range(4)]
        order.sort(reverse=True)
        count = len(order) - num_dropped(len(video), 4, ratio)
        assert {(t, w) for _, t, w in order[:count]} == {tuple(place) for place in kept.nonzero().tolist()}


def slow_reference(video: Tensor, drop: int, threshold: float) -> tuple[list[list[float]], int]:
    """Scores of one video by the rule in words, and the attempts it took."""
    for attempt in range(5):
        limit = threshold - 0.05 * attempt
        reference = list(video[0])
        scores = [[2.0] * len(reference)]
        for frame in video[1:]:
            similarity = [cosine(new, old) for new, old in zip(frame, reference, strict=True)]
            if sum(similarity) / len(similarity) < limit:
                reference, similarity = list(frame), [-1.0] * len(similarity)
            for w, value in enumerate(similarity):
                if value != -1 and value < limit:
                    reference[w] = frame[w]
            scores.append([1 - value for value in similarity])
        if sum(score < 2 for line in scores for score in line) >= drop:
            break
    return scores, attempt + 1


def test_reference_by_hand():
    """Three windows whose vectors are unit angles: cos 20 = 0.94, cos 40 = 0.77, cos 60 = 0.5 degrees."""

    def frame(*degrees: float) -> Tensor:
        radians = torch.tensor(degrees) * math.pi / 180
        return torch.stack([radians.cos(), radians.sin()], -1)

    tokens = torch.stack([frame(0, 0, 0), frame(20, 0, 40), frame(20, 20, 60), frame(110, 90, 90)])
    _, scores = choose(view_of(tokens, [4], policy="reference", prune_ratio=0.4))
    expected = [
        [2, 2, 2],  # the first frame
        [
            1 - 0.9397,
            0,
            1 - 0.7660,
        ],  # mean 0.90: not new as a whole, but its third window replaces the reference
        [1 - 0.9397, 1 - 0.9397, 1 - 0.9397],  # the third: 60 - 40 degrees
        [2, 2, 2],  # mean of cos 110, cos 90 and cos 50: new as a whole
    ]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-4, rtol=0)


def test_reference_equals_a_loop_and_lowers_its_threshold_only_where_it_must():
    attempts = []
    for seed, ratio in [(0, 0.3), (1, 0.5), (2, 0.8), (3, 0.5), (4, 0.7)]:
        videos = [6, 9]
        tokens = torch.cat([walk(6, 4, 5, 0.9, seed), walk(9, 4, 5, 0.6, seed + 10)])
        keep, scores = choose(view_of(tokens, videos, policy="reference", prune_ratio=ratio))
        for video, ours, kept in zip(
            tokens.split(videos), scores.split(videos), keep.split(videos), strict=True
        ):
            drop = num_dropped(len(video), 4, ratio)
            slow, tried = slow_reference(video, drop, 0.85)
            torch.testing.assert_close(ours, torch.tensor(slow), atol=1e-5, rtol=1e-5)
            assert (~kept).sum() == drop
            attempts.append(tried)
    assert min(attempts) == 1
    assert max(attempts) > 1


def slow_vidcom2(video: Tensor, ratio: float) -> Tensor:
    """Keep mask of one video: budgets by the formulas, then one more window for all frames until the sum fits."""
    frames, windows, channels = video.shape
    kept = frames * windows - num_dropped(frames, windows, ratio)
    flat = video.double().view(-1, channels)
    quiet = sorted(range(channels), key=lambda c: float(flat[:, c].var(unbiased=False)))[: channels // 2]
    x = F.normalize(video.double()[..., quiet], dim=-1)

    def closeness(token: Tensor, center: Tensor) -> float:
        d = float(((token - center) ** 2).sum())
        return sum(math.exp(-d / (2 * a)) for a in (0.125, 0.25, 0.5, 1, 2))

    of_video, of_frame = x.mean((0, 1)), x.mean(1)
    to_video = [[closeness(x[t, w], of_video) for w in range(windows)] for t in range(frames)]
    to_both = [
        [to_video[t][w] + closeness(x[t, w], of_frame[t]) for w in range(windows)] for t in range(frames)
    ]
    weights = [math.exp(-sum(line) / windows / 0.01) for line in to_video]
    budgets = [min(windows, kept / frames * (1 + e / sum(weights) - 1 / frames)) for e in weights]
    low, high = -windows, windows  # what is added to every budget, by bisection
    for _ in range(80):
        shift = (low + high) / 2
        counts = [min(windows, max(1, math.ceil(b + shift))) for b in budgets]
        low, high = (shift, high) if sum(counts) < kept else (low, shift)
    counts = [min(windows, max(1, math.ceil(b + high))) for b in budgets]
    keep = torch.zeros(frames, windows, dtype=torch.bool)
    for t in range(frames):
        keep[t, sorted(range(windows), key=lambda w: to_both[t][w])[: counts[t]]] = True
    return keep


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_vidcom2_equals_a_loop_over_frames(ratio):
    videos = [5, 8]
    tokens = torch.cat([walk(5, 9, 12, 0.8), walk(8, 9, 12, 0.5, seed=1)])
    keep, _ = choose(view_of(tokens, videos, policy="vidcom2", prune_ratio=ratio))
    for video, kept in zip(tokens.split(videos), keep.split(videos), strict=True):
        assert torch.equal(kept, slow_vidcom2(video, ratio))


def test_vidcom2_gives_the_frame_unlike_the_others_more():
    tokens = torch.zeros(5, 10, 8)
    tokens[..., 0] = 1
    tokens[..., 1:4] = 0.1 * torch.randn(5, 10, 3, generator=torch.Generator().manual_seed(0))
    tokens[2, :, 0] = -1
    tokens[..., 4:] = 9 * torch.randn(5, 10, 4, generator=torch.Generator().manual_seed(1))  # not looked at
    keep, _ = choose(view_of(tokens, [5], policy="vidcom2", prune_ratio=0.5))
    # 25 stay: 25/5 * (1 - 1/5) = 4 of each frame, and 25/5 * (2 - 1/5) = 9 of the third
    assert keep.sum(1).tolist() == [4, 4, 9, 4, 4]


def test_given_scores_decide():
    oracle = torch.zeros(5, 4)
    oracle[3, 1] = oracle[1, 2] = oracle[4, 0] = 1
    view = view_of(
        torch.randn(5, 4, 3), [5], policy="given", prune_ratio=0.65
    )  # 13 of 20 go, 4 are the first's
    keep, scores = choose(View(**{**vars(view), "window_scores": oracle}))
    assert torch.equal(scores, oracle)
    assert keep[1:].nonzero().tolist() == [[0, 2], [2, 1], [3, 0]]


# --- selection and exploration -------------------------------------------------------------------------------


def test_the_first_frame_is_ranked_where_it_is_asked_for():
    scores = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.0]])
    assert select_windows(scores, [3], 0.5, first_frame_whole=False).tolist() == [[0, 1], [0, 1], [1, 0]]
    assert select_windows(scores, [3], 0.5).tolist() == [[1, 1], [0, 1], [0, 0]]


def test_exploration_draws_without_replacement_by_odds():
    torch.manual_seed(0)
    scores = torch.tensor([0.5, 0.75, 0.8])  # odds 1, 3, 4
    order = explore(scores.expand(20000, 3), 1.0).argsort(1, descending=True)
    first = order[:, 0].bincount(minlength=3) / 20000
    torch.testing.assert_close(first, torch.tensor([1 / 8, 3 / 8, 4 / 8]), atol=0.015, rtol=0)
    second = order[order[:, 0] == 2][:, 1]
    torch.testing.assert_close((second == 0).float().mean(), torch.tensor(1 / 4), atol=0.015, rtol=0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.floats(0, 0.99), st.floats(0.01, 50))
@settings(max_examples=40)
def test_exploration_changes_neither_the_number_nor_first_frames(videos, ratio, noise):
    scores = torch.rand(sum(videos), 4).round()  # saturated ones, too
    keep = select_windows(explore(scores, noise), videos, ratio)
    for video in keep.split(videos):
        assert (~video).sum() == num_dropped(len(video), 4, ratio)
        assert video[0].all()


def test_exploration_is_for_training_and_follows_torch_s_seed():
    model, inputs = build(score_noise=3.0), make_inputs([[4], [7]])
    plain = build()(**inputs)
    assert torch.equal(model(**inputs).keep_windows, plain.keep_windows)
    model.train()
    kept = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        out = model(**inputs)
        assert torch.equal(out.scores, plain.scores)
        assert [int(k.sum()) for k in out.keep_windows.split([4, 7])] == [8, 14]
        kept.append(out.keep_windows)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


# --- in the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", PRUNING)
def test_budget_outputs_and_gradient(policy):
    torch.manual_seed(0)
    model, inputs = build(policy=policy).train(), make_inputs([[4], [7], [1]])
    layout = BatchLayout((4, 7, 1), tuple(inputs["attention_mask"].sum(1).tolist()), (0, 1, 2))
    labels = labels_of(inputs)
    with RefuseHostReads():
        out = model(**inputs, layout=layout, labels=labels)
    assert [int(k.sum()) for k in out.keep_windows.split([4, 7, 1])] == [8, 14, 4]
    assert out.scores.shape == (12, 4)
    assert (policy == "vidcom2") != bool(out.keep_windows[[0, 4]].all())
    placeholder = inputs["input_ids"] == PATCH_ID
    assert torch.equal(out.keep_mask[placeholder], out.keep_windows.flatten())
    torch.testing.assert_close(out.loss, out.lm_loss + 0.5 * out.aux_loss)
    out.loss.backward()
    for name in ("patch_embedding", "layers.0", "layers.6"):
        module = model.model.vision_tower.get_submodule(name)
        assert all(p.grad.isfinite().all() for p in module.parameters())
        assert sum(p.grad.abs().sum() for p in module.parameters()) > 0
    scorer = sum(p.grad.abs().sum() for p in model.model.vision_tower.scorer.parameters())
    assert (scorer > 0) == (policy == "scorer")


def test_half_precision_and_checkpointing_keep_the_number_under_every_policy():
    inputs = make_inputs([[4], [7]])
    for policy in PRUNING:
        model = build(policy=policy, score_noise=0.5).to(torch.bfloat16)
        out = model(**inputs)
        assert [int(k.sum()) for k in out.keep_windows.split([4, 7])] == [8, 14], policy
        assert out.logits.isfinite().all(), policy
    for policy in ("scorer", "tome", "uniform", "vidcom2"):
        model = build(policy=policy, score_noise=0.5).train()
        model.gradient_checkpointing_enable()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(**inputs, labels=labels_of(inputs))
        assert out.scores.dtype == torch.float32, policy
        out.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), policy


@pytest.mark.parametrize("policy", [*STEADY, "given"])
def test_a_batch_generates_what_its_rows_generate_alone(policy):
    model, batch = build(policy=policy, prune_ratio=0.6), make_inputs([[4], [7]], pad="left")
    scores = torch.rand(11, 4)
    options = {"max_new_tokens": 4, "do_sample": False}
    out = model.generate(**batch, window_scores=scores, **options)
    assert model.last_keep_windows.sum() == 44 - 9 - 16
    frames = (slice(0, 4), slice(4, 11))
    for row, part in enumerate(frames):
        real = batch["attention_mask"][row].bool()
        single = {
            k: batch[k][row : row + 1, real] for k in ("input_ids", "mm_token_type_ids", "attention_mask")
        }
        single["pixel_values_videos"] = batch["pixel_values_videos"][part]
        single["video_grids"] = batch["video_grids"][row : row + 1]
        single["video_token_pooling"] = batch["video_token_pooling"][: 4 * (part.stop - part.start)]
        alone = model.generate(**single, window_scores=scores[part], **options)
        assert torch.equal(out[row, -4:], alone[0, -4:])


@pytest.mark.parametrize("policy", STEADY)
@torch.no_grad()
def test_a_packed_row_equals_its_examples_alone(policy):
    model = build(policy=policy)
    singles = [make_inputs([[4]], seed=1), make_inputs([[7]], seed=3)]
    packed = {
        k: torch.cat([s[k] for s in singles], 1) for k in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    packed |= {k: torch.cat([s[k] for s in singles]) for k in ("pixel_values_videos", "video_grids")}
    packed["video_token_pooling"] = torch.cat(
        [singles[0]["video_token_pooling"], singles[1]["video_token_pooling"] + 4 * 36]
    )
    lengths = [s["input_ids"].shape[1] for s in singles]
    packed["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
    packed["sequence_ids"] = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    alone = torch.cat([model(**s).logits[0] for s in singles])
    torch.testing.assert_close(model(**packed).logits[0], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [6, 7])
@pytest.mark.parametrize("policy", ["evs", "vidcom2", "uniform"])
@torch.no_grad()
def test_policies_outside_the_vit_hand_on_plain_features(policy, grid):
    """Kept windows are what transformers' own vision tower and adapter say of them."""
    model = build(policy=policy, grid=grid)
    inputs = make_inputs([[5]], grid=grid)
    videos = {k: inputs[k] for k in ("pixel_values_videos", "video_token_pooling", "video_grids")}
    tokens = plain_twin(model).get_video_features(**videos).pooler_output[0]
    out = model(**inputs)
    keep = out.keep_windows
    if policy != "uniform":
        per_frame = tokens.unflatten(0, (5, -1))
        rank, _ = choose(view_of(per_frame, [5], policy=policy))
        assert torch.equal(keep, rank)
    ids, types = inputs["input_ids"][0], inputs["mm_token_type_ids"][0]
    logits, kept = slow_row(model, ids, types, tokens[keep.flatten()], keep)
    assert torch.equal(out.keep_mask[0].nonzero()[:, 0], kept)
    torch.testing.assert_close(out.logits[0], logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_uniform_never_runs_a_frame_that_keeps_nothing():
    model, inputs = build(policy="uniform"), make_inputs([[5], [1]])
    seen = []
    for block in (0, 6):
        model.model.vision_tower.layers[block].register_forward_hook(
            lambda module, args, out: seen.append(tuple(out.shape))
        )
    model(**inputs)
    assert seen == [(4, 36, 32)] * 2  # 3 of 5 frames, and the single one


@pytest.mark.parametrize("host", [siglip, clip])
@torch.no_grad()
def test_vision_models_prune_by_every_policy_of_the_vit(host):
    pixels = torch.randn(6, 3, 48, 48)
    for policy in ("random", "temporal", "reference", "tome", "uniform"):
        model = insert_stts(host(), STTSConfig(policy=policy))
        out = model(pixels, frames_per_video=[4, 2])
        assert [int(k.sum()) for k in out.keep.split([4, 2])] == [8, 4]
        frames = int(out.keep.any(1).sum()) if policy == "uniform" else 6
        assert len(out.last_hidden_state) == 9 * 12 + frames * (
            host is clip
        )  # a class token a frame that runs
        tokens = torch.zeros(6 * (36 + (host is clip)), dtype=torch.bool)
        tokens[out.token_index] = True
        assert torch.equal(tokens.view(6, -1)[:, -36:].sum(1), 9 * out.keep.sum(1))


@torch.no_grad()
def test_none_prunes_nothing_whatever_the_ratio():
    model, inputs = build(policy="none", prune_ratio=0.8), make_inputs([[4], [7]])
    out = model(**inputs)
    assert out.keep_windows is None
    assert torch.equal(out.logits, plain_twin(model)(**inputs).logits)
    assert model.stts.prune_ratio == 0
    assert model.stts.replace(prune_ratio=0.3).prune_ratio == 0
    with pytest.raises(ValueError, match=r"prune_ratio is 1\.5"):
        STTSConfig(policy="none", prune_ratio=1.5)


def test_the_scorer_learns_from_either_loss_alone():
    inputs = make_inputs([[4], [7]])
    grads = {}
    for name, changes in {
        "both": {},
        "auxiliary": {"bias_floor": 1.0},
        "llm": {"aux_loss_weight": 0.0},
        "none": {"bias_floor": 1.0, "aux_loss_weight": 0.0},
    }.items():
        model = build(**changes).train()
        model(**inputs, labels=labels_of(inputs)).loss.backward()
        grads[name] = model.model.vision_tower.scorer.fc1.weight.grad
    assert grads["none"].abs().max() == 0
    assert min(grads[name].abs().max() for name in ("auxiliary", "llm")) > 0
    assert not torch.allclose(grads["auxiliary"], grads["llm"])


@pytest.mark.parametrize("scores", [None, torch.rand(4, 3)])
def test_scores_that_are_not_given_are_asked_for(scores):
    with pytest.raises(ValueError, match=r"window_scores is (None|\(4, 3\)), must be \(4, 4\)"):
        build(policy="given")(**make_inputs([[4]]), window_scores=scores)


def test_a_vision_model_alone_names_what_it_cannot_do():
    model = insert_stts(siglip(), STTSConfig(policy="evs"))
    with pytest.raises(ValueError, match="policy is 'evs', which drops nothing in a vision model"):
        model(torch.randn(3, 3, 48, 48))


def test_unknown_policies_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"policy is 'best', must be one of none, scorer, random, .*vidcom2"):
        STTSConfig(policy="best")
