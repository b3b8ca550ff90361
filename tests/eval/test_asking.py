from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Molmo2ForConditionalGeneration

from stts.data import multiple_choice_prompt, read_video
from stts.eval.runner import evaluate
from stts.hosts.molmo2 import STTSMolmo2ForConditionalGeneration
from stts.pruning.config import STTSConfig
from tests.helpers.painted_letters import (
    CONFIG,
    SECONDS,
    TIMES,
    WINDOWS,
    Painted,
    Setting,
    counts,
    questions_about,
    read_lines,
)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("mode", ["logits", "generate"])
def test_painted_letters_are_read(setting: Setting, tmp_path: Path, mode: str, ratio: float) -> None:
    questions = questions_about(setting.videos)  # 10 questions in batches of 3: every batch mixes lengths
    model = Painted(setting.processor, ratio)
    results = evaluate(model, setting.processor, questions, replace(CONFIG, mode=mode), tmp_path)
    assert (results["accuracy"], results["n"], results["unparsed"]) == (0.7, 10, 0)
    # of q0 .. q9 the wrong ones are q2, q5, q8
    assert counts(results["by_category"]["even"]) == (0.6, 5, 0)
    assert counts(results["by_category"]["odd"]) == (0.8, 5, 0)
    assert model.encoded == [0, 1, 2, 3, 0], "each video once for both of its questions"
    assert max(model.batches) == 3
    frames = [int(2 * seconds) + (seconds % 0.5 == 0) for seconds in SECONDS for _ in range(2)]
    drops = [min(int(t * WINDOWS * ratio + 1e-6), (t - 1) * WINDOWS) for t in frames]
    shares = [1 - drop / (t * WINDOWS) for drop, t in zip(drops, frames, strict=True)]
    assert results["kept"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert [line["id"] for line in read_lines(tmp_path)] == [question.id for question in questions]
    written = [json.loads((tmp_path / name).read_text()) for name in ("results.json", "speed.json")]
    assert written[0] | written[1] == results
    assert not set(TIMES) & set(written[0])
    assert set(TIMES) == set(written[1])
    assert results["settings"]["prune_ratio"] == ratio


def test_only_the_letters_of_a_question_compete(setting: Setting, tmp_path: Path) -> None:
    four = questions_about(setting.videos[:2], each=1)
    six = [replace(question, id=f"{question.id}-six", options=tuple("uvwxyz")) for question in four]
    mixed = [four[0], six[0], four[1], six[1]]
    evaluate(Painted(setting.processor), setting.processor, mixed, CONFIG, tmp_path)
    lines = read_lines(tmp_path)
    assert [line["predicted"] for line in lines] == ["A", "F", "B", "F"]
    assert [len(line["logits"]) for line in lines] == [4, 6, 4, 6]


def test_replies_that_name_no_option_are_wrong(setting: Setting, tmp_path: Path) -> None:
    model = Painted(setting.processor)
    model.say = lambda letter: "no idea" if letter == 1 else f"The answer is {'ABCD'[letter]}."
    config = replace(CONFIG, mode="generate", max_new_tokens=40)
    results = evaluate(model, setting.processor, questions_about(setting.videos), config, tmp_path)
    # clip 1 (q2, q3) is the one painted B; q2 was wrong anyway
    assert (results["accuracy"], results["unparsed"]) == (0.6, 2)
    assert counts(results["by_category"]["odd"]) == (0.6, 5, 1)
    assert [line["predicted"] for line in read_lines(tmp_path)[:4]] == ["A", "A", None, None]
    assert read_lines(tmp_path)[2]["reply"].strip() == "no idea"


def test_logits_that_are_no_numbers_stop_the_run(setting: Setting, tmp_path: Path) -> None:
    class Overflowing(Painted):
        def forward(self, **inputs: Any) -> SimpleNamespace:
            output = super().forward(**inputs)
            output.logits[:, :, self.letters[2]] = float("nan")
            return output

    with pytest.raises(ValueError, match=r"question 'q\d' the logits \[.*nan.*model\.dtype=float32"):
        evaluate(
            Overflowing(setting.processor),
            setting.processor,
            questions_about(setting.videos),
            CONFIG,
            tmp_path,
        )


@pytest.mark.slow
def test_logits_are_those_of_transformers_after_the_prompt(setting: Setting, tmp_path: Path) -> None:
    """Without pruning: transformers' own class, one question at a time, the logits after the last token."""
    plain = Molmo2ForConditionalGeneration.from_pretrained(setting.tiny).eval()
    model = STTSMolmo2ForConditionalGeneration.from_pretrained(setting.tiny, stts=STTSConfig(prune_ratio=0.0))
    questions = questions_about(setting.videos[:3])
    evaluate(model, setting.processor, questions, CONFIG, tmp_path)
    letters = setting.processor.tokenizer.convert_tokens_to_ids(list("ABCD"))
    for question, line in zip(questions, read_lines(tmp_path), strict=True):
        prompt = multiple_choice_prompt(question.question, question.options)
        messages = [{"role": "user", "content": prompt}]
        inputs = setting.processor(messages, read_video(question.video, 16), add_generation_prompt=True)
        text = {key: inputs[key][None] for key in ("input_ids", "mm_token_type_ids")}
        video = {key: inputs[key] for key in ("video_token_pooling", "video_grids")}
        pixels = inputs["pixel_values_videos"] / 127.5 - 1
        with torch.no_grad():
            logits = plain(**text, **video, pixel_values_videos=pixels).logits[0, -1]
        assert line["logits"] == pytest.approx(logits[letters].tolist(), abs=1e-3)
