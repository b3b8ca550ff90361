"""Pixels and text of Qwen2-VL, Qwen2.5-VL, GLM and Video-LLaMA3 are those of transformers' own code."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import Glm4vProcessor as TheirGlm4v
from transformers import Glm46VProcessor as TheirGlm46V
from transformers import Qwen2_5_VLProcessor as TheirQwen25
from transformers import Qwen2VLProcessor as TheirQwen2
from transformers import VideoLlama3Processor as TheirVideoLlama3

from stts.data.feed.collator import Collator
from stts.data.processors.flat import FlatProcessor
from stts.data.processors.glm4v import Glm4vProcessor, Glm46VProcessor
from stts.data.processors.qwen2_vl import Qwen2VLProcessor, Qwen25VLProcessor
from stts.data.processors.video_llama_3 import VideoLlama3Processor
from stts.hosts.glm4v import Glm4v
from stts.hosts.qwen2_vl import Qwen2VL
from stts.hosts.video_llama_3 import VideoLlama3
from tests.helpers.theirs import imported, make_clip, make_tokenizer, metadata, rendered, their_pixels

Qwen2VLVideoProcessor = imported("qwen2_vl", "Qwen2VLVideoProcessor")
Glm4vVideoProcessor = imported("glm4v", "Glm4vVideoProcessor")
Glm46VVideoProcessor = imported("glm46v", "Glm46VVideoProcessor")
VideoLlama3VideoProcessor = imported("video_llama_3", "VideoLlama3VideoProcessor")
TEMPLATE = """\
{%- for m in messages -%}
{{ '<|im_start|>' ~ m['role'] ~ '\\n' }}
{%- for part in m['content'] -%}
{{ VIDEO if part['type'] == 'video' else part['text'] }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
AROUND = {
    Qwen2VLProcessor: "'<|vision_start|><|video_pad|><|vision_end|>'",
    Qwen25VLProcessor: "'<|vision_start|><|video_pad|><|vision_end|>'",
    Glm4vProcessor: "'<|begin_of_video|><|video|><|end_of_video|>'",
    Glm46VProcessor: "'<|begin_of_video|><|video|><|end_of_video|>'",
    VideoLlama3Processor: "'<|video_pad|>\\n'",
}
PIXELS = {
    Qwen2VLProcessor: (Qwen2VLVideoProcessor, Qwen2VL),
    Qwen25VLProcessor: (Qwen2VLVideoProcessor, Qwen2VL),
    Glm4vProcessor: (Glm4vVideoProcessor, Glm4v),
    Glm46VProcessor: (
        Glm4vVideoProcessor,
        Glm4v,
    ),  # 4.6V's, which is the same, cannot be loaded without torchvision
    VideoLlama3Processor: (VideoLlama3VideoProcessor, VideoLlama3),
}
TEXT = {
    Qwen2VLProcessor: TheirQwen2,
    Qwen25VLProcessor: TheirQwen25,
    Glm4vProcessor: TheirGlm4v,
    Glm46VProcessor: TheirGlm46V,
    VideoLlama3Processor: TheirVideoLlama3,
}
BOUNDS = {"min_pixels": 56 * 56, "max_pixels": 4 * 112 * 112}
USER, ANSWER = {"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A cat, häppily."}

families = pytest.mark.parametrize("family", list(AROUND), ids=lambda family: family.family)


def made(family: type[FlatProcessor], **settings: int) -> FlatProcessor:
    template = TEMPLATE.replace("VIDEO", AROUND[family])
    return family(make_tokenizer(template, list(family.tokens)), family.frames_type(**BOUNDS, **settings))


@families
@pytest.mark.parametrize(
    ("count", "height", "width"), [(4, 100, 150), (5, 240, 320), (8, 90, 60), (2, 31, 33)]
)
def test_pixels_equal_transformers(monkeypatch, family, count, height, width):
    theirs, host = PIXELS[family]
    ours, clip = made(family), make_clip(count, height, width)
    size = {"shortest_edge": BOUNDS["min_pixels"], "longest_edge": BOUNDS["max_pixels"]}
    wanted = their_pixels(monkeypatch, theirs, clip.frames, size=size, use_token_compression=False)
    found = ours.video_tensors(clip)
    assert found["pixel_values_videos"].dtype == torch.uint8
    assert torch.equal(found["video_grid_thw"], wanted["video_grid_thw"])
    pixels = host.floats(None, found["pixel_values_videos"])
    assert torch.allclose(pixels, wanted["pixel_values_videos"], rtol=0, atol=2e-6)
    if "video_merge_sizes" in found:
        assert torch.equal(found["video_merge_sizes"], wanted["video_merge_sizes"])


@pytest.mark.parametrize("frames", [4, 64, 1001])
def test_a_clip_of_many_frames_is_bounded_as_by_transformers(monkeypatch, frames):
    bounds = BOUNDS | {"cap_pixels_per_frame": True, "max_video_tokens": 200}
    ours = Qwen2VLProcessor.frames_type(**bounds)
    theirs = object.__new__(Qwen2VLVideoProcessor)
    theirs.max_video_tokens = 200
    sizes = []
    monkeypatch.setattr(
        Qwen2VLVideoProcessor.__base__, "resize", lambda self, image, size, **_: sizes.append(size)
    )
    theirs.resize(
        torch.empty(1, frames, 3, 240, 320),
        SimpleNamespace(shortest_edge=BOUNDS["min_pixels"], longest_edge=BOUNDS["max_pixels"]),
        None,
        28,
        cap_pixels_per_frame=True,
    )
    assert ours.size(frames, 240, 320) == (sizes[0].height, sizes[0].width)


def their_string(family: type[FlatProcessor], found: dict, indices: list[int], fps: float) -> str:
    theirs = object.__new__(TEXT[family])
    theirs.image_token = "<|image|>" if family.placeholder == "<|image|>" else "<|image_pad|>"
    theirs.video_token = family.written
    theirs.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    windows = found["video_grid_thw"].prod().item() // 4
    inputs = {
        "video_grid_thw": found["video_grid_thw"],
        "video_metadata": [metadata(indices, fps)],
        "video_merge_sizes": torch.tensor([2]),
        "video_compression_mask": torch.ones(windows, dtype=torch.bool),
    }
    return theirs.replace_video_token(inputs, 0)


@families
@pytest.mark.parametrize(
    ("indices", "fps"), [([0, 15], 30.0), ([0, 15, 30], 30.0), ([0, 50, 100, 150], 29.97)]
)
def test_prompt_equals_transformers(family, indices, fps):
    ours = made(family)
    clip = make_clip(len(indices), 100, 150, [i / fps for i in indices])
    for messages, prompt in (([USER], True), ([USER, ANSWER], False)):
        example = ours(messages, clip, add_generation_prompt=prompt)
        text = rendered(ours.tokenizer, messages, prompt=prompt)
        text = text.replace(family.written, their_string(family, example, indices, fps))
        assert ours.tokenizer.decode(example["input_ids"]) == text
        assert example["input_ids"].tolist() == ours.tokenizer(text).input_ids
    units, rows, cols = ours.window_grid(clip)
    assert (example["mm_token_type_ids"] == 2).sum() == units * rows * cols
    labels = example["labels"][example["labels"] >= 0]
    assert ours.tokenizer.decode(labels) == "A cat, häppily.<|im_end|>"


def test_seconds_of_a_unit_are_those_of_transformers():
    ours, indices, fps = made(Qwen25VLProcessor), [0, 12, 24, 36], 24.0
    found = ours.video_tensors(make_clip(4, 64, 64, [i / fps for i in indices]))
    assert found["second_per_grid_ts"].item() == 2 / metadata(indices, fps).sampled_fps == 1.0
    assert ours.video_tensors(make_clip(1, 64, 64))["second_per_grid_ts"].item() == 1.0


@families
def test_a_batch_holds_what_stands_beside_the_pixels(family):
    ours = made(family)
    examples = [ours([USER, ANSWER], clip) for clip in (make_clip(4, 100, 150), make_clip(3, 64, 64), None)]
    batch = Collator(ours.pad_token_id, 0.5, video_form=ours.video_form)(examples)
    for key in ("pixel_values_videos", "video_grid_thw", *family.beside):
        assert torch.equal(batch[key], torch.cat([example[key] for example in examples[:2]]))
    picture, grid = ours.video_form.first_video(batch)
    assert picture.shape[0] == grid[0]
    assert batch["layout"].frames_per_video[0] == grid[0]


@families
def test_settings_are_written_as_they_are_read(family):
    frames = made(family, max_video_tokens=5000).frames
    again = type(frames).from_settings(json.loads(json.dumps(frames.settings())))
    assert again.size(8, 480, 640) == frames.size(8, 480, 640)
    assert type(frames).from_settings({"min_pixels": 3136, "max_pixels": 50000}).max_pixels == 50000
    with pytest.raises(ValueError, match=r"image_std is \[0\.1, 0\.1, 0\.1\], must be"):
        type(frames).from_settings({"image_std": [0.1] * 3})
