"""A random Molmo2 small enough for unit tests, and inputs for it as transformers takes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.pruning.windows import window_index

PATCH_ID, FRAME_START, FRAME_END, IMAGE_START, IMAGE_END = 50, 51, 52, 53, 54
IMAGE = "image"
"""An item of a row: an image of a whole view and two crops, 2 x 2 and 4 x 2 windows of 4 x 4 patches."""


def tiny_config(grid: int = 6, blocks: int = 7, feature_layers: tuple[int, ...] = (6, 4)) -> Molmo2Config:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "image_size": [4 * grid, 4 * grid],
        "patch_size": 4,
        "initializer_range": 0.1,
    }
    adapter = {
        "vision_feature_layer": list(feature_layers),
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 40,
        "text_hidden_size": 48,
        "initializer_range": 0.1,
    }
    text = {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "initializer_range": 0.1,
        "vocab_size": 48,
        "additional_vocab_size": 16,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    ids = {
        "image_patch_id": PATCH_ID,
        "frame_start_token_id": FRAME_START,
        "frame_end_token_id": FRAME_END,
        "image_start_token_id": IMAGE_START,
        "low_res_image_start_token_id": IMAGE_START,
        "image_end_token_id": IMAGE_END,
    }
    return Molmo2Config(vision_config=vision, adapter_config=adapter, text_config=text, **ids)


def make_inputs(
    rows: list[list[int | str]],
    grid: int = 6,
    pool: int = 3,
    seed: int = 0,
    pad: str = "right",
    text: int = 5,
) -> dict[str, Tensor]:
    """rows: frames of each video of each row, or IMAGE. Text of varying length stands around them."""
    generator = torch.Generator().manual_seed(seed)
    windows = window_index((grid, grid), pool)
    sequences, types = [], []
    for r, items in enumerate(rows):
        ids = _words(3 + r, generator)
        kinds = [0] * len(ids)
        for item in items:
            if item == IMAGE:
                ids += [2, IMAGE_START, *[PATCH_ID] * 4, IMAGE_END, IMAGE_START, *[PATCH_ID] * 8, IMAGE_END]
                kinds += [0] + [1] * 16
                continue
            for _ in range(item):
                ids += [*_words(2, generator), FRAME_START, *[PATCH_ID] * len(windows), FRAME_END]
                kinds += [0, 0] + [1] * (len(windows) + 2)
        ids += _words(text + r, generator)
        kinds += [0] * (text + r)
        sequences.append(ids)
        types.append(kinds)
    length = max(map(len, sequences))
    frames = [item for items in rows for item in items if item != IMAGE]
    inputs = {
        "input_ids": _pad(sequences, length, 0, pad),
        "attention_mask": _pad([[1] * len(s) for s in sequences], length, 0, pad),
        "mm_token_type_ids": _pad(types, length, 0, pad),
    }
    if frames:
        offsets = torch.arange(sum(frames)).view(-1, 1, 1) * grid * grid
        pooling = torch.where(windows >= 0, windows + offsets, -1).flatten(0, 1)
        side = -(-grid // pool)
        inputs["pixel_values_videos"] = _video(frames, grid, generator)
        inputs["video_token_pooling"] = pooling
        inputs["video_grids"] = torch.tensor([[t, side, side] for t in frames])
    return inputs | _images(sum(items.count(IMAGE) for items in rows), grid, generator)


def _images(count: int, grid: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Of each image a whole view and two crops, one below the other, pooled 4 x 4 with a padded edge."""
    if not count:
        return {}
    windows = window_index((grid, grid), 4)  # 2 x 2 of 16, some -1
    crops = torch.arange(3 * count).view(-1, 1, 1) * grid * grid
    return {
        "pixel_values": torch.randn(3 * count, grid * grid, 48, generator=generator),
        "image_token_pooling": torch.where(windows >= 0, windows + crops, -1).flatten(0, 1),
        "image_grids": torch.tensor([[2, 2, 4, 2]] * count),
        "image_num_crops": torch.tensor([3] * count),
    }


def _words(n: int, generator: torch.Generator) -> list[int]:
    return torch.randint(1, 48, (n,), generator=generator).tolist()


def _pad(rows: list[list[int]], length: int, fill: int, side: str) -> Tensor:
    pads = [[fill] * (length - len(r)) for r in rows]
    return torch.tensor([r + p if side == "right" else p + r for r, p in zip(rows, pads, strict=True)])


def _video(frames: list[int], grid: int, generator: torch.Generator) -> Tensor:
    """Frames that change a little from one to the next: (F, N, 4 * 4 * 3)."""
    videos = []
    for t in frames:
        steps = torch.randn(t, grid * grid, 48, generator=generator)
        steps[1:] *= 0.5
        videos.append(steps.cumsum(0))
    return torch.cat(videos)


def build(seed: int = 0, grid: int = 6, **stts) -> STTSMolmo2ForConditionalGeneration:
    torch.manual_seed(seed)
    config = tiny_config(grid)
    config.stts = STTSConfig(**stts).to_dict()
    return STTSMolmo2ForConditionalGeneration(config).eval()


def plain_twin(model: STTSMolmo2ForConditionalGeneration) -> Molmo2ForConditionalGeneration:
    twin = Molmo2ForConditionalGeneration(model.config).eval()
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert all("scorer" in name for name in unexpected)
    return twin


def labels_of(inputs: dict[str, Tensor]) -> Tensor:
    ignore = (inputs["mm_token_type_ids"] == 1) | (inputs["attention_mask"] == 0)
    return inputs["input_ids"].masked_fill(ignore, -100)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(n, D), (m, D), (m, D) -> (n, D) by explicit softmax."""
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    logits = logits if bias is None else logits + bias
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def slow_block(block, x: Tensor, bias: Tensor | None = None) -> Tensor:
    a, y = block.self_attn, block.layer_norm1(x)
    x = x + a.o_proj(attend(a.q_proj(y), a.k_proj(y), a.v_proj(y), 2, bias))
    return x + block.mlp(block.layer_norm2(x))


def slow_bias(scores: Tensor, first: bool) -> Tensor:
    """(4,) scores of a 2 x 2 window grid -> (36,) bias of its patches."""
    bias = torch.zeros(36)
    for patch in range(0 if not first else 36, 36):
        row, col = patch // 6 // 3, patch % 6 // 3
        line = scores[2 * row : 2 * row + 2]
        floor = math.exp(-2)
        weight = floor + (scores[2 * row + col] - line.min()) * (1 - floor) / (line.max() - line.min() + 1e-6)
        bias[patch] = weight.log()
    return bias


def slow_video(model, pixels: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """(T, 36, 48) -> LLM tokens of the kept windows, and the keep mask (T, 4)."""
    tower, scorer = model.model.vision_tower, model.model.vision_tower.scorer
    frames = []
    for frame in pixels:
        x = tower.patch_embedding(frame) + tower.positional_embedding
        for block in tower.layers[:4]:
            x = slow_block(block, x)
        frames.append(x)
    members = window_index((6, 6), 3)
    scores = []
    for t, x in enumerate(frames):
        per_patch = scorer(x[None], frames[t - 1][None] if t else None)[0]
        scores.append(per_patch[members[:, 0]])
    scores = torch.stack(scores)
    ranked = sorted((float(scores[t, w]), t, w) for t in range(1, len(frames)) for w in range(4))
    keep = torch.ones(len(frames), 4, dtype=torch.bool)
    for _, t, w in ranked[: min(math.floor(4 * len(frames) * ratio + 1e-6), 4 * (len(frames) - 1))]:
        keep[t, w] = False
    tokens = []
    for t, x in enumerate(frames):
        x = slow_block(tower.layers[4], x, slow_bias(scores[t], first=t == 0))
        kept = [p for p in range(36) if keep[t, p // 6 // 3 * 2 + p % 6 // 3]]
        features = {4: x[kept]}
        y = x[kept]
        for i in (5, 6):
            y = features[i] = slow_block(tower.layers[i], y) if kept else y
        for w in range(4):
            if keep[t, w]:
                places = [kept.index(p) for p in members[w].tolist()]
                tokens.append(slow_adapter(model, torch.cat([features[6], features[4]], -1)[places]))
    return torch.stack(tokens), keep


def slow_adapter(model, window: Tensor) -> Tensor:
    """(9, 2 D) -> (D_llm,)."""
    adapter = model.model.multi_modal_projector
    a = adapter.image_pooling_2d
    pooled = a.o_proj(attend(a.q_proj(window.mean(0, keepdim=True)), a.k_proj(window), a.v_proj(window), 2))
    return adapter.image_projector(pooled)[0]


def slow_row(model, ids: Tensor, types: Tensor, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """One row without padding -> logits of its survivors, and which they are."""
    windows = iter(keep.flatten().tolist())
    kept = [i for i, token in enumerate(ids.tolist()) if token != PATCH_ID or next(windows)]
    embeds = model.get_input_embeddings()(ids[kept])
    visual = iter(tokens)
    embeds = torch.stack(
        [e + next(visual) if ids[i] == PATCH_ID else e for e, i in zip(embeds, kept, strict=True)]
    )
    mask = torch.zeros(1, 1, len(kept), len(kept), dtype=torch.bool)
    for a in range(len(kept)):
        for b in range(len(kept)):
            mask[0, 0, a, b] = b <= a or (types[kept[a]] == 1 and types[kept[b]] == 1)
    out = model.model.language_model(
        inputs_embeds=embeds[None], attention_mask=mask, position_ids=torch.tensor([kept])
    )
    return model.lm_head(out.last_hidden_state[0]), torch.tensor(kept)


class RefuseHostReads(TorchDispatchMode):
    """Raises on every operator whose result the host must wait for on a GPU."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        by_mask = name.startswith("aten::index.") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if by_mask or name.startswith(self.READS):
            raise AssertionError(f"{name} reads the device")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def greedy_by_hand(model, inputs: dict[str, Tensor], steps: int) -> list[int]:
    """Append the best token and run everything again, without a cache."""
    inputs, new = dict(inputs), []
    for _ in range(steps):
        new.append(int(model(**inputs).logits[0, -1].argmax()))
        token = torch.tensor([[new[-1]]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, 1))
    return new
