"""Pixels and text are those of transformers' own code."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stts.data.feed.collator import Collator
from stts.data.processors.base import IGNORE, evidence_in
from stts.data.processors.merge_units import Frames, unpatchify
from stts.data.processors.qwen import QwenProcessor
from stts.data.video.pixels import normalize
from stts.hosts.tiny_qwen3_vl import CHAT_TEMPLATE
from stts.pruning.selection import num_dropped
from tests.helpers.qwen_text import their_text
from tests.helpers.theirs import imported, make_clip, make_tokenizer, their_pixels

Qwen3VLVideoProcessor = imported("qwen3_vl", "Qwen3VLVideoProcessor")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
USER = {"role": "user", "content": "What moves?"}
ANSWERED = [USER, {"role": "assistant", "content": "A cat."}]
TALK = [
    *ANSWERED,
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "At 0.5 s, häppily."},
]
SMALL = {"min_pixels": 64 * 64, "max_pixels": 4 * 96 * 128}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(CHAT_TEMPLATE, SPECIAL)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return QwenProcessor(tokenizer, Frames(**SMALL))


# --- the pixels are transformers'


@pytest.mark.parametrize("cap", [False, True], ids=["clip", "frame"])
@pytest.mark.parametrize(
    ("count", "height", "width"),
    [(4, 100, 150), (5, 240, 320), (8, 90, 60), (3, 20, 70), (2, 64, 96), (2, 31, 33), (7, 200, 40)],
)
def test_pixels_equal_transformers(monkeypatch, tokenizer, count, height, width, cap):
    settings = SMALL | {"cap_pixels_per_frame": cap}
    ours = QwenProcessor(tokenizer, Frames(**settings))
    clip = make_clip(count, height, width)
    found = ours.video_tensors(clip)
    size = {"shortest_edge": SMALL["min_pixels"], "longest_edge": SMALL["max_pixels"]}
    wanted = their_pixels(
        monkeypatch, Qwen3VLVideoProcessor, clip.frames, size=size, cap_pixels_per_frame=cap
    )
    assert found["pixel_values_videos"].dtype == torch.uint8
    assert torch.equal(found["video_grid_thw"], wanted["video_grid_thw"])
    pixels = normalize(found["pixel_values_videos"])
    assert torch.allclose(pixels, wanted["pixel_values_videos"], rtol=0, atol=1e-6)
    units, rows, cols = ours.window_grid(clip)
    assert found["video_grid_thw"].tolist() == [[units, 2 * rows, 2 * cols]]


def test_a_single_frame_is_shown_twice(processor):
    clip = make_clip(1, 64, 64)
    found = processor.video_tensors(clip)
    assert found["video_grid_thw"].tolist() == [[1, 4, 4]]
    first, second = found["pixel_values_videos"].view(16, 3, 2, 256).unbind(2)
    assert torch.equal(first, second)
    assert "<0.0 seconds>" in processor.video_string(clip)


def test_frames_come_back_from_their_patches():
    clip = make_clip(5, 64, 96)
    frames = Frames(**SMALL)
    found = unpatchify(frames.patches(clip.frames), (3, 2, 3), 2, 2)
    assert np.array_equal(found.flatten(0, 1)[:5], clip.frames)
    assert np.array_equal(found[2, 1], clip.frames[4])


# --- the text is transformers'


@pytest.mark.parametrize(("messages", "prompt"), [([USER], True), (TALK[:3], True), (TALK, False)])
@pytest.mark.parametrize(
    ("indices", "fps"),
    [([0, 15], 30.0), ([0, 15, 30], 30.0), ([0, 7, 101, 3599], 29.97), ([0, 1, 2, 3, 4], 2.0)],
)
def test_prompt_equals_transformers(processor, messages, prompt, indices, fps):
    clip = make_clip(len(indices), 100, 150, [i / fps for i in indices])
    example = processor(messages, clip, add_generation_prompt=prompt)
    text = their_text(processor, messages, example["video_grid_thw"], indices, fps, prompt)
    assert processor.tokenizer.decode(example["input_ids"]) == text
    assert example["input_ids"].tolist() == processor.tokenizer(text).input_ids
    units, rows, cols = processor.window_grid(clip)
    is_video = example["input_ids"] == processor.video_id
    assert is_video.sum() == units * rows * cols
    assert torch.equal(example["mm_token_type_ids"], is_video * 2)


def test_times_count_from_the_first_frame(processor):
    whole, cut = make_clip(4, 64, 64, [0, 1, 2, 3]), make_clip(4, 64, 64, [61.5, 62.5, 63.5, 64.5])
    assert processor.video_string(whole) == processor.video_string(cut)


def test_labels_are_the_answers_with_their_end(processor):
    example = processor(TALK, make_clip(3, 64, 64))
    labels = example["labels"]
    assert torch.equal(labels[labels != IGNORE], example["input_ids"][labels != IGNORE])
    said = processor.tokenizer.decode(labels[labels != IGNORE])
    assert said == "A cat.<|im_end|>At 0.5 s, häppily.<|im_end|>"
    assert (processor([USER], make_clip(3, 64, 64), add_generation_prompt=True)["labels"] == IGNORE).all()


def test_text_alone(processor):
    example = processor(ANSWERED)
    assert set(example) == {"input_ids", "labels", "mm_token_type_ids"}
    assert not example["mm_token_type_ids"].any()


def test_of_a_clip_that_was_only_measured_the_text_is_the_same(processor):
    clip = make_clip(5, 100, 150)
    measured = SimpleNamespace(frames=clip.frames[..., :0], timestamps=clip.timestamps)
    found, wanted = processor.text_tensors(ANSWERED, measured), processor.text_tensors(ANSWERED, clip)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


# --- what is refused


def test_a_special_token_in_the_text_is_refused(processor):
    with pytest.raises(ValueError, match=r"messages\[0\] contains the special token '<\|video_pad\|>'"):
        processor([{"role": "user", "content": "What is <|video_pad|>?"}])


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"lacks <\|image_pad\|>, <\|video_pad\|>"):
        QwenProcessor(make_tokenizer(CHAT_TEMPLATE, SPECIAL[:-2]))


def test_a_template_without_videos_is_refused():
    template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    processor = QwenProcessor(make_tokenizer(template, SPECIAL))
    with pytest.raises(ValueError, match=r"writes <\|video_pad\|> 0 times for 1 videos"):
        processor([USER], make_clip(2, 64, 64), add_generation_prompt=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_pixels": 0}, "min_pixels is 0"),
        ({"min_pixels": 5000, "max_pixels": 4000}, "max_pixels is 4000, must be at least min_pixels, 5000"),
        ({"min_pixels": 1, "max_pixels": 2000}, "one window of 32 x 32 pixels in 2 frames"),
        ({"patch_size": 0}, "patch_size is 0"),
    ],
)
def test_sizes_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Frames(**settings)


def test_pixels_normalised_otherwise_are_refused():
    with pytest.raises(ValueError, match=r"image_mean is .*, must be 0\.5"):
        Frames.from_settings({"image_mean": [0.48, 0.46, 0.41]})


def test_settings_are_written_as_they_are_read(processor):
    for frames in (processor.frames, Frames(cap_pixels_per_frame=True, patch_size=8)):
        assert Frames.from_settings(json.loads(json.dumps(frames.settings()))) == frames


# --- evidence and batches


def test_evidence_of_either_frame_is_seen_in_their_unit(processor):
    clip = make_clip(5, 64, 64)  # 2 x 2 windows, frames at 0, 0.5, ... 2
    box = [0, 0, 0.4, 0.4]
    evidence = [{"start": 0.5, "end": 0.6, "box": box}, {"start": 1.9, "end": 2.5, "box": box}]
    items = evidence_in(processor, evidence, clip)
    assert items.shape == (2, 3, 4)
    assert items.nonzero() == (pytest.approx([0, 1]), pytest.approx([0, 2]), pytest.approx([0, 0]))


def test_a_batch_of_videos_of_different_grids(processor):
    clips = [make_clip(4, 100, 150), make_clip(3, 64, 64), None]
    examples = [processor(ANSWERED, clip) | {"id": str(i)} for i, clip in enumerate(clips)]
    collate = Collator(processor.pad_token_id, 0.5, video_form=processor.video_form)
    batch = collate(examples)
    grids = [examples[i]["video_grid_thw"] for i in (0, 1)]
    assert torch.equal(batch["video_grid_thw"], torch.cat(grids))
    assert torch.equal(
        batch["pixel_values_videos"], torch.cat([examples[i]["pixel_values_videos"] for i in (0, 1)])
    )
    assert batch["input_ids"].shape == (3, max(len(example["input_ids"]) for example in examples))
    layout = batch["layout"]
    sizes = [processor.window_grid(clip) for clip in clips[:2]]
    assert layout.frames_per_video == tuple(units for units, _, _ in sizes)
    assert layout.grids == tuple((2 * rows, 2 * cols) for _, rows, cols in sizes)
    assert layout.video_rows == (0, 1)
    dropped = [num_dropped(units, rows * cols, 0.5) for units, rows, cols in sizes] + [0]
    assert min(dropped[:2]) > 0
    kept = [length - gone for length, gone in zip(layout.lengths, dropped, strict=True)]
    assert kept == [collate.size(example).tokens for example in examples]
    # the last frame of three is seen twice
    assert [collate.size(example).frames for example in examples] == [4, 4, 0]


def test_a_video_of_another_family_is_refused(processor):
    example = processor(ANSWERED, make_clip(2, 64, 64)) | {"id": "a"}
    with pytest.raises(ValueError, match="'a' has a video that PooledVideos does not know"):
        Collator(processor.pad_token_id)([example])


def test_rows_of_several_examples_are_refused(processor):
    with pytest.raises(ValueError, match="max_tokens and max_frames put several examples into a row"):
        Collator(processor.pad_token_id, max_tokens=100, video_form=processor.video_form)
