"""The hosts that take frames of one size: those of a video together, or each as an image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.helpers.host_row import (
    END_ID,
    IMAGE_ID,
    START_ID,
    VIDEO_ID,
    VOCABULARY,
    Row,
    Video,
    causal,
    grown,
    padded,
    row_major,
)

TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 2,
    "patch_size": 4,
}


TILES = [[28, 56], [56, 28], [56, 56]]
"""Sizes that an image is cut into tiles from."""


def internvl() -> PreTrainedModel:
    vision = VISION | {"image_size": [24, 24], "patch_size": [4, 4]}
    options = {"image_token_id": IMAGE_ID, "downsample_ratio": 0.5, "vision_feature_layer": -1}
    text = TEXT | {"model_type": "qwen2"}
    return grown(
        InternVLForConditionalGeneration(InternVLConfig(vision_config=vision, text_config=text, **options))
    )


def smolvlm(config: type, model: type) -> PreTrainedModel:
    vision, text = VISION | {"image_size": 24}, TEXT | {"model_type": "llama"}
    options = {"image_token_id": IMAGE_ID, "scale_factor": 3, "pad_token_id": 0}
    return grown(model(config(vision_config=vision, text_config=text, **options)))


def gemma3() -> PreTrainedModel:
    vision = VISION | {"image_size": 24, "vision_use_head": False}
    text = TEXT | {
        "model_type": "gemma3_text",
        "head_dim": 12,
        "query_pre_attn_scalar": 12,
        "sliding_window": 4096,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    }
    ids = {"image_token_index": IMAGE_ID, "boi_token_index": START_ID, "eoi_token_index": END_ID}
    config = Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=9, **ids)
    return grown(Gemma3ForConditionalGeneration(config))


def llava_onevision() -> PreTrainedModel:
    """Frames of 7 x 7 patches become 4 x 4 tokens."""
    vision = VISION | {"model_type": "siglip_vision_model", "image_size": 28, "vision_use_head": False}
    options = {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": TILES,
    }
    ids = {"image_token_index": IMAGE_ID, "video_token_index": VIDEO_ID}
    text = TEXT | {"model_type": "qwen2"}
    config = LlavaOnevisionConfig(vision_config=vision, text_config=text, **options, **ids)
    return grown(LlavaOnevisionForConditionalGeneration(config))


def llava_next_video() -> PreTrainedModel:
    """Of 7 x 7 patches the last row and column are not pooled; the last block is not read."""
    vision = VISION | {"model_type": "clip_vision_model", "image_size": 28}
    options = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    options |= {"spatial_pool_mode": "average", "spatial_pool_stride": 2, "image_grid_pinpoints": TILES}
    ids = {"image_token_index": IMAGE_ID, "video_token_index": VIDEO_ID}
    text = TEXT | {"model_type": "llama"}
    config = LlavaNextVideoConfig(vision_config=vision, text_config=text, **options, **ids)
    return grown(LlavaNextVideoForConditionalGeneration(config))


def image_inputs(
    videos: list[list[Video]],
    numbers: list[int] | None = None,
    pad: str = "left",
    tokens: int = 9,
    form: str = "flat",
    types: bool = False,
) -> dict[str, Any]:
    """Frames are images of 24 x 24 pixels between markers. form: "flat", (F, 3, H, W), or "rows",
    (B, T, 3, H, W), with frames of zeros where a row has fewer."""
    rows, pixels = [], []
    for number, row in zip(numbers or range(len(videos)), videos, strict=True):
        generator = torch.Generator().manual_seed(number)
        ids = [11 + number, 12]
        for frames, *_ in row:
            for frame in range(frames):
                ids += [20 + frame, START_ID, *[IMAGE_ID] * tokens, END_ID]
        pixels.append(torch.randn(sum(t for t, *_ in row), 3, 24, 24, generator=generator))
        rows.append([*ids, 30, 31 + number, 32])
    ids = padded(rows, pad)
    inputs = {
        "input_ids": ids,
        "attention_mask": padded([[1] * len(row) for row in rows], pad),
        "pixel_values": torch.cat(pixels),
        "frames_per_video": [frames for row in videos for frames, *_ in row],
    }
    if form == "rows":
        inputs["pixel_values"] = torch.nn.utils.rnn.pad_sequence(pixels, batch_first=True)
    return inputs | ({"token_type_ids": (ids == IMAGE_ID).long()} if types else {})


def video_inputs(
    videos: list[list[Video]],
    numbers: list[int] | None = None,
    pad: str = "left",
    tokens: int = 16,
    newline: bool = False,
) -> dict[str, Any]:
    """Videos of frames of 28 x 28 pixels: (V, T, 3, H, W) where all have as many, else frames one below the other."""
    rows, pixels = [], []
    for number, row in zip(numbers or range(len(videos)), videos, strict=True):
        generator = torch.Generator().manual_seed(number)
        ids = [11 + number, 12]
        for frames, *_ in row:
            ids += [20, *[VIDEO_ID] * (frames * tokens + newline), 29]
            pixels.append(torch.randn(frames, 3, 28, 28, generator=generator))
        rows.append([*ids, 30, 31 + number, 32])
    inputs = {
        "input_ids": padded(rows, pad),
        "attention_mask": padded([[1] * len(row) for row in rows], pad),
    }
    if len({len(video) for video in pixels}) == 1:
        return inputs | {"pixel_values_videos": torch.stack(pixels)}
    frames = [len(video) for video in pixels]
    return inputs | {"pixel_values_videos": torch.cat(pixels), "frames_per_video": frames}


def halved(rows: int, cols: int) -> list[list[tuple[int, int]]]:
    """Of 7 x 7 patches, read as 4 x 4 tokens: where bilinear interpolation looks, 7 / 4 patches a step."""
    reads = [
        (0, 1),
        (2, 3),
        (3, 4),
        (5, 6),
    ]  # each token: the patches on either side of 0.375, 2.125, 3.875, 5.625
    cell = {(token, side): patch for token, pair in enumerate(reads) for side, patch in enumerate(pair)}
    across: list[list[int]] = [[] for _ in range(7)]
    for (token, side), patch in cell.items():
        across[patch].append(2 * token + side)
    return [[(r, c) for r in across[y] for c in across[x]] for y in range(7) for x in range(7)]


def cut(rows: int, cols: int) -> list[list[tuple[int, int]]]:
    """Of 7 x 7 patches those of the last row and column are no cells of the frame."""
    return [[(r, c)] if r < rows and c < cols else [] for r in range(7) for c in range(7)]


def within_frames(inputs: dict[str, Any]) -> Tensor:
    """Causal, and the tokens of a frame see each other."""
    image = inputs["token_type_ids"] == 1
    number = (image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]).cumsum(1)
    number = torch.where(image, number, -1)
    return causal(inputs) | ((number[:, :, None] == number[:, None, :]) & image[:, :, None])


def frame_rows() -> list[Row]:
    images = Row(
        name="internvl",
        make=internvl,
        inputs=image_inputs,
        videos=[[(4, 6, 6)], [(3, 6, 6), (2, 6, 6)]],
        unit=2,
        memory=row_major,
        blocks="model.vision_tower.encoder.layer",
        visible=causal,
        positions=lambda model, inputs: None,
        placeholders=lambda inputs: inputs["input_ids"] == IMAGE_ID,
        words=IMAGE_ID,
        prefix=1,
    )
    rows = partial(image_inputs, tokens=4, form="rows")
    smol = replace(
        images,
        name="smolvlm",
        make=partial(smolvlm, SmolVLMConfig, SmolVLMForConditionalGeneration),
        inputs=rows,
        unit=3,
        blocks="model.vision_model.encoder.layers",
        prefix=0,
    )
    videos = replace(
        images,
        name="llava_onevision",
        make=llava_onevision,
        inputs=partial(video_inputs, newline=True),
        videos=[[(4, 8, 8)], [(4, 8, 8), (4, 8, 8)]],
        cells=halved,
        behind=1,
        blocks="model.vision_tower.encoder.layers",
        placeholders=lambda inputs: inputs["input_ids"] == VIDEO_ID,
        prefix=0,
    )
    return [
        images,
        smol,
        replace(
            smol,
            name="idefics3",
            make=partial(smolvlm, Idefics3Config, Idefics3ForConditionalGeneration),
        ),
        replace(
            images,
            name="gemma3",
            make=gemma3,
            inputs=partial(image_inputs, types=True),
            blocks="model.vision_tower.encoder.layers",
            visible=within_frames,
            prefix=0,
        ),
        videos,
        replace(
            videos,
            name="llava_next_video",
            make=llava_next_video,
            inputs=partial(video_inputs, tokens=9),
            videos=[[(4, 6, 6)], [(4, 6, 6), (4, 6, 6)]],
            cells=cut,
            behind=0,
            read=-2,
            prefix=1,
        ),
    ]
