"""Pixels and text of Gemma 4 are those of transformers' own code; frames of several sizes share a batch."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma4Processor as TheirGemma4
from transformers import image_processing_backends

from stts.data.feed.collator import Collator
from stts.data.processors.gemma4 import Gemma4Processor
from stts.data.processors.placed import PlacedFrames
from stts.hosts.gemma4 import Gemma4
from tests.helpers.theirs import imported, make_clip, make_tokenizer, metadata, rendered, their_pixels
from tests.helpers.tiny_families import TEMPLATE

Gemma4VideoProcessor = imported("gemma4", "Gemma4VideoProcessor")
USER, ANSWER = {"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A cat, häppily."}
SMALL = {"patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70}


def made() -> Gemma4Processor:
    """Its tokenizer does not come with <|video|>."""
    template = TEMPLATE.replace("VIDEO", Gemma4Processor.written)
    return Gemma4Processor(make_tokenizer(template, list(Gemma4Processor.tokens[1:])), PlacedFrames(**SMALL))


@pytest.mark.parametrize(("height", "width"), [(100, 150), (240, 320), (90, 60), (31, 33), (10, 700)])
def test_pixels_and_places_equal_transformers(monkeypatch, height, width):
    monkeypatch.setattr(image_processing_backends, "is_torchvision_greater_or_equal", lambda version: True)
    clip = make_clip(3, height, width)
    wanted = their_pixels(monkeypatch, Gemma4VideoProcessor, clip.frames, **SMALL)
    found = made().video_tensors(clip)
    count = found["video_position_ids"].shape[1]
    assert found["pixel_values_videos"].dtype == torch.uint8
    pixels = Gemma4.floats(None, found["pixel_values_videos"])
    assert torch.allclose(pixels, wanted["pixel_values_videos"][:, :count], rtol=0, atol=2e-6)
    assert torch.equal(found["video_position_ids"], wanted["video_position_ids"][:, :count])
    assert (wanted["video_position_ids"][:, count:] == -1).all()
    assert torch.equal(found["num_frames_per_video"], wanted["num_frames_per_video"])


def test_the_prompt_equals_transformers():
    ours, indices = made(), [0, 900, 1800, 2700]
    clip = make_clip(len(indices), 100, 150, [i / 30 for i in indices])
    theirs = object.__new__(TheirGemma4)
    theirs.boi_token, theirs.eoi_token, theirs.video_token = "<|image>", "<image|>", "<|video|>"
    found = {"num_soft_tokens_per_video": [60], "video_metadata": [metadata(indices, 30.0)]}
    shown = theirs.replace_video_token(found, 0)
    assert shown.startswith("00:00 <|image><|video|>")
    assert " 00:30 <|image>" in shown
    example = ours([USER, ANSWER], clip)
    text = rendered(ours.tokenizer, [USER, ANSWER]).replace("<|video|>", shown)
    assert example["input_ids"].tolist() == ours.tokenizer(text).input_ids
    assert torch.equal(example["mm_token_type_ids"], (example["input_ids"] == ours.video_id).long() * 2)
    assert (example["input_ids"] == ours.video_id).sum() == 4 * 60
    said = ours.tokenizer.decode(example["labels"][example["labels"] >= 0])
    assert said == "A cat, häppily.<|im_end|>"


def test_frames_of_several_sizes_share_a_batch():
    ours, clips = made(), [make_clip(4, 100, 150), make_clip(3, 64, 64), None]
    examples = [ours([USER, ANSWER], clip) for clip in clips]
    batch = Collator(ours.pad_token_id, 0.5, video_form=ours.video_form)(examples)
    assert batch["pixel_values_videos"].shape == (7, 576, 48)
    assert (batch["video_position_ids"][:4, 540:] == -1).all()
    assert batch["num_frames_per_video"].tolist() == [4, 3]
    assert batch["layout"].frames_per_video == (4, 3)
    assert batch["layout"].grids == ((18, 30), (24, 24))
    picture, grid = ours.video_form.first_video(batch)
    assert grid == (4, 6, 10) == ours.window_grid(clips[0])
    again = ours.frames.patches(picture)  # of the size they have already
    assert torch.equal(again, examples[0]["pixel_values_videos"])
    one = ours.video_form.unit_of(examples[1], 2)
    assert torch.equal(one["pixel_values_videos"][0], examples[1]["pixel_values_videos"][2])


def test_settings_come_back_and_those_that_make_no_sense_are_refused(tmp_path):
    frames = PlacedFrames(**SMALL)
    assert PlacedFrames.from_settings(frames.settings()) == frames
    with pytest.raises(ValueError, match="max_soft_tokens is 71, must be one of 70, 140"):
        PlacedFrames(max_soft_tokens=71)
    with pytest.raises(ValueError, match="patch_size is 0"):
        PlacedFrames(patch_size=0)
    with pytest.raises(ValueError, match=r"model.max_pixels is 900, but a model of Gemma 4 bounds frames"):
        Gemma4Processor.from_pretrained(tmp_path, max_pixels=900)
