"""The hosts whose patches lie one after the other, whatever the shape of the frames: the Qwen family and its kin."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
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
)

# Qwen3-VL


VIDEO_START_ID, VIDEO_END_ID = 154, 155
"""Of GLM, around all units of a video."""
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
VISION = {
    "depth": 7,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 48,
}
IDS = {
    "image_token_id": IMAGE_ID,
    "video_token_id": VIDEO_ID,
    "vision_start_token_id": START_ID,
    "vision_end_token_id": END_ID,
}


def rope(*section: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)} | more


def qwen3_vl() -> PreTrainedModel:
    vision = VISION | {"num_position_embeddings": 64, "deepstack_visual_indexes": [3, 5]}
    text = TEXT | {"rope_parameters": rope(2, 2, 2, mrope_interleaved=True)}
    return grown(
        Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **IDS))
    )


def qwen3_5() -> PreTrainedModel:
    text = TEXT | {
        "head_dim": 16,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "rope_parameters": rope(1, 1, 0, mrope_interleaved=True, partial_rotary_factor=0.25),
    }
    vision = VISION | {"num_position_embeddings": 64}
    return grown(
        Qwen3_5ForConditionalGeneration(Qwen3_5Config(vision_config=vision, text_config=text, **IDS))
    )


def qwen2_5_vl() -> PreTrainedModel:
    """Windows of attention are 2 x 2 windows of ours."""
    vision = VISION | {"window_size": 16, "fullatt_block_indexes": [3, 6], "tokens_per_second": 2}
    text = TEXT | {"rope_parameters": rope(2, 2, 2)}
    return grown(
        Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, **IDS))
    )


def qwen2_vl() -> PreTrainedModel:
    vision = VISION | {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
    text = TEXT | {"rope_parameters": rope(2, 2, 2)}
    return grown(
        Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, text_config=text, **IDS))
    )


def glm(config: type, model: type) -> PreTrainedModel:
    text = TEXT | {"rope_parameters": rope(2, 2, 2, partial_rotary_factor=1.0)}
    ids = {
        "image_token_id": IMAGE_ID,
        "video_token_id": VIDEO_ID,
        "image_start_token_id": START_ID,
        "image_end_token_id": END_ID,
        "video_start_token_id": VIDEO_START_ID,
        "video_end_token_id": VIDEO_END_ID,
    }
    return grown(model(config(vision_config=VISION | {"image_size": 32}, text_config=text, **ids)))


def video_llama_3() -> PreTrainedModel:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
        "patch_size": 4,
    }
    ids = {"image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID}
    text = TEXT | {"model_type": "qwen2"}
    return grown(
        VideoLlama3ForConditionalGeneration(VideoLlama3Config(vision_config=vision, text_config=text, **ids))
    )


def gemma4() -> PreTrainedModel:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 64,
        "pooling_kernel_size": 3,
        "standardize": True,
        "use_clipped_linears": True,
    }
    text = TEXT | {
        "head_dim": 16,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "sliding_window": 4096,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
    }
    ids = {"image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID, "audio_token_id": 149}
    config = Gemma4Config(vision_config=vision, text_config=text, audio_config=None, **ids)
    return grown(Gemma4ForConditionalGeneration(config))


def gemma4_inputs(
    videos: list[list[Video]], numbers: list[int] | None = None, pad: str = "left", filler: int = 0
) -> dict[str, Any]:
    """Patches with their places, column and row; filler: as many empty ones behind those of the largest frame."""
    rows, pixels, places = [], [], []
    longest = filler + max(height * width for row in videos for _, height, width in row)
    for number, row in zip(numbers or range(len(videos)), videos, strict=True):
        generator = torch.Generator().manual_seed(number)
        ids = [11 + number, 12]
        for frames, height, width in row:
            for frame in range(frames):
                ids += [20 + frame, START_ID, *[VIDEO_ID] * (height * width // 9), END_ID]
            more = (0, 0, 0, longest - height * width)
            pixels.append(
                nn.functional.pad(torch.rand(frames, height * width, 48, generator=generator), more)
            )
            place = torch.tensor([[[c, r] for r in range(height) for c in range(width)]] * frames)
            places.append(nn.functional.pad(place, more, value=-1))
        rows.append([*ids, 30, 31 + number, 32])
    return {
        "input_ids": padded(rows, pad),
        "attention_mask": padded([[1] * len(row) for row in rows], pad),
        "pixel_values_videos": torch.cat(pixels),
        "video_position_ids": torch.cat(places),
        "num_frames_per_video": torch.tensor([frames for row in videos for frames, *_ in row]),
    }


def qwen_inputs(
    videos: list[list[Video]],
    numbers: list[int] | None = None,
    pad: str = "left",
    images: bool = False,
    whole: bool = False,
    token: int = VIDEO_ID,
) -> dict[str, Any]:
    """Text, then frame by frame a timestamp and its placeholders, text; images: and one of 4 x 6 patches behind.

    whole: a video's placeholders follow each other without a word between. token: a video's placeholder.
    """
    rows, kinds, pixels, pictures = [], [], [], []
    for number, row in zip(numbers or range(len(videos)), videos, strict=True):
        generator = torch.Generator().manual_seed(number)
        text = [(11 + number, 0), (12, 0)]
        for frames, height, width in row:
            shown = [(token, 2)] * (height * width // 4)
            if whole:
                text += [(START_ID, 0), *shown * frames, (END_ID, 0)]
            else:
                for frame in range(frames):
                    text += [(20 + frame, 0), (START_ID, 0), *shown, (END_ID, 0)]
            pixels.append(torch.randn(frames * height * width, 3 * 2 * 4 * 4, generator=generator))
        if images:
            text += [(START_ID, 0), *[(IMAGE_ID, 1)] * 6, (END_ID, 0)]
            pictures.append(torch.randn(24, 3 * 2 * 4 * 4, generator=generator))
        text += [(30, 0), (31 + number, 0), (32, 0)]
        rows.append([word for word, _ in text])
        kinds.append([kind for _, kind in text])
    inputs = {
        "input_ids": padded(rows, pad),
        "attention_mask": padded([[1] * len(row) for row in rows], pad),
        "mm_token_type_ids": padded(kinds, pad),
        "pixel_values_videos": torch.cat(pixels),
        "video_grid_thw": torch.tensor([video for row in videos for video in row]),
    }
    if images:
        inputs |= {
            "pixel_values": torch.cat(pictures),
            "image_grid_thw": torch.tensor([[1, 4, 6]] * len(rows)),
        }
    return inputs


def timed_inputs(*args: Any, **options: Any) -> dict[str, Any]:
    """Those of Qwen2.5-VL: how many seconds a unit lasts."""
    inputs = qwen_inputs(*args, whole=True, **options)
    seconds = [0.5 + 0.75 * (frames % 3) for frames in inputs["video_grid_thw"][:, 0].tolist()]
    return inputs | {"second_per_grid_ts": torch.tensor(seconds)}


def merge_units(rows: int, cols: int) -> list[tuple[int, int]]:
    """Windows of 2 x 2 one after the other."""
    return [
        (r + i, c + j)
        for r in range(0, rows, 2)
        for c in range(0, cols, 2)
        for i in range(2)
        for j in range(2)
    ]


def video_llama_3_inputs(*args: Any, **options: Any) -> dict[str, Any]:
    """Patches of one frame, and by how much they are merged; a timestamp in front of each frame."""
    inputs = qwen_inputs(*args, **options)
    del inputs["mm_token_type_ids"]
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"][:, :48].contiguous()
    return inputs | {"video_merge_sizes": torch.full((len(inputs["video_grid_thw"]),), 2)}


def windowed(rows: int, cols: int) -> list[tuple[int, int]]:
    """Windows of 2 x 2 patches one after the other, by windows of attention of 4 x 4, those at the edge smaller."""
    return [
        (y + r, x + c)
        for top in range(0, rows, 4)
        for left in range(0, cols, 4)
        for y in range(top, min(top + 4, rows), 2)
        for x in range(left, min(left + 4, cols), 2)
        for r in range(2)
        for c in range(2)
    ]


def mrope(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    known = {name: inputs[name] for name in names if name in inputs}
    return model.model.get_rope_index(inputs["input_ids"], **known)[0]


def video_tokens(inputs: dict[str, Any]) -> Tensor:
    return inputs["mm_token_type_ids"] == 2


def flat_rows() -> list[Row]:
    qwen = Row(
        name="qwen3_vl",
        make=qwen3_vl,
        inputs=qwen_inputs,
        videos=[[(4, 8, 12)], [(3, 8, 8), (2, 4, 12)]],
        unit=2,
        memory=merge_units,
        blocks="model.visual.blocks",
        visible=causal,
        positions=mrope,
        placeholders=video_tokens,
        words=IMAGE_ID,
    )
    glm_inputs = partial(qwen_inputs, token=IMAGE_ID)
    return [
        qwen,
        replace(qwen, name="qwen3_5", make=qwen3_5, recurrent=True, tolerance=1e-4),
        replace(qwen, name="qwen2_vl", make=qwen2_vl, inputs=partial(qwen_inputs, whole=True)),
        replace(
            qwen,
            name="qwen2_5_vl",
            make=qwen2_5_vl,
            inputs=timed_inputs,
            videos=[[(4, 8, 12)], [(3, 6, 8), (2, 4, 12)]],
            memory=windowed,
        ),
        replace(
            qwen,
            name="glm4v",
            make=partial(glm, Glm4vConfig, Glm4vForConditionalGeneration),
            inputs=glm_inputs,
        ),
        replace(
            qwen,
            name="glm46v",
            make=partial(glm, Glm46VConfig, Glm46VForConditionalGeneration),
            inputs=glm_inputs,
        ),
        replace(
            qwen,
            name="video_llama_3",
            make=video_llama_3,
            inputs=video_llama_3_inputs,
            blocks="model.vision_model.encoder.layers",
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == VIDEO_ID,
        ),
        replace(
            qwen,
            name="gemma4",
            make=gemma4,
            inputs=gemma4_inputs,
            videos=[[(4, 6, 9)], [(3, 6, 9), (2, 6, 9)]],
            unit=3,
            memory=lambda rows, cols: [(r, c) for r in range(rows) for c in range(cols)],
            blocks="model.vision_tower.encoder.layers",
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == VIDEO_ID,
            words=149,
            tolerance=2e-4,  # features are scaled up, and added in another order
        ),
    ]
