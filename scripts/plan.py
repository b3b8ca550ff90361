"""python scripts/plan.py model=molmo2_4b frames=128 parallel=fsdp gpus=8: will it fit, and how long will it take?"""

from __future__ import annotations

from typing import Any

from stts.settings.launch import launch
from stts.settings.typed import from_dict


def main(config: dict[str, Any]) -> None:
    """Count a step with and without pruning, and say what that means on each card."""
    import dataclasses

    from stts.train.run_config import PlanConfig, RunConfig

    keys = [field.name for field in dataclasses.fields(PlanConfig)]
    asked = from_dict(PlanConfig, {key: config.pop(key) for key in keys})
    run = RunConfig.from_dict(config)

    import warnings

    from rich.console import Console

    from stts.plan.cost import advice, plan
    from stts.plan.gpus import fits, read_gpus
    from stts.plan.lengths import alike, read_lengths
    from stts.plan.models import ANSWER, find_model
    from stts.plan.report import print_cards, print_evaluation, print_feed, print_plans
    from stts.train.planned import adapters_for, setup_of

    warnings.filterwarnings("ignore", category=FutureWarning)
    gpus, measured = read_gpus(asked.rates)
    model = find_model(run.model, run.checkpoint)
    examples = alike(model.shape(run.video.frames, asked.frame_size), asked.examples)
    if asked.lengths:
        examples = read_lengths(asked.lengths, model, asked.frame_size)
    ways = [run.stts.replace(prune_ratio=ratio) for ratio in dict.fromkeys((run.stts.prune_ratio, 0.0))]
    setup = setup_of(run, asked, examples.longest, model.frames_of_unit)
    plans = [plan(model, stts, examples.longest, setup) for stts in ways]
    shares = [examples.mean(model, stts, ANSWER) for stts in ways]

    console = Console(highlight=False)
    print_plans(console, plans)
    print_cards(console, plans, gpus, measured, examples, shares)
    print_feed(console, plans[0], gpus, examples, shares[0], model.frames_of_unit)
    if run.train.eval_every:
        print_evaluation(console, plans[0])
    tightest = next((gpu for gpu in gpus.values() if fits(plans[0].gigabytes(), gpu) != "yes"), None)
    if tightest is not None:
        name = next(name for name, gpu in gpus.items() if gpu is tightest)
        console.print(f"to fit a {name}:")
        for line in advice(model, run.stts, examples.longest, plans[0], tightest, adapters_for(run.train)):
            console.print(f"  {line}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    launch(main, "plan")
