from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from stts import STTSConfig, answer
from stts.chat import load, prompt_inputs
from stts.data import Clip
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model


def clip_of(frames: int) -> Clip:
    return Clip(np.full((frames, 72, 72, 3), 10 * frames, np.uint8), np.arange(frames) / 2)


def test_threads_that_share_a_model_each_see_what_theirs_kept(tiny_folder):
    model, processor = load_model(ModelSpec(path=str(tiny_folder)), STTSConfig(prune_ratio=0.5))
    lock, found = threading.Lock(), {}

    def ask(frames: int) -> None:
        for _ in range(3):
            with lock:  # fast tokenizers serve one thread at a time; the model runs in all at once
                inputs = prompt_inputs(processor, "What?", clip_of(frames))
            model.generate(**inputs, max_new_tokens=1)
            found.setdefault(frames, []).append(len(model.last_keep_windows))

    threads = [threading.Thread(target=ask, args=(frames,)) for frames in (2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {frames: [frames] * 3 for frames in (2, 3, 4, 5)}
    assert model.last_keep_windows is None  # nothing was asked in this one


@pytest.mark.parametrize(
    ("settings", "frames", "told"),
    [
        ({}, 4, False),
        ({}, 5, True),
        ({"position_ids": "compact"}, 5, False),
        ({"position_ids": "compact"}, 9, True),
    ],
)
def test_a_prompt_past_the_models_context_is_named(tiny_folder, tmp_path, caplog, settings, frames, told):
    """A frame is 9 windows and some text around; half of the windows are dropped."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    _, processor = load(folder)
    config["text_config"]["max_position_embeddings"] = len(
        prompt_inputs(processor, "What?", clip_of(4))["input_ids"][0]
    )
    (folder / "config.json").write_text(json.dumps(config))
    model, processor = load(folder, **settings)
    answer(model, processor, "What?", clip_of(frames), max_new_tokens=1)
    assert (f"with {frames} frames" in caplog.text) == told
    assert ("max_position_embeddings" in caplog.text) == told
