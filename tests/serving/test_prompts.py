"""The tokens and the vision side of a served model, without any engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stts import STTSConfig
from stts.chat import load, prompt_inputs
from stts.data import Clip
from stts.serving.prompts import PromptSizes, even_times
from stts.serving.vision import VisionSide
from tests.helpers.served import make_served

FRAMES = (6, 1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("models") / "served")


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder, device="cpu", prune_ratio=0.5)


def clip(frames: int) -> Clip:
    pixels = np.random.default_rng(frames).integers(0, 256, (frames, 72, 72, 3), dtype=np.uint8)
    return Clip(pixels, np.arange(frames) / 2)


def sizes(processor, most: int = 4096, ratio: float = 0.5) -> PromptSizes:
    return PromptSizes(processor, STTSConfig(prune_ratio=ratio), most)


def test_a_stretch_is_the_one_of_the_processors_prompt(loaded):
    _, processor = loaded
    counted = sizes(processor)
    inputs = prompt_inputs(processor, "What colour came first?", clip(6))
    prompt, types = inputs["input_ids"][0], inputs["mm_token_type_ids"][0]
    ids, visual = counted.stretch(even_times(6))
    start = int((types == 1).nonzero()[0]) - int(visual.byte().argmax())
    assert torch.equal(prompt[start : start + len(ids)], ids)
    assert torch.equal(types[start : start + len(ids)] == 1, visual)
    assert counted.kept(even_times(6)) == len(ids) - counted.dropped(6)
    around = [*prompt[:start].tolist(), counted.video_id, *prompt[start + len(ids) :].tolist()]
    assert counted.begun(around) == around
    assert counted.begun(around[1:]) == around
    with pytest.raises(ValueError, match="special token '<im_patch>': remove it"):
        counted.begun([*around, counted.window_id])


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
def test_the_longest_video_that_fits_is_found_and_longer_ones_are_refused(loaded, ratio):
    counted = sizes(loaded[1], most=300, ratio=ratio)
    frames = counted.most_frames(300, 1000)
    assert counted.kept(even_times(frames)) <= 300
    with pytest.raises(ValueError, match=rf"has {frames + 1} frames.* of at most 300 .*fewer frames"):
        counted.kept(even_times(frames + 1))
    assert counted.most_frames(300, 5) == 5
    assert counted.most_frames(1, 1000) == 1
    with pytest.raises(ValueError, match=r"65,536 before pruning"):
        sizes(loaded[1], most=10**6, ratio=0.9).kept(even_times(6000))


@pytest.mark.parametrize("settings", [{}, {"prune_ratio": 0.0}, {"policy": "evs"}, {"policy": "uniform"}])
@torch.no_grad()
def test_the_vision_side_says_what_the_whole_model_does(folder, loaded, monkeypatch, settings):
    model, processor = loaded
    model.stts = stts = STTSConfig(**{"prune_ratio": 0.5} | settings)
    vision = VisionSide(model.config, stts)
    weights = load_file(folder / "model.safetensors")
    vision.load((name, tensor) for name, tensor in weights.items() if VisionSide.owns(name))
    videos = [processor.video_tensors(clip(t)) for t in FRAMES]
    pixels = torch.cat([video["pixel_values_videos"] for video in videos])
    monkeypatch.setattr("stts.serving.vision.FRAMES_AT_ONCE", 7)  # two videos, then one
    found = list(vision.encode(pixels, FRAMES))
    for (features, keep), video in zip(found, videos, strict=True):
        whole = model.encode_videos(**video)
        assert torch.equal(keep, whole.keep)
        assert torch.allclose(features, whole.features, atol=1e-5)
    assert not any("language_model" in name or "lm_head" in name for name in vision.state_dict())


def test_tensors_that_do_not_belong_together_are_refused_by_name(folder, loaded):
    config = loaded[0].config
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if VisionSide.owns(k)}
    scorer = [name for name in weights if ".scorer." in name]
    assert len(scorer) == 14
    bare = {name: tensor for name, tensor in weights.items() if name not in scorer}
    with pytest.raises(ValueError, match=r"the folder lacks .*scorer"):
        VisionSide(config, STTSConfig(prune_ratio=0.5)).load(bare.items())
    VisionSide(config, STTSConfig(policy="none")).load(bare.items())
    VisionSide(config, STTSConfig(policy="temporal", prune_ratio=0.5)).load(bare.items())
    wrong = weights | {scorer[0]: torch.zeros(3)}
    with pytest.raises(ValueError, match=r"scorer.* has the shape \(3,\), must have"):
        VisionSide(config, STTSConfig()).load(wrong.items())
    strange = weights | {scorer[0] + "s": weights[scorer[0]]}
    with pytest.raises(ValueError, match="does not have"):
        VisionSide(config, STTSConfig()).load(strange.items())
