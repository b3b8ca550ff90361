"""The plug-in, run by the installed lmms-eval on a miniature task of local clips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForImageTextToText

from stts import STTSConfig
from stts.data import multiple_choice_prompt, read_video
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_processor

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
if not any(entry.name == "stts" for entry in entry_points(group="lmms_eval.models")):
    pytest.skip("stts was installed without its entry point: install it again", allow_module_level=True)

from lmms_eval.api.instance import Instance
from PIL import Image

from stts.lmms_eval import manifest
from stts.lmms_eval.model import STTS, ChatSTTS, from_messages, the_video

GENERATE = """
task: stts_mini
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function mini.visual
doc_to_text: !function mini.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 3, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}]
metadata: [{{version: 0.0}}]
"""
FUNCTIONS = """
from stts.data import multiple_choice_prompt
def visual(doc): return [doc["video"]]
def text(doc): return multiple_choice_prompt(doc["question"], doc["options"])
"""


@pytest.fixture(scope="module")
def rows(clips: Path) -> list[dict]:
    """The test questions of the clips, their answers as letters."""
    found = [json.loads(line) for line in (clips / "test.jsonl").read_text().splitlines()][:4]
    for row in found:
        row["video"] = str(clips / row["video"])
        row["answer"] = "ABCDEF"[row["options"].index(row["answer"])]
    return [{key: row[key] for key in ("id", "video", "question", "options", "answer")} for row in found]


@pytest.fixture(scope="module")
def tasks(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mini.yaml").write_text(GENERATE.format(rows=folder / "rows.jsonl"))
    (folder / "mini.py").write_text(FUNCTIONS)
    return folder


@pytest.fixture(params=["molmo2", "qwen3_vl"])
def folder(request, tiny_folder: Path, tiny_qwen3_vl_folder: Path) -> Path:
    return {"molmo2": tiny_folder, "qwen3_vl": tiny_qwen3_vl_folder}[request.param]


def plain_logits(folder: Path, row: dict) -> torch.Tensor:
    """(V,) of transformers' own model after the prompt of a question."""
    processor = load_processor(ModelSpec(str(folder)), STTSConfig())
    text = multiple_choice_prompt(row["question"], row["options"])
    clip = read_video(row["video"], 8, size=processor.image_size)
    inputs = processor([{"role": "user", "content": text}], clip, add_generation_prompt=True)
    pixels = inputs.pop("pixel_values_videos") / 127.5 - 1
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    batch = {key: inputs.pop(key)[None] for key in ("input_ids", "mm_token_type_ids")}
    inputs.pop("labels")
    with torch.no_grad():
        return model(**batch, **inputs, pixel_values_videos=pixels).logits[0, -1]


@pytest.mark.slow
def test_lmms_eval_runs_a_task_and_replies_as_transformers_does(tasks, rows, tiny_folder, tmp_path):
    """With nothing dropped a reply begins with the likeliest token of the plain model."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "stts", "--tasks", "stts_mini", "--log_samples"]
    command += ["--model_args", f"pretrained={tiny_folder},prune_ratio=0,max_num_frames=8,device=cpu"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path)]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = tmp_path.rglob("*samples_stts_mini.jsonl")
    found = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    tokenizer = load_processor(ModelSpec(str(tiny_folder)), STTSConfig()).tokenizer
    for sample, row in zip(found, rows, strict=True):
        first = tokenizer.decode([plain_logits(tiny_folder, row).argmax()], skip_special_tokens=True).strip()
        assert sample["filtered_resps"][0].startswith(first)


def test_losses_of_answers_are_those_of_transformers(rows, folder):
    row, metadata = rows[0], {"task": "t", "doc_id": 0, "repeats": 1}
    whole = STTS(str(folder), prune_ratio=0, max_num_frames=8, device="cpu")
    whole.task_dict = {"t": {"test": [row]}}
    text = multiple_choice_prompt(row["question"], row["options"])
    letters = "ABCDEF"[: len(row["options"])]
    found = whole.loglikelihood(
        [
            Instance(
                "loglikelihood", (text, f" {letter}", lambda doc: [doc["video"]], 0, "t", "test"), i, metadata
            )
            for i, letter in enumerate(letters)
        ]
    )
    logits = plain_logits(folder, row)
    tokens = whole.processor.tokenizer.convert_tokens_to_ids(list(letters))
    losses = -logits.log_softmax(-1)[tokens]
    assert [loss for loss, _ in found] == pytest.approx(losses.tolist(), abs=1e-3)
    assert [greedy for _, greedy in found] == [logits.argmax().item() == token for token in tokens]


@pytest.fixture
def model(folder: Path) -> ChatSTTS:
    return ChatSTTS(str(folder), prune_ratio=0.5, policy="temporal", max_num_frames=8, device="cpu")


def request(messages: list[dict], **wanted) -> Instance:
    metadata = {"task": "t", "doc_id": 0, "repeats": 1}
    arguments = ("", lambda doc: messages, wanted, 0, "t", "test")
    return Instance("generate_until", arguments, 0, metadata)


def test_replies_end_where_a_task_says(model, rows):
    model.task_dict = {"t": {"test": [None]}}
    video = {"type": "video", "url": rows[0]["video"]}
    messages = [{"role": "user", "content": [video, {"type": "text", "text": "What was there?"}]}]
    (whole,) = model.generate_until([request(messages, max_new_tokens=8, temperature=0)])
    kept = model.model.last_keep_windows
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert len(kept) == -(-5 // model.processor.unit_frames)  # of the clip's five frames
    middle = whole[len(whole) // 2]
    (cut,) = model.generate_until([request(messages, max_new_tokens=8, until=[middle])])
    assert cut == whole.split(middle)[0].strip()
    with pytest.raises(NotImplementedError, match="one round"):
        model.generate_until_multi_round([])


def test_messages_become_turns_and_one_video():
    video = {"type": "video", "url": "file:///a.mp4", "start_time": 1.0, "end_time": 3.0}
    said = {"type": "text", "text": "What?"}
    turns, shown = from_messages(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [said, video]}]
    )
    assert turns == [{"role": "user", "content": "Be brief.\nWhat?"}]
    assert shown == ("/a.mp4", 1.0, 3.0)
    assert from_messages([{"role": "user", "content": [said]}]) == (
        [{"role": "user", "content": "What?"}],
        None,
    )


def test_what_it_cannot_show_is_named():
    with pytest.raises(ValueError, match="shows a Image, must be a video file"):
        the_video([(Image.new("RGB", (4, 4)), None, None)])
    with pytest.raises(ValueError, match="shows 2 videos at once"):
        the_video([("a.mp4", None, None), ("b.mp4", None, None)])
    with pytest.raises(ValueError, match="batch_size is 8, must be 1"):
        STTS("tiny", batch_size=8)


def test_the_manifest_names_both_classes():
    found = SimpleNamespace(**vars(manifest()))
    assert found.model_id == "stts"
    assert found.chat_class_path == f"{ChatSTTS.__module__}.{ChatSTTS.__name__}"
    assert found.simple_class_path == f"{STTS.__module__}.{STTS.__name__}"
