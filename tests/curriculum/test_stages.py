"""The curriculum that makes the tiny model: its labels against the recorded events, its loop, its result."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoTokenizer

import stts.curriculum.card as card_module
from stts import STTSConfig
from stts.curriculum.card import install_tiny, score_on_test
from stts.curriculum.scenes import Scene, as_messages, conversation, load_scenes, without_options
from stts.curriculum.stage_run import StageRun
from stts.curriculum.stages import Curriculum, Stage, run_curriculum
from stts.curriculum.word_losses import KINDS, WordIds, name_labels, time_labels, window_labels, word_loss
from stts.data import read_video
from stts.data.processors.base import IGNORE, Processor, evidence_in
from stts.data.synthetic.clips import make_synthetic
from stts.data.synthetic.spec import SyntheticSpec
from stts.data.video.pixels import normalize
from stts.files.jsonl import read_jsonl
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model, load_processor
from stts.hosts.sizes import TRAINED
from stts.hosts.tiny import shipped_folder
from stts.settings.typed import from_dict
from stts.train.config import LearningRates, TrainConfig
from stts.train.optim import group_of
from tests.helpers.paths import ROOT

CONFIG = ROOT / "configs" / "make_tiny.yaml"
DATA = {"num_train": 2, "num_test": 2, "seed": 4, "questions_per_clip": 99}


def stage(vision: float, llm: float, **settings) -> Stage:
    rates = LearningRates(vision=vision, adapter=vision, llm=llm, scorer=0.0)
    return Stage(TrainConfig(max_steps=2, batch_size=2, lr=rates, log_every=1), **settings)


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    return Curriculum(
        align=stage(1e-3, 0.0, distance=0.3),
        questions=stage(0.0, 1e-3, direct_share=1.0, times=0.3, names=0.5),
        letters=stage(0.0, 1e-3, direct_share=0.3),
        everything=stage(1e-4, 1e-4),
        data=DATA,
        device="cpu",
    )


@pytest.fixture(scope="module", params=["molmo2", "qwen3_vl"])
def folder(request, tiny_folder: Path, tiny_qwen3_vl_folder: Path) -> Path:
    return {"molmo2": tiny_folder, "qwen3_vl": tiny_qwen3_vl_folder}[request.param]


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return load_processor(ModelSpec(str(folder)), STTSConfig())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("scenes") / "data", **DATA)


@pytest.fixture(scope="module")
def scenes(data: Path, processor: Processor) -> list[Scene]:
    return load_scenes(data / "train.jsonl", processor)


def test_window_labels_are_what_the_pixels_show(data: Path, scenes: list[Scene], processor) -> None:
    each = processor.unit_frames
    for row, scene in zip(read_jsonl(data / "train.jsonl"), scenes, strict=True):
        frames = read_video(data / row["video"], 128).frames.astype(int)
        coloured = (np.ptp(frames, axis=-1) > 60).reshape(10, 3, 24, 3, 24).any((2, 4)).reshape(10, 9)
        coloured = coloured.reshape(10 // each, each, 9)
        for kind in ("colour", "shape"):
            shown = scene.shown[kind] < len(KINDS[kind])
            assert (shown.numpy() == coloured.any(1)).all()
            said = sorted(KINDS[kind][i] for i in scene.shown[kind][shown] if i != IGNORE)
            assert said == sorted(e[kind] for e in row["events"])
        assert scene.event_units == tuple(np.unique(coloured.nonzero()[0]))


def test_a_window_that_shows_two_events_has_no_label() -> None:
    events = [{"colour": c, "shape": "ring", "start": 0.75, "end": 1.25} for c in ("red", "blue")]
    marked = np.array([[[True, True, False]], [[True, False, False]]])
    labels = window_labels(events, marked)["colour"].tolist()
    assert labels == [[IGNORE, KINDS["colour"].index("red"), len(KINDS["colour"])]]


def test_time_labels_are_the_digits_of_the_prompt_and_the_thirds_of_the_questions(
    processor: Processor, scenes: list[Scene]
) -> None:
    for scene in scenes:
        text = processor.tokenizer.decode(
            processor.text_tensors(as_messages(scene.turns), scene.clip)["input_ids"]
        )
        digits = zip(*(scene.times[name][:, 0].tolist() for name in ("seconds", "tenths")), strict=True)
        assert re.findall(r"(\d)\.(\d) ", text) == [(str(s), str(t)) for s, t in digits]
        for question, answer in map(without_options, scene.turns):
            if name := re.fullmatch(r"When was the (\w+)(?: one)? shown\?", question):
                (event,) = (e for e in scene.events if name[1] in (e["colour"], e["shape"]))
                shown = evidence_in(processor, [event], scene.clip)[0]
                assert {KINDS["time"][time] for time in scene.times["time"][shown]} == {answer}


def test_a_unit_between_two_thirds_has_none() -> None:
    written, marked = [0.2, 1.2, 2.2, 3.2, 4.2], np.zeros((0, 5, 1), dtype=bool)
    times = time_labels(10, written, [], marked)["time"][:, 0].tolist()
    assert times == [0, 0, 1, IGNORE, 2]  # frames 6 and 7 are in the middle and late
    assert time_labels(9, written, [], marked)["time"].shape == (5, 1)


def test_name_labels_say_the_rest_about_an_event(processor: Processor) -> None:
    def event(colour: str, shape: str, slot: int) -> dict:
        return {"colour": colour, "shape": shape, "start": slot / 2 - 0.25, "end": slot / 2 + 0.25}

    events = [event("red", "ring", 1), event("blue", "ring", 5), event("cyan", "cross", 9)]
    text = " blue one was the ring a cross a green one came first last"
    ids = processor.tokenizer(text, return_tensors="pt").input_ids[0]
    labels = name_labels(ids, events, 10, WordIds.of(processor.tokenizer))
    said = {
        processor.tokenizer.decode(token).strip(): {
            kind: (*KINDS[kind], "nothing")[n] for kind in KINDS if (n := labels[kind][i]) != IGNORE
        }
        for i, token in enumerate(ids)
    }
    assert {word: found for word, found in said.items() if found} == {
        "blue": {"shape": "ring", "time": "middle"},
        "cross": {"colour": "cyan", "time": "late"},
        "green": {"shape": "nothing", "time": "nothing"},
        "first": {"colour": "red", "shape": "ring", "time": "early"},
        "last": {"colour": "cyan", "shape": "cross", "time": "late"},
    }


def test_word_loss_by_hand() -> None:
    words = torch.eye(2, 3)
    features = torch.tensor([[2.0, 1.0, 5.0], [0.0, 3.0, 0.0], [-1.0, -2.0, 0.0], [9.0, 9.0, 9.0]])
    labels = torch.tensor([0, 0, 2, IGNORE])  # right, wrong, nothing, not asked
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [-1.0, -2.0, 0.0]])
    each = functional.cross_entropy(logits, labels[:3], reduction="none")
    loss, right = word_loss(features, words, labels, nothing_weight=0.3)
    torch.testing.assert_close(loss, each[:2].mean() + 0.3 * each[2])
    assert right == 0.5
    assert word_loss(features[3:], words, labels[3:])[0] == 0


def test_words_of_another_tokenizer_are_refused() -> None:
    class Letters:
        def __call__(self, text: str, **_) -> object:
            return type("Encoded", (), {"input_ids": list(map(ord, text))})

    with pytest.raises(ValueError, match="' blue' must be one token"):
        WordIds.of(Letters())


def test_conversations_ask_everything_in_any_order(processor: Processor, scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    whole = [conversation(scenes[0], processor, rng, share)["input_ids"] for share in (0.0, 0.0, 0.5, 1.0)]
    assert len(whole[0]) == len(whole[1]) > len(whole[2]) > len(whole[3])
    assert not torch.equal(whole[0], whole[1])
    clip = scenes[0].clip
    assert clip.frames.shape == (10, 72, 72, 3)
    assert clip.frames.strides == (0, 0, 0, 0)  # its pixels are in the video


def test_without_options() -> None:
    turn = ("Which?\nA. red\nB. blue\nPlease respond with only the letter of the correct answer.", "B")
    assert without_options(turn) == ("Which?", "blue")


def test_losses_look_at_the_layers_they_name(
    folder: Path, scenes: list[Scene], processor, curriculum
) -> None:
    """hidden_states[k] of transformers is what layer k - 1 returns, and only earlier layers get a gradient."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    asked = dataclasses.replace(curriculum.questions, names=0.0)
    run = StageRun(model, processor, scenes, asked, np.random.default_rng(0), print)
    kept, hook = [], lambda module, args, output: kept.append(output)
    for layer in model.model.language_model.layers:
        layer.register_forward_hook(hook)
    time_loss = run._time_loss
    seen = []
    run._time_loss = lambda hidden, *rest: (seen.append(hidden), time_loss(hidden, *rest))[1]
    loss, report = run.answer_loss()
    first = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    assert torch.equal(seen[0], first)
    assert loss > report["loss"] > 0
    parts = {group_of(n, run.host.parts) for n, p in model.named_parameters() if p.requires_grad}
    assert parts == {"llm"}


@torch.no_grad()
def test_the_model_sees_what_it_sees_anywhere_else(
    folder: Path, scenes: list[Scene], processor, curriculum
) -> None:
    """Features made before, one by one, are those of a batch of videos as the model itself takes it."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    run = StageRun(model, processor, scenes, curriculum.everything, np.random.default_rng(0), print)
    examples = [conversation(scene, processor, run.rng) for scene in scenes]
    batch = {k: v for k, v in run.collate(examples).items() if k not in ("ids", "layout")}
    found = model(**batch, **run._videos(range(len(scenes)), batch)).logits
    videos = processor.video_form.join([scene.video for scene in scenes])
    pixels = normalize(videos.pop("pixel_values_videos"))
    wanted = model(**batch, **videos, pixel_values_videos=pixels).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("host", "name"), [("molmo2", "stts-tiny"), ("qwen3_vl", "stts-tiny-qwen3-vl")])
def test_two_steps_of_every_stage(
    host: str, name: str, curriculum: Curriculum, tmp_path: Path, monkeypatch
) -> None:
    curriculum = dataclasses.replace(curriculum, host=host)
    monkeypatch.setattr(card_module, "PRIOR_CLIPS", 300)
    said = []
    last = run_curriculum(curriculum, tmp_path / "a", said.append)
    assert [text for text in said if text.startswith("stage")] == [
        "stage align",
        "stage questions",
        "stage letters",
        "stage everything",
    ]
    folders = [tmp_path / "a" / name for name in ("random", "align", "questions", "letters", "everything")]
    changed = []
    for before, after in itertools.pairwise(folders):
        old, new = (AutoModelForImageTextToText.from_pretrained(f).state_dict() for f in (before, after))
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        changed.append({"llm" if "language_model" in n or "lm_head" in n else "eyes" for n in moved})
    assert changed == [{"eyes"}, {"llm"}, {"llm"}, {"eyes", "llm"}]

    said.clear()  # what is finished is found; the same seed gives the same weights
    assert run_curriculum(curriculum, tmp_path / "a", said.append) == last
    assert not any("step" in text for text in said)
    if host == "molmo2":
        again = run_curriculum(curriculum, tmp_path / "b", said.append)
        assert (again / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()

    results = score_on_test(last, tmp_path / "a" / "data", SyntheticSpec(**DATA), tmp_path / "scores")
    target = install_tiny(last, results, seed=0, target=tmp_path / "package")
    card = (target / "README.md").read_text()
    assert f"\n# {name}\n" in card
    assert f"| all | 8 | {results['accuracy']:.3f} |" in card
    model, _ = load_model(ModelSpec(str(target)), STTSConfig())
    assert model.stts.prune_ratio == 0.5


def test_settings_file_fits_the_dataclasses() -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONFIG))
    names = {field.name for field in dataclasses.fields(Curriculum)}
    config = from_dict(Curriculum, {name: values[name] for name in names})
    assert config.align.train.lr.llm == config.questions.train.lr.vision == 0
    assert set(values) - names == {"defaults", "output_dir", "install", "hydra"}


@pytest.mark.parametrize("name", TRAINED)
class TestShipped:
    def test_is_whole_small_and_has_a_card(self, name: str) -> None:
        folder = shipped_folder(name)
        assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
        card = (folder / "README.md").read_text()
        assert "license: apache-2.0" in card
        accuracy, prior = re.search(r"\| all \| \d+ \| ([\d.]+) \| ([\d.]+) \|", card).groups()
        assert float(accuracy) >= 0.8
        assert float(prior) <= 0.35
        assert "stts" not in json.loads((folder / "config.json").read_text())

    def test_loads_by_default_and_in_plain_transformers(self, name: str, tmp_path: Path, monkeypatch) -> None:
        model, processor = load_model(ModelSpec(name=name), STTSConfig(prune_ratio=0.5))
        folder = shipped_folder(name)
        plain, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        state = model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in plain.state_dict().items())
        assert len(processor.tokenizer) == model.get_input_embeddings().weight.shape[0]
        monkeypatch.chdir(tmp_path)
        random, _ = load_model(ModelSpec(name=name, pretrained=False), STTSConfig())
        assert (tmp_path / f"outputs/models/{name}-seed0/config.json").is_file()
        assert not torch.equal(random.lm_head.weight, model.lm_head.weight)

    def test_knows_every_word_of_today(self, name: str) -> None:
        """The shipped tokenizer is that of the generator as it is now."""
        WordIds.of(AutoTokenizer.from_pretrained(shipped_folder(name)))

    @pytest.mark.slow
    def test_answers_about_clips_it_has_not_seen(self, name: str, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(card_module, "PRIOR_CLIPS", 300)
        spec = SyntheticSpec(num_train=0, num_test=24, seed=77)
        data = make_synthetic(tmp_path / "data", num_train=0, num_test=24, seed=77)
        results = score_on_test(shipped_folder(name), data, spec, tmp_path / "scores")
        assert results["n"] == 96
        assert results["accuracy"] >= 0.75


def test_a_model_of_which_no_weights_come_is_named(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trained weights of tiny_other come .* model\.pretrained=false"):
        shipped_folder("tiny_other")
    monkeypatch.setattr("stts.hosts.tiny.ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"make_tiny\.py host=qwen3_vl`"):
        shipped_folder("tiny_qwen3_vl")


def test_window_labels_mark_nothing_without_events() -> None:
    labels = window_labels([], np.zeros((0, 2, 9), dtype=bool))
    assert {kind: set(found.flatten().tolist()) for kind, found in labels.items()} == {
        "colour": {6},
        "shape": {4},
    }


@pytest.mark.parametrize("loss", ["align_loss", "answer_loss"])
def test_bf16_sees_what_float32_sees(loss: str, folder: Path, scenes: list[Scene], processor) -> None:
    losses, settings = [], {"distance": 0.3, "direct_share": 0.5, "times": 0.3, "names": 0.5}
    for precision in ("auto", "bf16"):
        model = AutoModelForImageTextToText.from_pretrained(folder)
        asked = stage(1e-3, 1e-3, **settings)
        asked = dataclasses.replace(asked, train=dataclasses.replace(asked.train, mixed_precision=precision))
        run = StageRun(model, processor, scenes, asked, np.random.default_rng(0), print)
        found, _ = getattr(run, loss)()
        found.backward()
        assert all(p.grad is None or p.grad.dtype == p.dtype == torch.float32 for p in model.parameters())
        losses.append(found.item())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_hosts_that_there_are_not_are_named(curriculum: Curriculum) -> None:
    with pytest.raises(ValueError, match="host is 'blip', must be molmo2 or qwen3_vl"):
        dataclasses.replace(curriculum, host="blip")


def test_devices_that_there_are_not_are_named(curriculum: Curriculum, monkeypatch) -> None:
    with pytest.raises(ValueError, match="device is 'tpu', must be cpu, cuda or null"):
        dataclasses.replace(curriculum, device="tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds none"):
        dataclasses.replace(curriculum, device="cuda")
