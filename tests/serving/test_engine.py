"""vLLM in this process with folders of ours: what it says is what stts says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM, in a virtual environment of its own: make test-serving")

from stts.data import Clip
from stts.data.synthetic.clips import make_synthetic
from tests.helpers.engine import (
    Asked,
    Reply,
    difference,
    engine,
    our_replies,
    prompts,
    questions,
    their_replies,
)
from tests.helpers.long import LONG
from tests.helpers.served import make_served

LENGTHS = (64, 3, 128, 1, 100, 17)
WORDS = 24
"""New tokens about clips of such lengths, ends of replies left out."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    """Questions about generated clips, four each."""
    clips = 64 if LONG else 8
    data = make_synthetic(tmp_path_factory.mktemp("data") / "clips", num_train=0, num_test=clips)
    return questions(data, 4 * clips)


@pytest.fixture(scope="module")
def long_and_short() -> list[Asked]:
    """One question about clips of very different lengths, whose frames change a little."""
    rng = np.random.default_rng(0)

    def clip(frames: int) -> Clip:
        first = rng.integers(0, 256, (1, 72, 72, 3))
        pixels = (first + rng.integers(0, 60, (frames, 72, 72, 3))) % 256
        return Clip(pixels.astype(np.uint8), np.arange(frames) / 2)

    return [Asked(clip(frames), "What colour came first?") for frames in LENGTHS]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served(tmp_path_factory.mktemp("models") / "original")


@pytest.fixture(scope="module")
def serving(original: Path) -> Iterator[Any]:
    with engine(original, max_model_len=4096) as llm:
        yield llm


def test_replies_are_those_of_stts(serving, original, asked):
    ours = our_replies(original, asked, prune_ratio=0.5)
    equal, worst = difference(ours, their_replies(serving, original, asked))
    assert equal == len(asked)
    assert worst < 1e-4


def test_clips_of_six_lengths_in_one_batch_do_not_disturb_each_other(serving, original, long_and_short):
    ours = our_replies(original, long_and_short, WORDS, WORDS, prune_ratio=0.5)
    theirs = their_replies(serving, original, long_and_short, WORDS, WORDS)
    assert {len(reply.tokens) for reply in theirs} == {WORDS}
    equal, worst = difference(ours, theirs)
    assert equal == len(LENGTHS)
    assert worst < 1e-4
    again = their_replies(
        serving, original, long_and_short, WORDS, WORDS
    )  # from the cache of processed videos
    assert difference(theirs, again) == (len(LENGTHS), 0.0)


def test_more_prompts_than_go_in_at_once_wait_whole(serving, original, long_and_short):
    """18 prompts of up to 1,600 tokens, 4,096 a step: none is cut, which the mask could not bear."""
    asked = long_and_short * 3
    ours = our_replies(original, long_and_short, prune_ratio=0.5) * 3
    equal, worst = difference(ours, their_replies(serving, original, asked))
    assert equal == len(asked)
    assert worst < 1e-4


def test_questions_without_a_video_are_answered(serving, original):
    from stts.chat import load, prompt_inputs

    model, processor = load(original)
    inputs = prompt_inputs(processor, "What colour came first?")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    prompt = {"prompt_token_ids": inputs["input_ids"][0].tolist()}
    from vllm import SamplingParams

    (out,) = serving.generate([prompt], SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
    assert list(out.outputs[0].token_ids) == tokens.tolist()


def test_the_loader_reads_what_read_video_does_and_refuses_settings_it_does_not_know(tmp_path):
    from stts.data import read_video, write_video
    from stts.serving.vllm.loader import ReadVideo

    pixels = np.random.default_rng(1).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", pixels, fps=8)
    data = (tmp_path / "clip.mp4").read_bytes()
    frames, metadata = ReadVideo.load_bytes(data, num_frames=6, fps=1.5, size=72)
    clip = read_video(tmp_path / "clip.mp4", 6, 1.5, size=72)
    assert (frames == clip.frames).all()
    assert metadata["timestamps"] == clip.timestamps.tolist()
    assert not metadata["do_sample_frames"]
    with pytest.raises(ValueError, match="'every', known: num_frames"):
        ReadVideo.load_bytes(data, every=2)
    with pytest.raises(ValueError, match=r"^the video: is empty"):
        ReadVideo.load_bytes(b"")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("too long", ["400 frames", "one piece of at most 4,096", "fewer frames"]),
        ("no times", ["timestamps"]),
        ("special token", ["'<im_patch>'", "remove it from the text"]),
        ("two videos", ["2 videos", "one"]),
        ("an image", ["1 image", "videos alone"]),
    ],
)
def test_what_cannot_be_served_is_refused_by_name_and_the_engine_lives(
    serving, original, long_and_short, change, parts
):
    short = long_and_short[1]
    (prompt,) = prompts(original, [short])
    frames, metadata = prompt["multi_modal_data"]["video"]
    if change == "too long":
        pixels = np.zeros((400, 72, 72, 3), np.uint8)
        (prompt,) = prompts(original, [Asked(Clip(pixels, np.arange(400) / 2), "What?")])
    elif change == "no times":
        prompt["multi_modal_data"] = {"video": (frames, {"do_sample_frames": False})}
    elif change == "special token":
        prompt["prompt"] = prompt["prompt"].replace("What", "<im_patch> What")
    elif change == "two videos":
        prompt["prompt"] = prompt["prompt"].replace("<|video|>", "<|video|><|video|>")
        prompt["multi_modal_data"] = {"video": [(frames, metadata)] * 2}
    else:
        prompt["multi_modal_data"] = {"image": np.zeros((72, 72, 3), np.uint8)}
    with pytest.raises(ValueError) as raised:  # noqa: PT011  the parts say which
        serving.generate([prompt], use_tqdm=False)
    assert all(part in str(raised.value) for part in parts), raised.value
    ours = our_replies(original, [short], prune_ratio=0.5)
    assert difference(ours, their_replies(serving, original, [short]))[0] == 1


@pytest.mark.parametrize(
    ("saved", "options", "settings"),
    [
        ({"position_ids": "compact"}, {}, {}),
        ({}, {"video_pruning_rate": 0.0}, {"prune_ratio": 0.0}),
        ({}, {"video_pruning_rate": 0.8}, {"prune_ratio": 0.8}),
        ({}, {"hf_overrides": {"stts": {"policy": "evs"}}}, {"policy": "evs"}),
        ({}, {"video_pruning_method": "vidcom2", "video_pruning_rate": 0.5}, {"policy": "vidcom2"}),
    ],
    ids=["compact", "unpruned", "rate", "evs", "vidcom2"],
)
def test_the_servers_options_choose_what_is_dropped(tmp_path, asked, saved, options, settings):
    folder = make_served(tmp_path / "model", **saved)
    settings = {"prune_ratio": 0.5} | settings
    with engine(folder, **options) as llm:
        equal, worst = difference(our_replies(folder, asked, **settings), their_replies(llm, folder, asked))
    assert equal == len(asked)
    assert worst < 1e-4


def test_half_precision_is_as_near_to_the_whole_as_our_own(original, long_and_short):
    """The two round at different places: neither is right, so both are held against full precision."""
    whole, half = (
        our_replies(original, long_and_short, 1, dtype=dtype, prune_ratio=0.5)
        for dtype in (torch.float32, torch.bfloat16)
    )
    with engine(original, dtype="bfloat16", max_model_len=4096) as llm:
        theirs = their_replies(llm, original, long_and_short, 1)
    likely = [
        Reply(ours.tokens, [dict(sorted(ours.logprobs[0].items(), key=lambda x: -x[1])[:20])])
        for ours in half
    ]
    assert difference(whole, theirs)[1] < 2 * difference(whole, likely)[1] + 0.1
