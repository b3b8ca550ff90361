"""What users get wrong: a table of calls, each answered by a ValueError that names the culprit, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import stts
from stts import STTSConfig
from stts.data import Clip, VideoProcessor
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model, load_processor

GREY = np.full((2, 72, 72, 3), 90, np.uint8)
SECONDS = np.array([0.0, 0.5])
CLIP = Clip(GREY, SECONDS)
ASK = [{"role": "user", "content": "What is this?"}]


def made(frames: Any = GREY, timestamps: Any = SECONDS) -> SimpleNamespace:
    """A clip that nobody has checked."""
    return SimpleNamespace(frames=frames, timestamps=timestamps)


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path):
    return load_model(ModelSpec(str(tiny_folder)), STTSConfig())


def refused(call: Callable[[], Any]) -> str:
    """The text of a call's ValueError; of a subclass as well, but of nothing that only says what Python missed."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller looks at the text)
        call()
    return str(caught.value)


# --- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prune_ratio", "0.5"),
        ("prune_ratio", None),
        ("prune_ratio", True),
        ("prune_ratio", float("nan")),
        ("prune_ratio", 1),
        ("insert_after", 3.0),
        ("insert_after", "3"),
        ("pool_width", "3"),
        ("policy", ["scorer"]),
        ("policy", None),
        ("aux_loss_weight", float("inf")),
        ("score_noise", "much"),
        ("put_back", "no"),
        ("put_back", 1),
        ("scorer_num_heads", 0),
        ("scorer_num_heads", 1.5),
        ("scorer_hidden_dims", (8,)),
        ("scorer_hidden_dims", "88"),
        ("scorer_hidden_dims", (8, 0)),
        ("scorer_bias", None),
        ("bias_range", float("nan")),
        ("prun_ratio", 0.5),
    ],
)
def test_settings(name: str, value: Any) -> None:
    assert name in refused(lambda: stts.load("tiny", **{name: value}))


# --- what stts.load is given


@pytest.mark.parametrize(
    "name", [None, "", " ", 7, [], "no/such/folder", "nobody/nothing-at-all", "/dev/null", b"tiny"]
)
def test_names(name: Any) -> None:
    text = refused(lambda: stts.load(name))
    assert text.startswith(f"name is {name!r}")
    assert "model.path" not in text


@pytest.mark.parametrize(
    "device",
    [
        "gpu",
        "cpu:x",
        7.5,
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
        "cuda:99",
    ],
)
def test_devices(device: Any) -> None:
    assert f"device is {device!r}" in refused(lambda: stts.load("tiny", device))


# --- folders


def edit(name: str, change: Callable[[dict], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        changed = change(value)
        (folder / name).write_text(json.dumps(value if changed is None else changed))

    return apply


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(content) and None


def config(part: str = "", **values: Any) -> Callable[[Path], None]:
    return edit("config.json", lambda found: (found[part] if part else found).update(values))


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (write("config.json", "{"), "config.json cannot be read as JSON"),
        (write("config.json", ""), "config.json cannot be read as JSON"),
        (write("config.json", b"\xff\xfe{"), "config.json cannot be read as JSON"),
        (write("config.json", "[" * 100_000), "config.json cannot be read as JSON"),
        (write("config.json", "[]"), "config.json holds a list"),
        (write("config.json", "null"), "config.json holds a NoneType"),
        (write("config.json", "{}"), ""),
        (config(model_type="llama"), ""),
        (config(vision_config=None), ""),
        (config(vision_config=[]), ""),
        (config(text_config="large"), ""),
        (config("text_config", hidden_size="96"), ""),
        (config("text_config", num_hidden_layers=-1), "model.language_model.layers.0."),
        (config("text_config", num_hidden_layers=2), "model.language_model.layers.2."),
        (config("text_config", hidden_act="magic"), "magic"),
        (config("text_config", vocab_size=500), "shape"),
        (config("text_config", num_hidden_layers=40), "parameters"),
        (config("text_config", hidden_size=10**6), ""),
        (config("text_config", intermediate_size=100), "mlp.down_proj.weight has the shape (96, 192)"),
        (config("vision_config", image_size=[96, 96]), "image_size 96"),
        (config("vision_config", image_size=[100, 100]), "image_size is 100"),
        (config("vision_config", image_size=[72, 144]), "72 x 144"),
        (config("vision_config", image_size=96), ""),
        (config("vision_config", image_size=[]), ""),
        (config("vision_config", image_size=[96, 96], num_position_embeddings=144), "positional_embedding"),
        (config("vision_config", patch_size=0), ""),
        (config("vision_config", patch_size=12), ""),
        (config("adapter_config", vision_feature_layer=[50]), ""),
        (config(image_patch_id=7), "image_patch_id"),
        (config(stts=[]), "stts"),
        (config(stts="on"), "stts"),
        (config(stts={"prune": 1}), "prune"),
        (config(stts={"prune_ratio": 2}), "prune_ratio is 2"),
        (config(stts={"prune_ratio": "half"}), "prune_ratio is 'half'"),
        (config(stts=STTSConfig().to_dict()), "trained with a scorer"),
        (write("tokenizer.json", "{}"), "tokenizer"),
        (write("tokenizer.json", ""), "tokenizer"),
        (write("tokenizer.json", "[]"), "tokenizer"),
        (remove("tokenizer.json"), "has no tokenizer.json"),
        (write("tokenizer_config.json", "[]"), "tokenizer"),
        (write("tokenizer_config.json", "{"), "tokenizer"),
        (write("processor_config.json", "{"), "processor_config.json"),
        (write("processor_config.json", "[]"), "processor_config.json"),
        (
            write("processor_config.json", '{"use_frame_special_tokens": "no"}'),
            "use_frame_special_tokens is 'no'",
        ),
        (write("generation_config.json", "{"), "generation_config.json"),
        (write("model.safetensors", b""), "model.safetensors"),
        (write("model.safetensors", b"\0" * 64), ""),
        (write("model.safetensors.index.json", "{}"), "model.safetensors.index.json"),
        (write("model.safetensors.index.json", "["), "model.safetensors.index.json"),
        (write("model.safetensors.index.json", '{"weight_map": [1]}'), "model.safetensors.index.json"),
        (write("adapter_config.json", "[]"), "adapter_config.json"),
        (write("adapter_config.json", "{}"), "adapter_model.safetensors"),
        (remove("model.safetensors"), "model.safetensors missing"),
    ],
)
def test_damaged_folders(tiny_folder: Path, tmp_path: Path, damage: Callable, culprit: str) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    damage(folder)
    text = refused(lambda: stts.load(folder))
    assert str(folder) in text
    assert culprit in text
    assert "see the" not in text


def test_a_processor_alone_is_as_strict(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    for damage, culprit in (
        (write("tokenizer.json", "{}"), "tokenizer"),
        (config("vision_config", image_size=[96, 96]), "image_size 96"),
        (write("config.json", "[]"), "config.json holds a list"),
    ):
        damage(folder)
        assert culprit in refused(lambda: load_processor(ModelSpec(str(folder)), STTSConfig()))
        assert culprit in refused(lambda: VideoProcessor.from_pretrained(folder))


# --- questions and clips


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"clip": "clip.mp4"}, "clip is a str ('clip.mp4'), must be an stts.data.Clip: read it first"),
        ({"clip": Path("clip.mp4")}, "read_video"),
        ({"clip": GREY}, "clip is a ndarray"),
        ({"clip": [CLIP, CLIP]}, "one conversation is about one clip"),
        ({"clip": 0}, "clip is a int"),
        ({"clip": made(GREY[..., 0])}, "clip.frames has the shape (2, 72, 72)"),
        ({"clip": made(GREY[..., :1])}, "clip.frames has the shape (2, 72, 72, 1)"),
        ({"clip": made(np.zeros((2, 72, 72, 4), np.uint8))}, "clip.frames has the shape (2, 72, 72, 4)"),
        ({"clip": made(GREY[0], [0.0])}, "clip.frames has the shape (72, 72, 3)"),
        ({"clip": made(GREY[:0], [])}, "clip.frames has the shape (0, 72, 72, 3)"),
        ({"clip": made(GREY[:, :0])}, "clip.frames has the shape (2, 0, 72, 3)"),
        ({"clip": made(GREY / 255)}, "clip.frames is of float64"),
        ({"clip": made(GREY.astype(np.int64))}, "clip.frames is of int64"),
        ({"clip": made(torch.from_numpy(GREY))}, "clip.frames is of torch.uint8"),
        ({"clip": made([[1]])}, "clip.frames is of list"),
        ({"clip": made(timestamps=[0.0])}, "2 frames and 1 timestamps"),
        ({"clip": made(timestamps=[0.0, np.nan])}, "timestamps[1] is nan"),
        ({"clip": made(timestamps=[0.0, np.inf])}, "timestamps[1] is inf"),
        ({"clip": made(timestamps=[1.0, 0.5])}, "timestamps[1] is 0.5"),
        ({"clip": made(timestamps=["a", "b"])}, "timestamps are ['a', 'b']"),
        ({"clip": made(timestamps=None)}, "timestamps"),
        ({"clip": made(timestamps=0.5)}, "timestamps have the shape ()"),
        ({"options": "red"}, "options is 'red', must be a list of texts"),
        ({"options": ["red"]}, "1 options"),
        ({"options": ["red", 2]}, "options is ['red', 2]"),
        ({"options": ["red", " "]}, "options is ['red', ' ']"),
        ({"options": {"red": 1, "blue": 2}}, "options is {"),
        ({"options": {"red", "blue"}}, "options is {"),
        ({"options": 3}, "options is 3"),
        ({"options": ["x"] * 27}, "27 options"),
        ({"question": ""}, "question is ''"),
        ({"question": None}, "question is None"),
        ({"question": ["What?"]}, "question is ['What?']"),
        ({"question": "What is <|im_end|>?"}, "<|im_end|>"),
        ({"question": None, "options": ["a", "b"]}, "question is None"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokenz": 5}, "max_new_tokenz"),
    ],
)
def test_answer(loaded, changes: dict[str, Any], culprit: str) -> None:
    asked = {"question": "What is this?", "clip": CLIP} | changes
    assert culprit in refused(lambda: stts.answer(*loaded, **asked))


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ((ASK, [CLIP, CLIP]), "clip is a list"),
        ((ASK, made(GREY / 255)), "clip.frames is of float64"),
        (("What is this?", CLIP), "messages is 'What is this?'"),
        ((None, CLIP), "messages is None"),
        ((ASK[0], CLIP), "messages is {'role'"),
        ((["What?"], CLIP), "messages[0] is 'What?'"),
        (([{"role": "user", "content": None}], CLIP), "messages[0] has content None"),
        (([{"role": "user"}], None), "messages[0] has content None"),
        (([], None), "messages is empty"),
    ],
)
def test_the_processor(loaded, arguments: tuple, culprit: str) -> None:
    assert culprit in refused(lambda: loaded[1](*arguments))
