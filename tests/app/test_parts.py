"""Jobs, clocks, settings and words of the page."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from stts.app.config import AppConfig
from stts.app.errors import heard, told, without_folders
from stts.app.jobs import Job, StoppedError
from stts.app.saving import as_seen_from_here
from stts.app.watch import watched
from stts.chat import load, logger, prompt_inputs
from stts.data import read_video
from tests.helpers.scripts import run_script


def test_a_job_tells_how_far_it_is_until_it_is_over():
    go = threading.Event()

    def work(job):
        job.tell("counting", lambda: 0.25)
        go.wait(60)
        return 7

    job, seen = Job(work), []
    for step in job:
        seen.append(step)
        if seen[-1] == ("counting", 0.25):
            go.set()
    assert job.result() == 7
    job = Job(lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.result()


def test_a_stopped_job_ends_where_it_next_tells_and_nobody_waits():
    lock, ended, told_stop = threading.Lock(), [], []
    lock.acquire()

    def work(job):
        try:
            job.hold(lock, "waiting")
        except StoppedError:
            ended.append(True)
            raise

    job = Job(work)
    job.on_stop = lambda: told_stop.append(True)
    job.stop()
    job.stop()
    assert list(job) == []
    with pytest.raises(StoppedError):
        job.result()
    job._over.wait(60)
    assert (ended, told_stop) == ([True], [True])


@pytest.mark.parametrize("name", ["tiny", "tiny_qwen3_vl"])
@pytest.mark.parametrize("policy", ["temporal", "evs", "none"])
def test_parts_of_a_prompt_are_timed_and_can_be_ended_between_blocks(
    name, policy, clips, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model, processor = load(name, policy=policy)
    clip = read_video(next((clips / "videos").glob("*.mp4")), 4, size=processor.image_size)
    inputs, shares = prompt_inputs(processor, "What?", clip), []
    with watched(model, shares.append) as seconds:
        model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert min(seconds.vit, seconds.adapter, seconds.llm, seconds.words) > 0
    assert shares[0] == 0
    assert shares == sorted(shares)

    def stop(share):
        if share > 0.3:
            raise StoppedError

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    with pytest.raises(StoppedError), watched(model, stop):
        model.generate(**inputs, max_new_tokens=1)
    assert hooks() == before
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_errors_are_told_without_the_folders_of_the_machine(tmp_path, caplog):
    text = (
        f"{tmp_path / 'a b' / 'clip.mp4'}: is empty; and/or 1/2, /usr/lib/x.so, https://a.b/c, '~/in/it.mp4'"
    )
    assert (
        without_folders(text, [tmp_path / "a b"])
        == "clip.mp4: is empty; and/or 1/2, x.so, https://a.b/c, 'it.mp4'"
    )
    assert told(ValueError("frames is 0, must be at least 1")) == "frames is 0, must be at least 1"
    assert told(KeyError("x")).startswith("an error that nobody foresaw, KeyError: 'x'")
    assert "Traceback" in caplog.text or caplog.records[-1].exc_info
    with heard() as warnings:
        logger.warning("the prompt has %s", "grown")
        other = threading.Thread(target=logger.warning, args=("somebody else's",))
        other.start()
        other.join()
    assert warnings == ["the prompt has grown"]


def test_paths_are_shown_as_seen_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_seen_from_here(Path("outputs/x/clip.mp4")) == "outputs/x/clip.mp4"
    assert as_seen_from_here(tmp_path / "clip.mp4") == "clip.mp4"
    assert as_seen_from_here(tmp_path.parent / "elsewhere" / "run") == "run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frames=0"], "frames is 0, must be at least 1"),
        (["frames=500"], "frames is 500, must be at most 128 (max_frames)"),
        (["policy=given"], "policy is 'given', must be one of none, scorer"),
        (["prune_ratio=1"], "prune_ratio is 1.0, must be in [0, 1)"),
        (["models=[]"], "models is [], must be one model at least"),
        (["video=nowhere.mp4"], "video is 'nowhere.mp4': no such file"),
        (["max_upload_mb=0"], "max_upload_mb is 0.0, must be above 0"),
        (["port=99999"], "port is 99999"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(monkeypatch, tmp_path, capsys, arguments, message):
    assert run_script(monkeypatch, tmp_path, "app", *arguments) == 2
    assert message in capsys.readouterr().err


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "gradio" else real(name, *rest)
    )
    assert run_script(monkeypatch, tmp_path, "app") == 2
    assert "pip install 'stts[app]'" in capsys.readouterr().err


def test_the_defaults_of_the_yaml_are_those_of_the_settings(monkeypatch):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from stts.settings.config_files import CONFIG_DIR
    from stts.settings.typed import from_dict

    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        assert from_dict(AppConfig, OmegaConf.to_container(compose("app"))) == AppConfig()
