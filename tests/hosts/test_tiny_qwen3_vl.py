"""The whole library on a Qwen3-VL that is small enough to be made and trained in seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

import stts
from stts import STTSConfig
from stts.chat import prompt_inputs
from stts.data import Collator, VideoQADataset
from stts.data.check import Probe
from stts.data.processors.qwen import QwenProcessor
from stts.data.video.config import VideoConfig
from stts.data.video.pixels import normalize
from stts.data.video.read import Clip, read_video
from stts.eval.config import EvalConfig
from stts.eval.runner import evaluate
from stts.eval.sweep.cost import measure_cost
from stts.eval.tasks.question import Question
from stts.files.jsonl import read_jsonl
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model, load_processor
from stts.hosts.tiny import shipped_folder
from stts.hosts.tiny_qwen3_vl import make_tiny_qwen3_vl
from stts.train.compiled import compile_layers
from stts.train.config import LoraSettings
from stts.train.loop import train
from stts.train.optim import group_of
from stts.train.parallel import units
from stts.train.tracking import Tracker
from stts.viz.kept_video import look_at
from stts.viz.overlay import draw_batch
from tests.helpers.runs import config, rows, weights
from tests.helpers.scripts import run_script

FRAMES = 5  # three units of time, the last frame twice
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr(Tracker, "draw_curves", lambda *args, **kwargs: None)


@pytest.fixture
def folder(tiny_qwen3_vl_folder: Path) -> Path:
    return tiny_qwen3_vl_folder


def start(folder: Path, clips: Path | None = None, **settings):
    torch.manual_seed(0)
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig(**settings))
    if clips is None:
        return model, processor
    return model, processor, VideoQADataset(clips / "train.jsonl", None, processor, frames=FRAMES)


def clip_of(height=72, width=72, count=FRAMES, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Clip(frames, np.arange(count) / 2)


def batch_of(processor, *clips):
    examples = [processor(TURNS, clip) for clip in clips]
    batch = Collator(processor.pad_token_id, video_form=processor.video_form)(examples)
    return {key: value for key, value in batch.items() if key != "ids"}


# --- the folder


def test_the_same_seed_gives_the_same_folder(folder, tmp_path):
    again, other = make_tiny_qwen3_vl(tmp_path / "a"), make_tiny_qwen3_vl(tmp_path / "b", seed=1)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json"}
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6


def test_transformers_loads_it_and_prunes_nothing_alike(folder):
    plain, info = Qwen3VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    model, processor = start(folder, prune_ratio=0.0)
    batch = batch_of(processor, clip_of(), clip_of(50, 110, seed=1))
    layout = batch.pop("layout")
    with torch.no_grad():
        found = model(**batch, layout=layout)
        pixels = normalize(batch.pop("pixel_values_videos"))
        wanted = plain.eval()(**batch, pixel_values_videos=pixels)
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.lm_loss, wanted.loss)


def test_the_processor_of_a_folder_is_written_beside_a_saved_model(folder, tmp_path):
    processor = load_processor(ModelSpec(str(folder), max_pixels=40_000), STTSConfig())
    assert processor.frames.max_pixels == 40_000
    processor.save_pretrained(tmp_path)
    for name in ("config.json",):
        (tmp_path / name).write_text((folder / name).read_text())
    again = QwenProcessor.from_pretrained(tmp_path)
    assert (again.frames, again.images) == (processor.frames, processor.images)
    assert again.tokenizer.chat_template == AutoTokenizer.from_pretrained(folder).chat_template


def test_bounds_on_pixels_mean_nothing_to_frames_of_one_size(tiny_folder):
    with pytest.raises(ValueError, match=r"model\.max_pixels is 5, but a Molmo2 takes frames of one size"):
        load_processor(ModelSpec(str(tiny_folder), max_pixels=5), STTSConfig())


def test_settings_of_another_model_are_named(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "video_preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_size": 16}))
    with pytest.raises(
        ValueError, match=r"patch_size is 16 by the files of its processor but 12 by config\.json"
    ):
        QwenProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"size": {"longest_edge": "a"}}', "max_pixels is 'a', must be a whole number"),
        ('{"size": 5}', "size is 5, must name shortest_edge and longest_edge"),
        (None, "preprocessor_config.json"),
    ],
)
def test_damaged_settings_are_named_with_their_folder(folder, tmp_path, text, message):
    for path in folder.iterdir():
        if "preprocessor" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    if text:
        (tmp_path / "video_preprocessor_config.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as error:
        load_processor(ModelSpec(str(tmp_path)), STTSConfig())
    assert message in str(error.value)


def test_an_unknown_family_is_named_with_those_there_are(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"qwen3_vl"', '"blip"'))
    with pytest.raises(ValueError, match="holds a 'blip' model, must be 'molmo2' or 'qwen3_vl'"):
        load_model(ModelSpec(str(tmp_path)), STTSConfig())


# --- what a model is asked


def test_by_name_it_is_the_trained_one_and_a_random_one_is_made_where_it_is_not_there(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model, _ = stts.load("tiny_qwen3_vl", device="cpu", prune_ratio=0.8)
    assert model.stts.prune_ratio == 0.8
    assert Path(model.name_or_path) == shipped_folder("tiny_qwen3_vl")
    load_model(ModelSpec(name="tiny_qwen3_vl", pretrained=False), STTSConfig())
    made = tmp_path / "outputs/models/tiny_qwen3_vl-seed0/model.safetensors"
    assert made.read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="position_ids is 'compact'"):
        stts.load("tiny_qwen3_vl", device="cpu", position_ids="compact")


def test_a_loaded_model_of_transformers_takes_what_the_processor_gives(folder):
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    stts.insert_stts(model, STTSConfig(prune_ratio=0.5))
    processor = stts.data.QwenProcessor.from_pretrained(folder)
    batch = batch_of(processor, clip_of(), clip_of(50, 110, seed=1))
    with torch.no_grad():
        found = model(**batch)
        pixels = normalize(batch.pop("pixel_values_videos"))
        wanted = model(**batch, pixel_values_videos=pixels)
    assert torch.equal(found.logits, wanted.logits)
    assert [tuple(keep.shape) for keep in found.keep_windows] == [(3, 9), (3, 10)]


def test_answers_and_generates_from_what_is_kept(folder):
    model, processor = stts.load(str(folder), device="cpu", prune_ratio=0.5)
    clip = clip_of()
    reply = stts.answer(model, processor, "What?", clip, max_new_tokens=3, do_sample=False)
    assert isinstance(reply, str)
    assert model.last_keep_windows.float().mean() == pytest.approx(14 / 27)  # of 27 windows 13 are dropped
    inputs = prompt_inputs(processor, "What?", clip)
    with torch.no_grad():
        first = model(**inputs).logits[0, -1].argmax()
        tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(tokens[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert tokens[0, inputs["input_ids"].shape[1]] == first


@pytest.mark.parametrize("prune_ratio", [0.0, 0.5])
def test_a_reply_does_not_depend_on_the_others_of_its_batch(folder, prune_ratio):
    model, processor = start(folder, prune_ratio=prune_ratio)
    shown = [("What colour came first?", clip_of()), ("What?", clip_of(50, 110, 3, seed=1)), ("Why?", None)]
    examples = [
        processor([{"role": "user", "content": text}], clip, add_generation_prompt=True)
        for text, clip in shown
    ]
    collate = Collator(processor.pad_token_id, video_form=processor.video_form)

    def new(examples):
        batch = {k: v for k, v in collate(examples).items() if k not in ("ids", "layout", "labels")}
        tokens = model.generate(**batch, max_new_tokens=4, do_sample=False)
        assert torch.equal(tokens[:, : batch["input_ids"].shape[1]], batch["input_ids"])
        return tokens[:, batch["input_ids"].shape[1] :]

    together = new(examples)  # padded on the right
    assert all(torch.equal(new([one])[0], row) for one, row in zip(examples, together, strict=True))


@pytest.mark.parametrize("prune_ratio", [0.0, 0.5])
def test_a_video_encoded_before_gives_the_same_logits(folder, prune_ratio):
    model, processor = start(folder, prune_ratio=prune_ratio)
    clips = clip_of(), clip_of(50, 110, seed=1)
    batch = batch_of(processor, *clips)
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "layout")
    with torch.no_grad():
        videos = [model.encode_videos(**processor.video_tensors(clip)) for clip in clips]
        visual = type(videos[0]).of_rows(videos)
        found = model(**{name: batch[name] for name in names}, visual=visual)
        wanted = model(**batch)
    assert torch.equal(found.keep_mask, wanted.keep_mask)
    lengths = found.keep_mask.sum(1)
    real = torch.arange(found.logits.shape[1]) < lengths[:, None]  # padding says nothing
    assert torch.allclose(found.logits[real], wanted.logits[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("mode", "prune_ratio"), [("logits", 0.5), ("generate", 0.5), ("generate", 0.0)])
def test_evaluation_does_not_depend_on_the_size_of_its_batches(folder, clips, tmp_path, mode, prune_ratio):
    model, processor = start(folder, prune_ratio=prune_ratio)
    questions = questions_of(clips)
    found = {}
    for size in (1, 3):
        settings = EvalConfig(
            "synthetic", VideoConfig(FRAMES), mode=mode, batch_size=size, max_new_tokens=4, progress=False
        )
        results = evaluate(model, processor, questions, settings, tmp_path / str(size))
        lines = read_jsonl(tmp_path / str(size) / "predictions.jsonl")
        found[size] = {line["id"]: (line["predicted"], line.get("reply"), line["kept"]) for line in lines}
        assert results["n"] == len(questions)
        assert {line["frames"] for line in lines} == {FRAMES}  # not units of two
    assert found[1] == found[3]
    assert all(kept == (1.0 if not prune_ratio else pytest.approx(14 / 27)) for *_, kept in found[1].values())


def questions_of(clips: Path) -> list[Question]:
    return [
        Question(
            id=row["id"],
            video=clips / row["video"],
            question=row["question"],
            options=tuple(row["options"]),
            answer=row["options"].index(row["answer"]),
            evidence=tuple(row["evidence"]),
        )
        for row in read_jsonl(clips / "test.jsonl")
    ]


def test_windows_of_given_scores_stay_whatever_the_grids(folder):
    model, processor = start(folder, policy="given", insert_after=0)
    clips, rng = (clip_of(), clip_of(50, 110, seed=1)), torch.Generator().manual_seed(0)
    examples = [processor(TURNS, clip) | {"id": str(i)} for i, clip in enumerate(clips)]
    for example, clip in zip(examples, clips, strict=True):
        units, rows, cols = processor.window_grid(clip)
        example["window_scores"] = torch.rand(units, rows * cols, generator=rng)
    collate = Collator(processor.pad_token_id, video_form=processor.video_form)
    batch = collate(examples)
    assert [tuple(scores.shape) for scores in batch["window_scores"]] == [(3, 9), (3, 10)]
    batch.pop("ids")
    with torch.no_grad():
        kept = model(**batch).keep_windows
    for keep, example in zip(kept, examples, strict=True):
        later, stays = example["window_scores"][1:].flatten(), keep[1:].flatten()
        assert later[stays].min() > later[~stays].max()
        assert keep[0].all()
    batch["window_scores"] = batch["window_scores"][:1]
    with pytest.raises(
        ValueError, match="window_scores is a list of 1, must have an entry for each of 2 vid"
    ):
        model(**batch)


# --- training


def test_videos_of_different_grids_with_given_scores_are_trained_on(folder, tmp_path):
    model, processor = start(folder, policy="given")
    examples = []
    for number, clip in enumerate((clip_of(), clip_of(50, 110, seed=1))):
        example = processor(TURNS, clip) | {"id": str(number)}
        units, height, width = processor.window_grid(clip)
        examples.append(example | {"window_scores": torch.rand(units, height * width)})
    train(model, processor, examples, config(max_steps=1, save_every=0), tmp_path)
    (row,) = rows(tmp_path)
    assert row["kept"] == pytest.approx((14 + 15) / 57)
    assert row["examples"] == 2


def test_a_run_goes_on_bit_for_bit(folder, clips, tmp_path):
    settings = config(max_steps=4, save_every=2)
    train(*start(folder, clips), settings, tmp_path / "straight")
    train(*start(folder, clips), config(max_steps=2, save_every=2), tmp_path / "stopped")
    train(*start(folder, clips), settings, tmp_path / "stopped")
    kept = [row["kept"] for row in rows(tmp_path / "straight")]
    assert kept == [pytest.approx(14 / 27)] * 4
    assert weights(tmp_path / "stopped") == weights(tmp_path / "straight")
    model, processor = load_model(ModelSpec(str(tmp_path / "straight" / "model")), STTSConfig())
    assert model.stts.pool_width == 2
    assert processor.frames == QwenProcessor.from_pretrained(folder).frames
    plain = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "straight" / "model")
    assert torch.equal(plain.lm_head.weight, model.lm_head.weight)


def test_every_part_is_trained(folder, clips, tmp_path):
    model, processor, dataset = start(folder, clips)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, processor, dataset, config(max_steps=1), tmp_path)
    parts = model.host.parts
    moved = {group_of(n, parts) for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == {"vision", "adapter", "llm", "scorer"}
    assert group_of("model.visual.merger.norm.weight", parts) == "adapter"
    assert group_of("model.visual.pos_embed.weight", parts) == "vision"


def test_adapters_lie_in_the_llm_and_merge(folder, clips, tmp_path):
    lora = LoraSettings(rank=2, alpha=4, targets=("q_proj", "down_proj"))
    model, processor, dataset = start(folder, clips)
    train(model, processor, dataset, config(max_steps=1, lora=lora, vit=False), tmp_path)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted
    assert all(name.startswith("model.language_model.layers.") for name in adapted)
    merged, _ = load_model(ModelSpec(str(tmp_path / "model")), STTSConfig())
    batch = batch_of(processor, clip_of())
    with torch.no_grad():
        found, wanted = merged(**batch).logits, model.eval()(**batch).logits
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)


def test_every_block_and_every_layer_is_compiled(folder, monkeypatch):
    model, _ = start(folder)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward, **_: compiled.append(forward.__self__) or forward)
    compile_layers(model)
    assert compiled == [*model.model.visual.blocks, *model.model.language_model.layers]
    assert len(compiled) == 9


def test_units_to_shard_hold_all_that_is_large_once(folder):
    model, _ = start(folder)
    parts = [part for unit in units(model) for part in (unit if isinstance(unit, list) else [unit])]
    held = [id(p) for part in parts for p in part.parameters()]
    assert len(held) == len(set(held))
    outside = {name for name, p in model.named_parameters() if id(p) not in set(held)}
    assert {name.rpartition(".")[0] for name in outside} == {
        "lm_head",
        "model.language_model.embed_tokens",
        "model.language_model.norm",
        "model.visual.patch_embed.proj",
        "model.visual.pos_embed",
    }


def test_what_cannot_be_is_refused(folder, clips, tmp_path):
    model, processor, dataset = start(folder, clips)
    with pytest.raises(ValueError, match="max_tokens and max_frames put several examples into a row"):
        train(model, processor, dataset, config(max_tokens=100), tmp_path)


# --- what is drawn, counted and checked


def test_pictures_have_a_row_of_windows_for_every_frame(folder, clips, tmp_path):
    model, processor = start(folder)
    video = clips / read_jsonl(clips / "test.jsonl")[0]["video"]
    seen = look_at(model, processor, video, FRAMES)
    assert seen.keep.shape == seen.scores.shape == (len(seen.timestamps), 3, 3)
    assert np.array_equal(seen.keep[0], seen.keep[1])
    shown = [clip_of(72, 72), clip_of(48, 96, seed=1)]
    batch = batch_of(processor, *shown) | {"ids": ["a", "b"]}
    frames, grid = processor.video_form.first_video(batch)
    assert np.array_equal(frames, shown[0].frames[::2])
    assert grid == (3, 3, 3)
    with torch.no_grad():
        keep = model(**{k: v for k, v in batch.items() if k != "ids"}).keep_windows
    path = draw_batch(batch, keep, "scorer", tmp_path / "a.png", processor.video_form)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_cost_counts_fewer_multiply_adds_where_more_is_dropped(folder, clips):
    model, processor = start(folder)
    questions, video = questions_of(clips), VideoConfig(FRAMES)
    costs = []
    for ratio in (0.0, 0.5):
        model.stts = model.stts.replace(prune_ratio=ratio)
        costs.append(measure_cost(model, processor, questions, video, videos=1, repeats=1))
    assert (costs[0].visual_tokens, costs[1].visual_tokens) == (27, 14)
    assert costs[1].multiply_adds < costs[0].multiply_adds


@pytest.mark.parametrize("decode", [False, True])
def test_checking_data_counts_what_training_sees(folder, clips, decode):
    _, processor, dataset = start(folder, clips)
    collate = Collator(processor.pad_token_id, 0.5, video_form=processor.video_form)
    example = dataset[0]
    measured = Probe(VideoQADataset(clips / "train.jsonl", None, processor, frames=FRAMES), 0.5, decode)[0]
    assert not isinstance(measured, str), measured
    assert measured.size == collate.size(example)
    assert measured.size.frames == 6  # the ViT sees the last of five twice
    assert measured.tokens == len(example["input_ids"])


def test_native_sizes_are_read_from_the_video(folder, clips):
    processor = load_processor(ModelSpec(str(folder)), STTSConfig())
    video = clips / read_jsonl(clips / "test.jsonl")[0]["video"]
    assert processor.window_grid(read_video(video, FRAMES, size=processor.image_size)) == (3, 3, 3)


# --- the scripts


def test_a_video_is_drawn(folder, clips, tmp_path, monkeypatch):
    video = sorted((clips / "videos").glob("test*.mp4"))[0]
    settings = ["model=tiny_qwen3_vl", f"model.path={folder}", f"frames={FRAMES}", "policy=temporal"]
    assert run_script(monkeypatch, tmp_path, "visualize", *settings, f"video={video}", "output_dir=out") == 0
    told = json.loads((tmp_path / "out" / video.stem / "kept.json").read_text())
    kept = [frame["kept"] for frame in told["frames"]]
    assert len(kept) == FRAMES
    assert kept[:2] == [1, 1]  # the first unit
    assert kept[2] == kept[3]
    assert (tmp_path / "out" / video.stem / "sheet.png").stat().st_size > 10_000


def test_a_sweep_measures_frames_not_units(folder, clips, tmp_path, monkeypatch):
    settings = ["model=tiny_qwen3_vl", f"model.path={folder}", "frames=[2,5]", "prune_ratio=[0.5]"]
    settings += [
        "data=jsonl",
        f"data.annotations={clips}/train.jsonl",
        f"data.test_annotations={clips}/test.jsonl",
    ]
    settings += ["policy=temporal", "eval.limit=2", "sweep.cost_videos=1"]
    assert (
        run_script(monkeypatch, tmp_path, "sweep", *settings, "sweep.cost_repeats=1", "output_dir=out") == 0
    )
    cells = json.loads((tmp_path / "out/sweep.json").read_text())["cells"]
    assert [(cell["frames"], cell["cost"]["frames"], cell["cost"]["visual_tokens"]) for cell in cells] == [
        (2, 2, 9),
        (5, 6, 14),
    ]
