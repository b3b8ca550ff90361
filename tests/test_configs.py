from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stts.data.video.config import VideoConfig
from stts.pruning.config import STTSConfig
from stts.settings.config_files import documented_keys, keys_of
from stts.settings.launch import CONFIG_DIR, explain, launch
from stts.settings.typed import from_dict
from stts.train.config import LearningRates, LoraSettings, ParallelConfig, TrainConfig, WandbConfig
from stts.train.run_config import RunConfig
from stts.train.run_folder import flatten, newest_checkpoint

SCRIPT = CONFIG_DIR.parent / "scripts" / "train.py"
MODELS = sorted(path.stem for path in (CONFIG_DIR / "model").glob("*.yaml"))
NEEDED = {
    "jsonl": ["data.annotations=x.jsonl"],
    "llava_video": ["data.annotations=x.json"],
    "molmo2": ["data.annotations=x.parquet"],
    "mixture": ["+data.datasets.own={name: jsonl, annotations: x.jsonl, weight: 1}"],
}


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(overrides)), resolve=True, throw_on_missing=True)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in ("model", "data", "benchmark", "parallel", "debug")
        for name in options(group)
    ],
)
def test_every_choice_composes_into_valid_settings(choice):
    run = RunConfig.from_dict(composed(choice, *NEEDED.get(choice.split("=")[1], [])))
    assert run.model.dtype == "float32"  # training keeps full-precision weights unless told otherwise
    assert run.stts.prune_ratio == 0.5


def test_experiments_and_presets_say_how_they_are_run():
    for path in itertools.chain(*((CONFIG_DIR / group).glob("*.yaml") for group in ("experiment", "debug"))):
        command = next(line for line in path.read_text().splitlines() if "scripts/train.py" in line)
        assert f"={path.stem}" in command


def test_models_have_names_paths_and_rates_of_their_own():
    runs = {name: RunConfig.from_dict(composed(f"model={name}")) for name in MODELS}
    assert {name: run.model.path for name, run in runs.items()} == {
        "gemma3_12b": "google/gemma-3-12b-it",
        "gemma3_4b": "google/gemma-3-4b-it",
        "gemma4_e2b": "google/gemma-4-E2B-it",
        "gemma4_e4b": "google/gemma-4-E4B-it",
        "glm4_1v_9b": "zai-org/GLM-4.1V-9B-Thinking",
        "glm4_6v_flash": "zai-org/GLM-4.6V-Flash",
        "idefics3_8b": "HuggingFaceM4/Idefics3-8B-Llama3",
        "internvl3_1b": "OpenGVLab/InternVL3-1B-hf",
        "internvl3_8b": "OpenGVLab/InternVL3-8B-hf",
        "llava_next_video_7b": "llava-hf/LLaVA-NeXT-Video-7B-hf",
        "llava_onevision_0_5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava_onevision_7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "molmo2_4b": "allenai/Molmo2-4B",
        "molmo2_8b": "allenai/Molmo2-8B",
        "molmo2_o_7b": "allenai/Molmo2-O-7B",
        "qwen2_5_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2_vl_2b": "Qwen/Qwen2-VL-2B-Instruct",
        "qwen2_vl_7b": "Qwen/Qwen2-VL-7B-Instruct",
        "qwen3_5_4b": "Qwen/Qwen3.5-4B",
        "qwen3_5_9b": "Qwen/Qwen3.5-9B",
        "qwen3_vl_2b": "Qwen/Qwen3-VL-2B-Instruct",
        "qwen3_vl_4b": "Qwen/Qwen3-VL-4B-Instruct",
        "qwen3_vl_8b": "Qwen/Qwen3-VL-8B-Instruct",
        "smolvlm2_2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "video_llama_3_2b": "lkhl/VideoLLaMA3-2B-Image-HF",
        "tiny": None,  # the weights of the package
        "tiny_qwen3_vl": None,
    }
    assert all(run.model.name == name for name, run in runs.items())
    assert runs["tiny"].train.lr == LearningRates()
    assert runs["molmo2_4b"].train.lr.llm == 1e-5
    assert RunConfig.from_dict(composed("model=molmo2_4b", "train.lr.llm=2e-5")).train.lr.llm == 2e-5


def test_defaults_of_the_yaml_are_those_of_the_dataclasses():
    run = RunConfig.from_dict(composed())
    assert run.train == TrainConfig()
    assert run.wandb == WandbConfig()
    assert run.video == VideoConfig(frames=128)


def test_the_recipes_are_the_arms_that_were_compared():
    policies = yaml.safe_load((CONFIG_DIR / "accuracy.yaml").read_text())["policies"]
    for recipe, arm in (("published", "stable"), ("recommended", "recommended")):
        settings = RunConfig.from_dict(composed(f"stts={recipe}")).stts
        assert settings.replace(bias_range=0.1) == STTSConfig(**policies[arm]).replace(bias_range=0.1)
    assert RunConfig.from_dict(composed("stts=published")).stts == STTSConfig(bias_range=0.1)


CHOICES = {  # a setting of the YAML files, by the end of its key -> what sets it in a training run
    "policy": "policy",
    "position_ids": "stts.position_ids",
    "bias_norm": "stts.bias_norm",
    "attention": "stts.attention",
    "backend": "video.backend",
    "sampling": "video.sampling",
    "eval.mode": "eval.mode",
    "bad_videos": "eval.bad_videos",
    "wandb.mode": "wandb.mode",
    "too_long": "train.too_long",
    "loss_weight": "train.loss_weight",
    "schedule": "train.schedule",
    "mixed_precision": "train.mixed_precision",
    "dtype": "model.dtype",
    "missing_videos": "data.missing_videos",
}
LISTED = re.compile(r'([\w"]+(?:, [\w"]+)+)$')
"""How a comment that names choices ends, without what stands in parentheses."""


def commented_choices() -> list[tuple[str, str, set[str]]]:
    """(file, key, choices) of every comment in configs/ that ends with a list of choices."""
    found = []
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        group = "" if path.parent == CONFIG_DIR else path.parent.name
        for key, _, meaning in (
            keys_of(group, path.read_text()) if group else documented_keys(path.read_text())
        ):
            text = re.sub(r" ?\([^)]*\)", "", meaning)
            if match := re.search(r": " + LISTED.pattern, text):
                found.append((str(path.relative_to(CONFIG_DIR)), key, set(re.findall(r"\w+", match[1]))))
    return found


def accepted(setting: str) -> set[str]:
    """What a training run takes for a setting: the words of the error that any other value gets."""
    data = ["data=molmo2", *NEEDED["molmo2"]] if setting.startswith("data.") else []
    with pytest.raises(ValueError, match="nonsense") as refused:
        RunConfig.from_dict(composed(*data, f"++{setting}=nonsense"))
    rule = re.sub(r" ?\([^)]*\)", "", re.search(r"must be (?:one of )?(.*)", str(refused.value))[1])
    return set(re.findall(r"\w+", rule)) - {"or"}


def test_the_choices_that_comments_name_are_those_that_settings_take():
    commented, seen = commented_choices(), set()
    for file, key, named in commented:
        if key == "model.attn_implementation":
            continue  # transformers has more
        (end,) = [end for end in CHOICES if f".{key}".endswith(f".{end}")]
        takes = accepted(CHOICES[end])
        if file == "visualize.yaml" and end == "policy":
            takes -= {"none", "given"}  # nothing to draw; no evidence to read
        assert named == takes, f"{file}: {key}"
        seen.add(end)
    assert seen == CHOICES.keys()


def test_the_users_command_reaches_the_settings():
    run = RunConfig.from_dict(
        composed("prune_ratio=0.3", "frames=64", "policy=random", "seed=7", "checkpoint=x")
    )
    assert (run.stts.prune_ratio, run.stts.policy, run.video.frames) == (0.3, "random", 64)
    assert (run.train.seed, run.checkpoint) == (7, "x")


def test_how_devices_share_the_work_and_what_is_trained_reach_the_settings():
    run = RunConfig.from_dict(
        composed(
            "parallel=fsdp",
            "parallel.reshard=false",
            "train.vit=false",
            "train.lora={rank: 8, targets: [q_proj]}",
        )
    )
    assert run.train.parallel == ParallelConfig("fsdp", reshard=False)
    assert run.train.lora == LoraSettings(rank=8, targets=("q_proj",))
    assert run.train.rates == dataclasses.replace(run.train.lr, vision=0.0)
    assert RunConfig.from_dict(composed()).train.parallel == ParallelConfig("ddp")
    for override, message in (
        ("parallel.name=tensor", "parallel.name is 'tensor', must be ddp or fsdp"),
        ("train.lora={ranks: 8}", r"train.lora.ranks is not a setting; did you mean train.lora.rank\?"),
    ):
        with pytest.raises(ValueError, match=message):
            RunConfig.from_dict(composed(override))


def test_runs_of_a_sweep_get_folders_of_their_own():
    sweeps = itertools.product(
        ("prune_ratio=0", "prune_ratio=0.5"), ("policy=scorer", "policy=random"), ("frames=8", "seed=1")
    )
    folders = {composed(*overrides)["output_dir"] for overrides in sweeps}
    assert len(folders) == 8


def test_help_explains_every_key():
    explained = {line.split()[0]: line for line in explain("train").splitlines() if line.startswith("  ")}
    missing = set(flatten(composed())) - explained.keys()
    assert {key for key in missing if not key.startswith("benchmark.")} == set()
    for key, _, meaning in documented_keys((CONFIG_DIR / "train.yaml").read_text()):
        assert len(meaning) > 8 or key.startswith("train.lr."), key
    for name in (*MODELS, "videomme", "jsonl", "quick", "molmo2_4b_video_50"):
        assert name in explained
    assert "  arms " in explain("accuracy")  # as it is set: preset= is no part of its keys' names
    assert "preset.arms" not in explain("accuracy")


def test_documented_keys_reads_nested_keys_and_both_kinds_of_comments():
    text = "# file\n# more\na: 1 # one\nb:\n  # above\n  c: 'x # y'\n  d: null\nhydra:\n  run: {dir: .}\n"
    assert list(documented_keys(text)) == [
        ("a", "1", "one"),
        ("b.c", "'x # y'", "above"),
        ("b.d", "null", ""),
    ]


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = dataclasses.field(default_factory=Inner)
    limit: int | None = None
    names: str | tuple[str, ...] = ()


def test_from_dict_builds_nested_dataclasses():
    built = from_dict(Outer, {"count": 2, "inner": {"rate": 1}, "names": ["a", "b"]})
    assert built == Outer(2, Inner(1.0), None, ("a", "b"))
    assert isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 1}, r"^g\.cuont is not a setting; did you mean g\.count\?$"),
        ({"count": 1, "inner": {"xyz": 1}}, r"^g\.inner\.xyz is not a setting; known: rate$"),
        ({}, r"^g\.count is missing$"),
        ({"count": "3"}, r"^g\.count is '3', must be int$"),
        ({"count": True}, r"^g\.count is True, must be int$"),
        ({"count": 1.5}, r"^g\.count is 1\.5, must be int$"),
        ({"count": 1, "limit": "x"}, r"^g\.limit is 'x', must be int or null$"),
        ({"count": 1, "inner": None}, r"^g\.inner is None, must be Inner$"),
        ({"count": 1, "inner": {"rate": "1e"}}, r"^g\.inner\.rate is '1e', must be float$"),
        ("text", r"^g is 'text', must be a group of settings$"),
    ],
)
def test_from_dict_names_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Outer, values, "g")


def script_main():
    spec = importlib.util.spec_from_file_location("train_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def run_script(monkeypatch, tmp_path: Path, *arguments: str) -> int:
    """The script in this process, in an empty folder. Returns its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        launch(script_main(), "train")
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prune_ratio=1.0", "prune_ratio is 1.0, must be in [0, 1)"),
        ("prune_ratio=-0.1", "prune_ratio is -0.1, must be in [0, 1)"),
        ("prune_ratio=half", "prune_ratio is 'half', must be float"),
        ("frames=0", "frames is 0, must be at least 1"),
        ("frames=many", "frames is 'many', must be int"),
        ("prune_ration=0.5", "did you mean prune_ratio?"),
        ("+prune_ration=0.5", "did you mean prune_ratio?"),
        ("train.max_step=5", "did you mean train.max_steps?"),
        ("+train.max_step=5", "did you mean train.max_steps?"),
        ("+video.fps=5", "fps is not a setting"),
        ("+stts.insert_before=2", "insert_before is not a setting"),
        ("policy=best", "policy is 'best'"),
        ("model=molmo3", "molmo2_4b"),
        ("model=small", "model=small is gone"),
        ("train.max_steps=0", "train.max_steps is 0"),
        ("train.lr.scorer=-1", "train.lr.scorer is -1.0"),
        ("video.backend=vlc", "video.backend is 'vlc'"),
        ("video.max_fps=0", "video.max_fps is 0.0"),
        ("data=jsonl", "data.annotations"),
        ("eval.mode=guess", "eval.mode is 'guess'"),
        ("wandb.mode=on", "wandb.mode is 'on'"),
        ("checkpoint=nowhere", "checkpoint is 'nowhere': no such folder"),
        ("model.path=no/such/folder", "model.path is 'no/such/folder': no such folder"),
    ],
)
def test_mistakes_are_told_in_one_message_and_nothing_is_written(
    monkeypatch, tmp_path, capsys, argument, message
):
    assert run_script(monkeypatch, tmp_path, "model.path=not/used", argument, "model.name=other") == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "outputs").exists()


def test_help_and_full_errors(monkeypatch, tmp_path, capsys):
    assert run_script(monkeypatch, tmp_path, "--help") == 0
    assert "share of each video's windows to drop" in capsys.readouterr().out
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="frames is 0"):
        run_script(monkeypatch, tmp_path, "frames=0")


def test_a_mistake_is_found_before_torch_is_loaded(tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['train.py', 'prune_ratio=2']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.stdout.strip() == "2 False", done.stderr


def small(clips: Path, tiny_folder: Path, **changes: Any) -> list[str]:
    settings = {
        "data": "jsonl",
        "data.annotations": clips / "train.jsonl",
        "data.test_annotations": clips / "test.jsonl",
        "model.path": tiny_folder,
        "frames": 3,
        "train.batch_size": 2,
        "train.max_steps": 2,
        "train.num_workers": 0,
    }
    return [f"{key}={value}" for key, value in (settings | changes).items()]


def test_a_sweep_trains_saves_its_settings_evaluates_and_is_finished_the_second_time(
    monkeypatch, tmp_path, capsys, clips, tiny_folder
):
    arguments = small(clips, tiny_folder, **{"prune_ratio": "0,0.5", "train.eval_every": 2, "eval.limit": 4})
    assert run_script(monkeypatch, tmp_path, *arguments, "-m") == 0
    folders = {
        ratio: tmp_path / f"outputs/train/tiny-jsonl-scorer-{ratio}-f3-seed0" for ratio in ("0", "0.5")
    }
    for ratio, folder in folders.items():
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        assert settings["prune_ratio"] == float(ratio)
        assert settings["train"]["lr"]["llm"] == 1e-3  # resolved
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2]
        assert (folder / "model" / "config.json").exists()
        evaluation = json.loads((folder / "eval.jsonl").read_text())
        assert evaluation["step"] == 2
        assert 0 <= evaluation["accuracy"] <= 1
        assert evaluation["n"] == 4
    capsys.readouterr()
    arguments = small(clips, tiny_folder, prune_ratio=0.5)
    assert run_script(monkeypatch, tmp_path, *arguments) == 0
    assert "finished already" in capsys.readouterr().out
    assert run_script(monkeypatch, tmp_path, *arguments, "train.weight_decay=0") == 2
    assert "train.weight_decay=0.02, this one has train.weight_decay=0" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, clips, tiny_folder):
    changes = {
        "train.max_steps": 1000,
        "train.num_workers": 2,
        "train.save_every": 0,
        "output_dir": tmp_path / "run",
    }
    command = [sys.executable, str(SCRIPT), *small(clips, tiny_folder, **changes)]
    metrics = tmp_path / "run" / "metrics.jsonl"

    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the loader's processes get it, too
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 130, out
    assert "Run the same command again to go on" in out
    assert "Traceback" not in out
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert newest_checkpoint(tmp_path / "run").name == f"step-{len(steps):07d}"


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(monkeypatch, tmp_path, clips, tiny_folder):
    single, double = tmp_path / "single", tmp_path / "double"
    quiet = {"stts.score_noise": 0}  # which each process would draw for itself
    assert run_script(monkeypatch, tmp_path, *small(clips, tiny_folder, output_dir=single, **quiet)) == 0
    split = quiet | {"output_dir": double, "train.batch_size": 1, "parallel": "fsdp"}
    arguments = small(clips, tiny_folder, **split)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes, the model sharded" in done.stdout
    for one, two in zip(
        *((folder / "metrics.jsonl").read_text().splitlines() for folder in (single, double)), strict=True
    ):
        one, two = json.loads(one), json.loads(two)
        for key in ("loss", "lm_loss", "aux_loss", "grad_norm", "kept", "score_mean", "score_std"):
            assert two[key] == pytest.approx(one[key], rel=1e-4), key
