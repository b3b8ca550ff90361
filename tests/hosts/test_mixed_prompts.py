"""Images beside videos, videos of different lengths and grids in one prompt, in any order: a batch is its rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.helpers.host_row import END_ID, IMAGE_ID, START_ID, VIDEO_ID, Row, padded
from tests.helpers.hosts import rows
from tests.helpers.hosts_flat import VIDEO_END_ID, VIDEO_START_ID, mrope

PROMPTS = [
    [("video", 4, 8, 12), ("image", 1, 4, 6)],
    [("image", 1, 8, 4), ("video", 3, 8, 8), ("image", 1, 4, 4), ("video", 2, 4, 12)],
    [("image", 1, 4, 4)],
    [("video", 3, 4, 8)],
    [],
]
"""A row a line: what stands in it, its frames, rows and columns of patches."""
BY_NAME = {row.name: row for row in rows()}
PICTURES = ("internvl", "smolvlm", "gemma3")
WHOLE = ("qwen2_vl", "qwen2_5_vl")
"""Whose videos have no words between their units."""


def prompts(row: Row, numbers: list[int], pad: str) -> dict[str, Any]:
    """Those of PROMPTS, as the row's model takes them; text and pixels follow from a prompt's number alone."""
    values = 48 if row.name == "video_llama_3" else 96
    ids, kinds, pixels, grids = [], [], {"image": [], "video": []}, {"image": [], "video": []}
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        text = [(11 + number, 0), (12, 0)]
        for kind, frames, height, width in PROMPTS[number]:
            pixels[kind].append(torch.randn(frames * height * width, values, generator=generator))
            grids[kind].append([frames, height, width])
            token = (VIDEO_ID, 2) if kind == "video" else (IMAGE_ID, 1)
            if kind == "video" and row.name == "glm4v":
                token = (IMAGE_ID, 2)
                text.append((VIDEO_START_ID, 0))
            shown = [token] * (height * width // 4)
            units = [shown * frames] if row.name in WHOLE else [shown] * frames
            for unit in units:
                text += [(20, 0), (START_ID, 0), *unit, (END_ID, 0)]
            if kind == "video" and row.name == "glm4v":
                text.append((VIDEO_END_ID, 0))
        text += [(30, 0), (31, 0)]
        ids.append([word for word, _ in text])
        kinds.append([kind for _, kind in text])
    inputs = {
        "input_ids": padded(ids, pad),
        "attention_mask": padded([[1] * len(row) for row in ids], pad),
        "mm_token_type_ids": padded(kinds, pad),
    }
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if pixels[kind]:
            inputs |= {name: torch.cat(pixels[kind]), f"{kind}_grid_thw": torch.tensor(grids[kind])}
            if row.name == "video_llama_3":
                inputs[f"{kind}_merge_sizes"] = torch.full((len(grids[kind]),), 2)
    if row.name == "video_llama_3":
        del inputs["mm_token_type_ids"]
    return inputs


def pictures(row: Row, numbers: list[int], pad: str) -> dict[str, Any]:
    """The same of a model to which frames are images: an image is a video of one frame."""
    size = row.total[0][1:]
    videos = [[(frames, *size) for _, frames, *_ in PROMPTS[number]] for number in numbers]
    return row.inputs(videos, numbers=numbers, pad=pad)


@pytest.mark.parametrize(
    "name",
    ["qwen3_vl", "qwen3_5", "qwen2_vl", "qwen2_5_vl", "video_llama_3", "internvl", "smolvlm", "gemma3"],
)
@torch.no_grad()
def test_a_batch_of_mixed_prompts_is_its_rows(name):
    row, numbers = BY_NAME[name], list(range(len(PROMPTS)))
    flat = name not in PICTURES
    make = prompts if flat else pictures
    model = row.pruned(prune_ratio=0.5)
    whole = make(row, numbers, "left")
    plain = {key: value for key, value in whole.items() if key != "frames_per_video"}
    if name != "glm4v":
        model.stts = model.stts.replace(prune_ratio=0.0)
        assert torch.equal(model(**whole).logits, row.plain()(**plain).logits)
        model.stts = model.stts.replace(prune_ratio=0.5)
    out = {pad: model(**make(row, numbers, pad)) for pad in ("left", "right")}
    answers = model.generate(**whole, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for number in numbers:
        one = make(row, [number], "left")
        if not PROMPTS[number] and not flat:
            del one["pixel_values"], one["frames_per_video"]
        alone = model(**one)
        length = alone.logits.shape[1]
        left, right = out["left"].logits[number, -length:], out["right"].logits[number, :length]
        torch.testing.assert_close(left, alone.logits[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(right, alone.logits[0], rtol=0, atol=1e-4)
        assert torch.equal(model.generate(**one, **options)[0, -3:], answers[number, -3:])
    if flat:
        videos = row.placeholders(whole)
        images = (whole["input_ids"] == IMAGE_ID) & ~videos
        assert out["left"].keep_mask[images].all()
        assert not out["left"].keep_mask[videos].all()


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_glm_itself_takes_no_images_beside_videos_but_a_pruning_model_does(number):
    """Both are the same token there, which transformers counts together."""
    row = BY_NAME["glm4v"]
    inputs, plain, model = prompts(row, [number], "left"), row.plain(), row.pruned(prune_ratio=0.0)
    with pytest.raises(ValueError, match="features and image tokens do not match"):
        plain(**inputs)
    encode = {"video": plain.model.get_video_features, "image": plain.model.get_image_features}
    names = {"video": "pixel_values_videos", "image": "pixel_values"}
    found = {
        kind: list(encode[kind](inputs[name], inputs[f"{kind}_grid_thw"]).pooler_output)
        for kind, name in names.items()
    }
    in_order = torch.cat([found[kind].pop(0) for kind, *_ in PROMPTS[number]])
    encoded = {"video": BaseModelOutputWithPooling(pooler_output=(in_order,))}
    given = {
        "input_ids": inputs["input_ids"],
        "position_ids": mrope(plain, inputs),
        "mm_encoder_outputs": encoded,
    }
    torch.testing.assert_close(model(**inputs).logits, plain(**given).logits, rtol=0, atol=1e-5)


def tiled(row: Row, numbers: list[int], first: bool) -> dict[str, Any]:
    """A video of 3 + number frames, and an image in tiles with the newlines between their rows; first: the image."""
    (_, *size), *_ = row.total
    host, ids = row.pruned().host, []
    sides = {"llava_onevision": (16, 1), "llava_next_video": (9, 0)}[row.name]
    pixels = torch.randn(len(PROMPTS), 5, 3, 28, 28, generator=torch.Generator().manual_seed(5))[numbers]
    sizes = torch.tensor([[40, 40]] * len(numbers))
    count = len(host.model.model.get_image_features(pixels[:1], sizes[:1]).pooler_output[0])
    frames = [3 + number for number in numbers]
    for number, length in zip(numbers, frames, strict=True):
        video, image = [VIDEO_ID] * (length * sides[0] + sides[1]), [IMAGE_ID] * count
        ids.append([11 + number, *(image + video if first else video + image), 30, 31])
    made = row.inputs([[(length, *size)] for length in frames], numbers=numbers)
    videos = {key: made[key] for key in ("pixel_values_videos", "frames_per_video") if key in made}
    mask = padded([[1] * len(one) for one in ids], "left")
    return {
        "input_ids": padded(ids, "left"),
        "attention_mask": mask,
        "pixel_values": pixels,
        "image_sizes": sizes,
    } | videos


@pytest.mark.parametrize("first", [True, False], ids=["image first", "video first"])
@pytest.mark.parametrize("name", ["llava_onevision", "llava_next_video"])
@torch.no_grad()
def test_images_in_tiles_stand_beside_videos(name, first):
    row = BY_NAME[name]
    model, batch = row.pruned(prune_ratio=0.5), tiled(row, [0, 1], first)
    out = model(**batch)
    assert out.keep_mask[batch["input_ids"] == IMAGE_ID].all()
    for number in (0, 1):
        alone = model(**tiled(row, [number], first)).logits[0]
        torch.testing.assert_close(out.logits[number, -len(alone) :], alone, rtol=0, atol=1e-4)
    model.stts = model.stts.replace(prune_ratio=0.0)
    one = tiled(row, [0], first)
    assert torch.equal(model(**one).logits, row.plain()(**one).logits)
