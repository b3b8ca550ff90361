"""python scripts/eval.py benchmark=synthetic prune_ratio=0.5; --help explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts.eval.config import warn_if_untrained
from stts.eval.plan import folder_of, one_by_one, plan_run, print_missing
from stts.eval.report.compare import print_compared
from stts.eval.tasks import BenchmarkGroup, read_benchmark
from stts.hosts.folders import ModelSpec, find_folder
from stts.hosts.load import load_model
from stts.processes import refuse_lone_process
from stts.pruning.config import STTSConfig
from stts.settings.launch import launch
from stts.settings.next_command import of_model, suggest
from stts.settings.run_names import named_after_weights
from stts.settings.typed import from_dict
from stts.train.run_folder import write_settings


def main(config: dict[str, Any]) -> int | None:
    """Settings, then files, then the model: what is wrong is said before what is slow begins."""
    if config["compare"] is not None:
        print_compared(config["compare"])
        suggest("report", runs=config["compare"])
        return None
    config = named_after_weights(config)
    benchmark = read_benchmark(config["benchmark"])
    configs = one_by_one(config)
    if config["check"]:
        return print_missing(configs)
    model_spec = from_dict(ModelSpec, config["model"], "model")
    pruning = {key: config[key] for key in ("prune_ratio", "policy")}
    stts = from_dict(STTSConfig, pruning | config["stts"])
    if config["checkpoint"]:  # a wrong one is told before clips are generated
        find_folder(model_spec, config["checkpoint"])
    runs = [plan_run(config, model_spec, stts) for config in configs]
    warn_if_untrained(stts, find_folder(model_spec, config["checkpoint"]))

    import torch

    from stts.eval.runner import evaluate
    from stts.eval.summary import print_group, print_results
    from stts.processes import join_processes
    from stts.pruning.attention import describe_attention

    processes = join_processes()
    if processes.num_processes > 1:
        processes.print(f"{processes.num_processes} processes")
    torch.manual_seed(config["seed"])  # of the scorer of a model that has none yet
    model, processor = load_model(model_spec, stts, config["checkpoint"])
    model.to(processes.device)
    processes.print(describe_attention(model))
    results = {}
    for run, own in zip(runs, configs, strict=True):
        if processes.is_main_process:
            write_settings(run.folder, own)
        found = evaluate(model, processor, run.questions, run.settings, run.folder, processes)
        results[run.benchmark.name] = found
        if processes.is_main_process:
            print_results(found)
            print(f"written to {run.folder}")
    if isinstance(benchmark, BenchmarkGroup) and processes.is_main_process:
        lengths = {run.benchmark.name: run.benchmark.length for run in runs}
        print_group(benchmark.name, results, lengths, Path(folder_of(config, benchmark.name)))
    if processes.is_main_process:
        suggest("visualize", **of_model(config), video=runs[0].questions[0].video)
    return None


if __name__ == "__main__":
    refuse_lone_process()
    launch(main, "eval")
