"""python scripts/plan.py model=molmo2_4b frames=128 parallel=fsdp gpus=8: will it fit, and how long will it take?"""

from __future__ import annotations

from typing import Any

from stts.settings.launch import launch
from stts.settings.typed import from_dict


def main(config: dict[str, Any]) -> None:
    """Count a step with and without pruning, and say what that means on each card."""
    from stts.train.run_config import PlanConfig, RunConfig

    asked = from_dict(PlanConfig, {key: config.pop(key) for key in ("gpus", "examples", "lengths", "rates")})
    run = RunConfig.from_dict(config)

    import warnings

    from rich.console import Console

    from stts.plan.cost import advice, plan
    from stts.plan.gpus import fits, read_gpus
    from stts.plan.lengths import alike, read_lengths
    from stts.plan.memory import Setup
    from stts.plan.models import ANSWER, FAMILIES, config_of
    from stts.plan.report import print_cards, print_feed, print_plans

    warnings.filterwarnings("ignore", category=FutureWarning)
    gpus, measured = read_gpus(asked.rates)
    model = config_of(run.model, run.checkpoint)
    shape = FAMILIES[model.model_type].shape(model, run.video.frames)
    examples = alike(shape, asked.examples)
    if asked.lengths:
        examples = read_lengths(asked.lengths, model, run.video.frames)
    setup = Setup(run.train.parallel.name, asked.gpus, run.train.batch_size, run.train.gradient_checkpointing)
    ratios = dict.fromkeys((run.stts.prune_ratio, 0.0))
    plans = [plan(model, run.stts.replace(prune_ratio=ratio), examples.longest, setup) for ratio in ratios]
    shares = [examples.mean(model, ratio, ANSWER) for ratio in ratios]

    console = Console(highlight=False)
    print_plans(console, plans)
    print_cards(console, plans, gpus, measured, examples, shares)
    print_feed(console, plans[0], gpus, examples, shares[0], FAMILIES[model.model_type].frames_of_unit(model))
    tightest = next((gpu for gpu in gpus.values() if fits(plans[0].gigabytes(), gpu) != "yes"), None)
    if tightest is not None:
        name = next(name for name, gpu in gpus.items() if gpu is tightest)
        console.print(f"to fit a {name}:")
        for line in advice(model, run.stts, examples.longest, plans[0], tightest):
            console.print(f"  {line}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    launch(main, "plan")
