"""python scripts/sweep.py checkpoint=RUN/model frames=[32,64] prune_ratio=[0,0.5]; --help explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts.eval.config import warn_if_untrained
from stts.eval.plan import folder_of, plan_run
from stts.eval.sweep.config import SweepConfig, cell_config, made_of
from stts.eval.sweep.pareto import name_cell
from stts.eval.sweep.results import finish_sweep
from stts.hosts.folders import ModelSpec, find_folder
from stts.hosts.load import load_model
from stts.processes import refuse_lone_process
from stts.pruning.config import STTSConfig
from stts.settings.launch import launch
from stts.settings.next_command import suggest
from stts.settings.run_names import named_after_weights
from stts.settings.typed import from_dict
from stts.train.run_folder import write_settings


def main(config: dict[str, Any]) -> None:
    """Settings and files of every cell first, then the model, then cell by cell."""
    config = named_after_weights(config)
    lists = {key: config[key] for key in ("frames", "prune_ratio", "policy")}
    grid = {key: value if isinstance(value, list) else [value] for key, value in lists.items()}
    sweep = from_dict(SweepConfig, grid | config.pop("sweep"))
    spec = from_dict(ModelSpec, config["model"], "model")
    folder = Path(folder_of(config, config["benchmark"]["name"]))
    cells = [cell_config({**config, "output_dir": str(folder)}, *cell) for cell in sweep.cells()]
    pruning = [from_dict(STTSConfig, made_of(cell)) for cell in cells]
    model_folder = find_folder(spec, config["checkpoint"])
    warn_if_untrained(max(pruning, key=lambda stts: stts.prune_ratio), model_folder)
    runs = [plan_run(cell, spec, stts) for cell, stts in zip(cells, pruning, strict=True)]

    import torch

    from stts.eval.runner import evaluate
    from stts.eval.sweep.cost import cost_of
    from stts.processes import join_processes

    processes = join_processes()
    if processes.num_processes > 1:
        processes.print(f"{processes.num_processes} processes")
    torch.manual_seed(config["seed"])  # of the scorer of a model that has none yet
    model, processor = load_model(spec, pruning[0], config["checkpoint"])
    model.to(processes.device)
    costs = []
    for run, cell, stts in zip(runs, cells, pruning, strict=True):
        processes.print(name_cell(cell["frames"], stts.prune_ratio, stts.policy))
        model.stts = model.stts.replace(prune_ratio=stts.prune_ratio, policy=stts.policy)
        if processes.is_main_process:
            write_settings(run.folder, cell)
        evaluate(model, processor, run.questions, run.settings, run.folder, processes)
        if processes.is_main_process:
            costs.append(cost_of(model, processor, run, sweep))
        processes.wait_for_everyone()
    if processes.is_main_process:
        name = config["checkpoint"] or spec.name
        finish_sweep(folder, cells, runs, costs, sweep, {"benchmark": runs[0].benchmark.name, "model": name})
        suggest("report", runs=[str(folder)])


if __name__ == "__main__":
    refuse_lone_process()
    launch(main, "sweep")
