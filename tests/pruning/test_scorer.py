from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stts import STTSScorer
from tests.helpers.goldens import case


def published(name: str, heads: int) -> tuple[STTSScorer, dict]:
    data = case("scorer", name)
    weights = {k.removeprefix("weights/"): v for k, v in data.items() if k.startswith("weights/")}
    return STTSScorer.from_published(weights, heads), data


@pytest.mark.parametrize(
    ("name", "heads", "videos"), [("small", 4, [7]), ("grid27", 2, [4]), ("padded_grid8", 3, [5])]
)
def test_scores_equal_the_published_ones(name, heads, videos):
    scorer, data = published(name, heads)
    torch.testing.assert_close(
        scorer.score_windows(data["hidden"], videos), data["scores"], rtol=1e-5, atol=2e-6
    )


def test_a_video_starts_from_zeros():
    scorer, data = published("two_videos", 4)
    expected = data["scores_zero_before_each_video"]
    torch.testing.assert_close(scorer.score_windows(data["hidden"], [4, 3]), expected, rtol=1e-5, atol=2e-6)


def test_plain_form_agrees_with_whole_videos():
    torch.manual_seed(0)
    scorer, x = STTSScorer(32), torch.randn(4, 36, 32)
    scores = scorer.score_windows(x, [4])  # (4, 4)
    pairs = scorer(x[1:], x[:-1])  # (3, 36)
    assert pairs.shape == (3, 36)
    assert pairs.dtype == torch.float32
    for frame in range(3):
        for row in range(6):
            for col in range(6):
                window = row // 3 * 2 + col // 3
                torch.testing.assert_close(pairs[frame, row * 6 + col], scores[frame + 1, window])
    first = scorer(x[:1])
    torch.testing.assert_close(first[0, 0], scores[0, 0])


def test_pooling_is_attention_with_the_mean_as_query():
    torch.manual_seed(0)
    scorer, x = STTSScorer(16, num_heads=2), torch.randn(1, 9, 16)
    p = scorer.pooling
    q, k, v = p.q_proj(x.mean(1)), p.k_proj(x[0]), p.v_proj(x[0])
    heads = []
    for h in (slice(0, 8), slice(8, 16)):
        weights = F.softmax(q[:, h] @ k[:, h].T / 8**0.5, -1)
        heads.append(weights @ v[:, h])
    torch.testing.assert_close(scorer.pool(x, (3, 3))[0], p.o_proj(torch.cat(heads, -1)))


def test_scores_stay_float32_in_half_precision():
    scorer = STTSScorer(16, num_heads=2).to(torch.bfloat16)
    scores = scorer.score_windows(torch.randn(2, 9, 16, dtype=torch.bfloat16), [2])
    assert scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: STTSScorer(30, num_heads=8), "num_heads is 8"),
        (lambda: STTSScorer(32, activation="sine"), "activation is 'sine'"),
        (lambda: STTSScorer(32).score_windows(torch.zeros(3, 9, 32), [2]), r"frames_per_video is \[2\]"),
        (lambda: STTSScorer(32)(torch.zeros(1, 10, 32)), "10 patches are not a square"),
        (lambda: STTSScorer(32)(torch.zeros(1, 9, 32), torch.zeros(2, 9, 32)), "x_prev is"),
        (lambda: STTSScorer.from_published({"mlp.w1.weight": torch.zeros(1)}, 2), "missing .*fc1.bias"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
