"""The whole library on a tiny model of each family: from a plain folder to a trained one, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import stts
from stts import STTSConfig, remove_stts
from stts.chat import prompt_inputs
from stts.data import Collator, VideoQADataset
from stts.data.video.config import VideoConfig
from stts.data.video.read import Clip
from stts.eval.config import EvalConfig
from stts.eval.runner import evaluate
from stts.eval.tasks.question import Question
from stts.files.jsonl import read_jsonl
from stts.hosts.families import FAMILIES
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model, load_processor
from stts.plan.models import find_model
from stts.train.config import LearningRates, LoraSettings
from stts.train.loop import train
from stts.train.optim import freeze, group_of
from stts.train.parallel import units
from stts.train.tracking import Tracker
from stts.train.trainer import Trainer
from stts.viz.kept_video import look_at
from stts.viz.overlay import draw_batch
from tests.helpers.long import long
from tests.helpers.planned import check_less_is_needed
from tests.helpers.runs import config, rows
from tests.helpers.tiny_families import TINY, make_tiny_family

FRAMES = 4
RATES = LearningRates()
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]

families = pytest.mark.parametrize("family", list(TINY))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr(Tracker, "draw_curves", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = make_tiny_family(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return folder


def start(folder: Path, clips: Path, **settings):
    torch.manual_seed(0)
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig(**settings))
    return model, processor, VideoQADataset(clips / "train.jsonl", None, processor, frames=FRAMES)


def clip_of(height=72, width=72, count=FRAMES, seed=0) -> Clip:
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Clip(frames, np.arange(count) / 2)


def batch_of(processor, *clips):
    examples = [processor(TURNS, clip) for clip in clips]
    return Collator(processor.pad_token_id, video_form=processor.video_form)(examples)


def without_ids(batch):
    return {key: value for key, value in batch.items() if key != "ids"}


def test_every_family_is_tried_here_or_comes_with_a_model():
    assert FAMILIES.keys() == TINY.keys() | {"molmo2", "qwen3_vl"}


@families
def test_trained_resumed_asked_saved_and_undone(folders, clips, tmp_path, family):
    folder, run = folders(family), tmp_path / "run"
    train(*start(folder, clips), config(max_steps=1, save_every=1, warmup_steps=1), run)
    train(*start(folder, clips), config(max_steps=2, save_every=1, warmup_steps=1), run)
    assert [row["step"] for row in rows(run)] == [1, 2]
    model, processor = load_model(ModelSpec(str(run / "model")), STTSConfig(prune_ratio=0.5))
    plain, info = type(model).base.from_pretrained(run / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert all(".scorer." in name for name in info["unexpected_keys"])
    changed = dict(type(model).base.from_pretrained(folder).named_parameters())
    moved = {
        group_of(name, model.host.parts) for name, p in plain.named_parameters() if (p != changed[name]).any()
    }
    assert moved == {"vision", "adapter", "llm"}

    question = read_jsonl(clips / "test.jsonl")[0]
    video = clips / question["video"]
    answer = question["options"].index(question["answer"])
    asked = Question(question["id"], video, question["question"], tuple(question["options"]), answer)
    settings = EvalConfig("synthetic", VideoConfig(FRAMES), mode="generate", max_new_tokens=2, progress=False)
    assert evaluate(model, processor, [asked], settings, tmp_path / "asked")["n"] == 1
    assert read_jsonl(tmp_path / "asked" / "predictions.jsonl")[0]["kept"] == pytest.approx(0.5, abs=0.03)
    assert isinstance(stts.answer(model, processor, "What?", clip_of(), max_new_tokens=2), str)
    seen = look_at(model, processor, video, FRAMES)
    assert seen.keep[0].all()
    assert 0.47 < seen.keep.mean() < 0.53

    model.stts = model.stts.replace(prune_ratio=0.0)
    inputs = prompt_inputs(processor, "What?", clip_of())
    with torch.no_grad():
        whole = model(**inputs).logits
        given = model.host.accept(inputs)
        remove_stts(model)
        assert torch.equal(model(**given).logits, whole)
        assert torch.equal(plain.eval()(**given).logits, whole)


@families
def test_videos_of_different_lengths_and_text_alone_share_a_batch(folders, tmp_path, family):
    model, processor = load_model(ModelSpec(str(folders(family))), STTSConfig(prune_ratio=0.5))
    shown = [clip_of(), clip_of(50, 110, 3, seed=1), None]
    batch = batch_of(processor, *shown)
    with torch.no_grad():
        out = model(**without_ids(batch))
        lengths = out.keep_mask.sum(1).tolist()
        for i, clip in enumerate(shown):
            alone = model(**without_ids(batch_of(processor, clip))).logits[0]
            torch.testing.assert_close(out.logits[i, : lengths[i]], alone, rtol=0, atol=1e-4)
        videos = [model.encode_videos(**processor.video_tensors(clip)) for clip in shown[:2]]
        names = ("input_ids", "attention_mask", "mm_token_type_ids", "layout")
        visual = type(videos[0]).of_rows(videos)
        found = model(**{name: batch[name] for name in names}, visual=visual)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(found.logits[i, :length], out.logits[i, :length], rtol=0, atol=1e-4)
    path = draw_batch(batch, out.keep_windows, "scorer", tmp_path / "a.png", processor.video_form)
    assert path.read_bytes().startswith(b"\x89PNG")


QUICK = ("qwen3_5", "qwen2_5_vl", "llava_onevision", "smolvlm", "gemma3")


@pytest.mark.parametrize("family", [pytest.param(x, marks=[] if x in QUICK else long) for x in TINY])
def test_adapters_lie_in_the_llm_and_merge(folders, clips, tmp_path, family):
    lora = LoraSettings(rank=2, alpha=4, targets=("q_proj", "down_proj"))
    model, processor, dataset = start(folders(family), clips)
    layers = model.host.layers_at
    train(model, processor, dataset, config(max_steps=1, lora=lora, vit=False), tmp_path)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted
    assert all(name.startswith(layers) for name in adapted)
    merged, _ = load_model(ModelSpec(str(tmp_path / "model")), STTSConfig())
    batch = without_ids(batch_of(processor, clip_of()))
    with torch.no_grad():
        found, wanted = merged(**batch).logits, model.eval()(**batch).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@families
def test_where_weights_are_sharded_a_text_runs_what_a_video_runs(folders, family):
    """So that all processes gather the same weights in the same order."""
    model, processor = load_model(ModelSpec(str(folders(family))), STTSConfig(prune_ratio=0.5))
    freeze(model.train(), RATES)
    text, video = (without_ids(batch_of(processor, clip)) for clip in (None, clip_of()))
    model.lockstep = True
    names, seen = {module: name for name, module in model.named_modules()}, []
    parts = [part for unit in units(model) for part in (unit if isinstance(unit, list) else [unit])]
    hooks = [part.register_forward_pre_hook(lambda module, *_: seen.append(names[module])) for part in parts]
    model(**video)
    ran = list(seen)
    seen.clear()
    model(**text)
    assert seen == ran
    assert len(set(seen)) > 10
    for hook in hooks:
        hook.remove()
    model.lockstep = False
    model(**video).loss.backward()
    left = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not left  # processes that share gradients wait for all of them
    taught = [p for p in model.parameters() if p.requires_grad]
    for shown in ([None], [clip_of(), None]):  # the still frame that takes a video's place has no effect
        batch = without_ids(batch_of(processor, *shown))
        model.lockstep = False
        alone = model(**batch).lm_loss
        model.lockstep = True
        model.zero_grad(set_to_none=True)
        out = model(**batch)
        out.loss.backward()
        torch.testing.assert_close(out.lm_loss, alone, rtol=0, atol=1e-6)
        assert all(p.grad is not None for p in taught)


@families
def test_what_cannot_be_is_refused_by_name(folders, clips, tmp_path, family):
    model, processor, dataset = start(folders(family), clips)
    with pytest.raises(ValueError, match="max_tokens and max_frames put several examples into a row"):
        train(model, processor, dataset, config(max_tokens=100), tmp_path)
    spec = ModelSpec(str(folders(family)), max_pixels=2000)
    if TINY[family].frames.get("max_pixels"):
        assert load_processor(spec, STTSConfig()).frames.max_pixels == 2000
    else:
        with pytest.raises(ValueError, match=r"max_pixels is 2000, but a model of .* (takes|bounds) frames"):
            load_processor(spec, STTSConfig())


def test_their_plain_classes_are_transformers():
    for family in TINY:
        assert FAMILIES[family].pruning_class().base.__module__.startswith(transformers.__name__)


@families
def test_it_can_be_planned_for(folders, family):
    """And what text stands beside a unit is what its processor writes."""
    model = find_model(ModelSpec(path=str(folders(family))))
    check_less_is_needed(model, 16)
    processor = model.family.processor(model.folder, model.spec, STTSConfig())
    beside = []
    for count in (8, 16):
        shape = model.shape(count, (24, 24))
        text = processor.text_tensors(TURNS[:1], clip_of(24, 24, count))
        beside.append(len(text["input_ids"]) - shape.units * shape.windows)
    per_unit = (beside[1] - beside[0]) / (8 / model.frames_of_unit)
    assert shape.text_per_unit == pytest.approx(per_unit, abs=5)  # the tokenizer is a small one


@pytest.mark.parametrize("family", ["internvl", "qwen2_vl"])
def test_only_a_batch_without_a_video_gives_every_weight_a_gradient(folders, clips, tmp_path, family):
    model, processor, dataset = start(folders(family), clips)
    model.unused = torch.nn.Parameter(torch.zeros(1))
    trainer = Trainer(model, processor, config(), tmp_path)
    for example, asked in (({"id": "text"} | processor(TURNS), True), (dataset[0], False)):
        trainer.optimizer.state.clear()
        trainer.step([Collator(processor.pad_token_id, video_form=processor.video_form)([example])])
        assert (model.unused in trainer.optimizer.state) == asked
