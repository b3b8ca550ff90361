"""Pixels and text of the models that take frames of one size are those of transformers' own code."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Gemma3Processor as TheirGemma3
from transformers import Idefics3Processor as TheirIdefics3
from transformers import InternVLProcessor as TheirInternVL
from transformers import LlavaNextVideoProcessor as TheirNextVideo
from transformers import LlavaOnevisionProcessor as TheirOnevision
from transformers import SmolVLMProcessor as TheirSmolVLM
from transformers import image_processing_backends
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm

from stts.data.feed.collator import Collator
from stts.data.processors.gemma3 import Gemma3Processor
from stts.data.processors.idefics3 import Idefics3Processor
from stts.data.processors.internvl import InternVLProcessor
from stts.data.processors.llava import LlavaNextVideoProcessor, LlavaOnevisionProcessor
from stts.data.processors.pictures import PictureProcessor
from stts.data.processors.smolvlm import SmolVLMProcessor, in_words
from stts.data.processors.squares import Squares
from stts.hosts.internvl import InternVL
from stts.hosts.llava_onevision import LlavaOnevision
from tests.helpers.theirs import imported, make_clip, make_tokenizer, metadata, rendered, their_pixels

TEMPLATE = """\
{%- for m in messages -%}
{{ '<|im_start|>' ~ m['role'] ~ '\\n' }}
{%- for part in m['content'] -%}
{{ part['text'] if part['type'] == 'text' else 'VIDEO' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SETTINGS = {
    LlavaOnevisionProcessor: {"size": {"height": 56, "width": 56}},
    LlavaNextVideoProcessor: {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
    InternVLProcessor: {"size": {"height": 56, "width": 56}, **IMAGENET},
    SmolVLMProcessor: {
        "size": {"longest_edge": 200},
        "max_image_size": {"longest_edge": 56},
        "video_sampling": {"max_frames": 64, "fps": 1, "video_size": {"longest_edge": 64}},
    },
    Idefics3Processor: {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}},
    Gemma3Processor: {"size": {"height": 56, "width": 56}},
}
USER, ANSWER = {"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A cat, häppily."}

families = pytest.mark.parametrize("family", list(SETTINGS), ids=lambda family: family.family)


def made(family: type[PictureProcessor], across: int = 4, **settings: object) -> PictureProcessor:
    tokenizer = make_tokenizer(TEMPLATE.replace("VIDEO", family.written), list(family.tokens))
    return family(tokenizer, across, SETTINGS[family] | settings)


PIXELS = {
    LlavaOnevisionProcessor: (imported("llava_onevision", "LlavaOnevisionVideoProcessor"), {}),
    LlavaNextVideoProcessor: (imported("llava_next_video", "LlavaNextVideoVideoProcessor"), {}),
    InternVLProcessor: (imported("internvl", "InternVLVideoProcessor"), {"do_center_crop": False}),
    SmolVLMProcessor: (imported("smolvlm", "SmolVLMVideoProcessor"), {"size": {"longest_edge": 64}}),
}
SIZES = pytest.mark.parametrize(("height", "width"), [(100, 150), (240, 320), (90, 60), (31, 33), (56, 56)])


def scaled(family: type[PictureProcessor], pixels: torch.Tensor) -> torch.Tensor:
    """What the model makes of bytes."""
    hosts = {InternVLProcessor: InternVL, SmolVLMProcessor: InternVL.__base__}
    return hosts.get(family, LlavaOnevision).floats(None, pixels)


@pytest.mark.parametrize("family", list(PIXELS), ids=lambda family: family.family)
@SIZES
def test_pixels_equal_transformers(monkeypatch, family, height, width):
    monkeypatch.setattr(image_processing_backends, "is_torchvision_greater_or_equal", lambda version: True)
    theirs, more = PIXELS[family]
    clip = make_clip(3, height, width)
    wanted = their_pixels(monkeypatch, theirs, clip.frames, **SETTINGS[family] | more)
    wanted = wanted["pixel_values" if family is SmolVLMProcessor else "pixel_values_videos"][0]
    found = made(family).video_tensors(clip)["pixel_values_videos"]
    assert found.dtype == torch.uint8
    assert torch.allclose(scaled(family, found), wanted, rtol=0, atol=2e-6)


OF_PILLOW = {
    Gemma3Processor: (Gemma3ImageProcessorPil, {"do_pan_and_scan": False}, 1.01),
    Idefics3Processor: (Idefics3ImageProcessorPil, {"do_image_splitting": False}, 2.01),  # resized twice
}
"""Of the models that know no videos: transformers' class, and by how many levels torch may round otherwise."""


@pytest.mark.parametrize("family", list(OF_PILLOW), ids=lambda family: family.family)
@SIZES
def test_pixels_are_those_of_pillow(family, height, width):
    theirs, more, levels = OF_PILLOW[family]
    clip = make_clip(2, height, width)
    wanted = theirs(**SETTINGS[family] | more)(list(clip.frames), return_tensors="pt")["pixel_values"]
    found = made(family).video_tensors(clip)["pixel_values_videos"] / 127.5 - 1
    wanted = wanted.view_as(found)
    assert torch.allclose(found, wanted, rtol=0, atol=levels / 127.5)
    assert (found - wanted).abs().mean() < 0.25 * levels / 127.5


def their_string(family: type[PictureProcessor], indices: list[int], fps: float, across: int) -> str:
    kinds = {
        LlavaOnevisionProcessor: TheirOnevision,
        LlavaNextVideoProcessor: TheirNextVideo,
        InternVLProcessor: TheirInternVL,
        SmolVLMProcessor: TheirSmolVLM,
        Idefics3Processor: TheirIdefics3,
        Gemma3Processor: TheirGemma3,
    }
    theirs, frames = object.__new__(kinds[family]), len(indices)
    theirs.image_seq_length = theirs.image_seq_len = across**2
    theirs.num_image_tokens, theirs.patch_size = (2 * across) ** 2, 7
    theirs.image_token, theirs.video_token = family.placeholder, family.written
    theirs.start_image_token, theirs.end_image_token = "<img>", "</img>"
    theirs.fake_image_token, theirs.global_image_token = "<fake_token_around_image>", "<global-img>"
    theirs.full_image_sequence = f"\n\n<start_of_image>{'<image_soft_token>' * across**2}<end_of_image>\n\n"
    theirs.global_image_tag = theirs.global_image_token
    if family.kind == "image":
        inputs = {"num_crops": [0] * frames, "rows": [[0] * frames], "cols": [[0] * frames]}
        return "".join(theirs.replace_image_token(inputs, i) for i in range(frames))
    pixels = torch.empty(1, frames, 3, 56, 56)
    inputs = {"pixel_values_videos": pixels, "pixel_values": pixels}
    return theirs.replace_video_token(inputs | {"video_metadata": [metadata(indices, fps)]}, 0)


@families
@pytest.mark.parametrize(("indices", "fps"), [([0, 15], 30.0), ([0, 900, 1800, 2700, 3600], 29.97)])
def test_prompt_equals_transformers(monkeypatch, family, indices, fps):
    monkeypatch.setattr(processing_smolvlm, "num2words", in_words)
    ours = made(family)
    clip = make_clip(len(indices), 100, 150, [i / fps for i in indices])
    for messages, prompt in (([USER], True), ([USER, ANSWER], False)):
        example = ours(messages, clip, add_generation_prompt=prompt)
        text = rendered(ours.tokenizer, messages, kind=family.kind, prompt=prompt)
        text = text.replace(family.written, their_string(family, indices, fps, 4))
        text = text.removesuffix("\n") if not prompt and family is SmolVLMProcessor else text
        assert ours.tokenizer.decode(example["input_ids"]).removesuffix("<|im_end|>").strip() in text
        if prompt:
            assert example["input_ids"].tolist() == ours.tokenizer(text).input_ids
    windows = len(indices) * 16 + (family is LlavaOnevisionProcessor)
    assert (example["input_ids"] == ours.video_id).sum() == windows
    assert torch.equal(example["mm_token_type_ids"], (example["input_ids"] == ours.video_id).long())
    assert "A cat, häppily." in ours.tokenizer.decode(example["labels"][example["labels"] >= 0])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (6, "six"),
        (19, "nineteen"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (256, "two hundred and fifty-six"),
        (1000, "one thousand"),
        (1024, "one thousand and twenty-four"),
        (2500, "two thousand, five hundred"),
    ],
)
def test_numbers_in_words(number, words):
    assert in_words(number) == words


@families
def test_videos_of_different_lengths_share_a_batch(family):
    ours = made(family)
    examples = [ours([USER, ANSWER], clip) for clip in (make_clip(4, 100, 150), make_clip(3, 64, 64), None)]
    batch = Collator(ours.pad_token_id, 0.5, video_form=ours.video_form)(examples)
    assert batch["pixel_values_videos"].shape == (7, 3, 56, 56)
    assert batch["frames_per_video"] == [4, 3]
    assert batch["layout"].frames_per_video == (4, 3)
    assert not batch["layout"].grids
    picture, grid = ours.video_form.first_video(batch)
    assert grid == (4, 4, 4)
    assert (torch.from_numpy(picture) == examples[0]["pixel_values_videos"].permute(0, 2, 3, 1)).all()


def test_pictures_that_are_scaled_otherwise_travel_as_floats():
    ours = made(LlavaOnevisionProcessor, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    clip = make_clip(2, 56, 56)
    found = ours.video_tensors(clip)["pixel_values_videos"]
    expected = torch.from_numpy(clip.frames).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(found, expected, atol=1e-6)
    batch = Collator(ours.pad_token_id, video_form=ours.video_form)([ours([USER, ANSWER], clip)])
    assert (ours.video_form.first_video(batch)[0] == clip.frames).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Squares(0), "side is 0"),
        (lambda: Squares(8, first=-1), "first is -1"),
        (lambda: Squares(8, "nearest"), "mode is 'nearest', must be one of lanczos"),
        (lambda: made(InternVLProcessor, size={"height": 56, "width": 28}), "must be a square"),
        (
            lambda: made(LlavaNextVideoProcessor, size={"shortest_edge": 64}),
            "must be the same: the shorter edge",
        ),
        (
            lambda: InternVLProcessor(make_tokenizer(TEMPLATE, ["<img>"]), 4, {}),
            "lacks <IMG_CONTEXT>, </img>: use the one that comes with a InternVL",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_of_a_clip_that_was_only_measured_the_text_is_the_same():
    ours, clip = made(SmolVLMProcessor), make_clip(5, 100, 150)
    measured = SimpleNamespace(frames=clip.frames[..., :0], timestamps=clip.timestamps)
    found, wanted = ours.text_tensors([USER, ANSWER], measured), ours.text_tensors([USER, ANSWER], clip)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
