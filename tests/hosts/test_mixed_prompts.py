"""Images beside videos, videos of different lengths and grids in one prompt, in any order: a batch is its rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
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
PICTURES = ("internvl", "smolvlm", "idefics3", "gemma3")
TILED = ("llava_onevision", "llava_next_video")
WHOLE = ("qwen2_vl", "qwen2_5_vl")
"""Whose videos have no words between their units."""


def prompts(row: Row, numbers: list[int], pad: str) -> dict[str, Any]:
    """Those of PROMPTS, as the row's model takes them; text and pixels follow from a prompt's number alone."""
    values = 48 if row.name in ("video_llama_3", "gemma4") else 96
    unit = 9 if row.name == "gemma4" else 4  # patches of a window
    ids, kinds, pixels, grids = [], [], {"image": [], "video": []}, {"image": [], "video": []}
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        text = [(11 + number, 0), (12, 0)]
        for kind, frames, height, width in PROMPTS[number]:
            windows = height * width // 4
            pixels[kind].append(torch.randn(frames * windows * unit, values, generator=generator))
            grids[kind].append([frames, height, width])
            token = (VIDEO_ID, 2) if kind == "video" else (IMAGE_ID, 1)
            if kind == "video" and row.name == "glm4v":
                token = (IMAGE_ID, 2)
                text.append((VIDEO_START_ID, 0))
            units = [[token] * windows * frames] if row.name in WHOLE else [[token] * windows] * frames
            for shown in units:
                text += [(20, 0), (START_ID, 0), *shown, (END_ID, 0)]
            if kind == "video" and row.name == "glm4v":
                text.append((VIDEO_END_ID, 0))
        text += [(30, 0), (31, 0)]
        ids.append([word for word, _ in text])
        kinds.append([kind for _, kind in text])
    inputs = text_of(ids, pad)
    if row.name != "video_llama_3":
        inputs["mm_token_type_ids"] = padded(kinds, pad)
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if pixels[kind] and row.name == "gemma4":
            inputs |= placed(kind, name, pixels[kind], grids[kind])
        elif pixels[kind]:
            inputs |= {name: torch.cat(pixels[kind]), f"{kind}_grid_thw": torch.tensor(grids[kind])}
            if row.name == "video_llama_3":
                inputs[f"{kind}_merge_sizes"] = torch.full((len(grids[kind]),), 2)
    return inputs


def text_of(ids: list[list[int]], pad: str) -> dict[str, Any]:
    return {"input_ids": padded(ids, pad), "attention_mask": padded([[1] * len(row) for row in ids], pad)}


def placed(kind: str, name: str, pixels: list[Tensor], grids: list[list[int]]) -> dict[str, Any]:
    """As Gemma 4 takes them: windows of 3 x 3 patches, places beside these, frames filled up to the longest."""
    longest = max(height * width for _, height, width in grids) // 4 * 9
    patches, places = [], []
    for x, (frames, height, width) in zip(pixels, grids, strict=True):
        at = torch.tensor([[c, r] for r in range(height // 2 * 3) for c in range(width // 2 * 3)])
        fill = (0, 0, 0, longest - len(at))
        patches.append(F.pad(x.unflatten(0, (frames, -1)), fill))
        places.append(F.pad(at, fill, value=-1).expand(frames, -1, -1))
    found = {name: torch.cat(patches), f"{kind}_position_ids": torch.cat(places)}
    frames = torch.tensor([frames for frames, _, _ in grids])
    return found | ({"num_frames_per_video": frames} if kind == "video" else {})


def pictures(row: Row, numbers: list[int], pad: str) -> dict[str, Any]:
    """The same of a model to which frames are images: an image is a video of one frame."""
    size = row.total[0][1:]
    videos = [[(frames, *size) for _, frames, *_ in PROMPTS[number]] for number in numbers]
    return row.inputs(videos, numbers=numbers, pad=pad)


@pytest.mark.parametrize(
    "name",
    ["qwen3_vl", "qwen3_5", "qwen2_vl", "qwen2_5_vl", "glm4v", "video_llama_3", "gemma4", *TILED, *PICTURES],
)
@torch.no_grad()
def test_a_batch_of_mixed_prompts_is_its_rows(name):
    row, numbers = BY_NAME[name], list(range(len(PROMPTS)))
    flat = name not in PICTURES
    make = pictures if not flat else tiled if name in TILED else prompts
    model = row.pruned(prune_ratio=0.5)
    whole = make(row, numbers, "left")
    plain = {key: value for key, value in whole.items() if key != "frames_per_video"}
    if name not in ("glm4v", *TILED):  # which take no images beside videos, or videos of one length alone
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
        bound = {"rtol": 0, "atol": max(row.tolerance, 1e-4)}
        torch.testing.assert_close(left, alone.logits[0], **bound)
        torch.testing.assert_close(right, alone.logits[0], **bound)
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


def tiled(row: Row, numbers: list[int], pad: str) -> dict[str, Any]:
    """The same of a model that takes an image in tiles, with newlines between their rows."""
    host, ids, pixels, frames = row.pruned().host, [], {"image": [], "video": []}, []
    per_frame, newline = {"llava_onevision": (16, 1), "llava_next_video": (9, 0)}[row.name]
    size = torch.tensor([[40, 40]])
    count = len(host.model.model.get_image_features(torch.zeros(1, 5, 3, 28, 28), size).pooler_output[0])
    for number in numbers:
        generator, text = torch.Generator().manual_seed(number), [11 + number]
        for kind, length, *_ in PROMPTS[number]:
            pixels[kind].append(torch.randn(length if kind == "video" else 5, 3, 28, 28, generator=generator))
            if kind == "video":
                text += [20, *[VIDEO_ID] * (length * per_frame + newline)]
                frames.append(length)
            else:
                text += [21, *[IMAGE_ID] * count]
        ids.append([*text, 30, 31])
    inputs = text_of(ids, pad)
    if images := pixels["image"]:
        inputs |= {"pixel_values": torch.stack(images), "image_sizes": size.expand(len(images), -1)}
    if frames:
        inputs |= {"pixel_values_videos": torch.cat(pixels["video"]), "frames_per_video": frames}
    return inputs


@pytest.mark.parametrize("number", [0, 2, 3])
@pytest.mark.parametrize("name", TILED)
@torch.no_grad()
def test_unpruned_a_model_of_tiles_is_untouched(name, number):
    row = BY_NAME[name]
    model, inputs = row.pruned(prune_ratio=0.0), tiled(row, [number], "left")
    theirs = {key: value for key, value in inputs.items() if key != "frames_per_video"}
    if "pixel_values_videos" in theirs:
        theirs["pixel_values_videos"] = theirs["pixel_values_videos"][None]
    assert torch.equal(model(**inputs).logits, row.plain()(**theirs).logits)
