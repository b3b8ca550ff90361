"""python scripts/check_data.py data=jsonl data.annotations=train.jsonl: look the data of a run over before it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stts.data.load import prepare_data
from stts.settings.launch import launch
from stts.settings.next_command import suggest
from stts.settings.typed import from_dict
from stts.train.run_config import CheckConfig, RunConfig


def main(config: dict[str, Any]) -> int:
    """Print what is wrong and how long an epoch is; 1 when training would not go through."""
    check = from_dict(CheckConfig, config.pop("check"), "check")
    run = RunConfig.from_dict(config)
    prepare_data(run.data)

    from rich.console import Console

    from stts.data.check import check_data, measure_epoch, write_lengths
    from stts.data.check_report import print_context, print_epoch, print_problems, print_sizes
    from stts.data.feed.budget import Budget
    from stts.hosts.load import load_processor

    console, train = Console(highlight=False), run.train.for_devices(check.processes)
    processor = load_processor(run.model, run.stts, run.checkpoint)
    workers = (train.num_workers, check.limit, check.decode)
    findings, order = check_data(run.data, processor, run.stts, run.video, *workers)
    good = print_problems(console, findings, run.data.max_bad_fraction)
    if check.output:
        Path(check.output).write_text("".join(f"{problem}\n" for problem in findings.wrong), encoding="utf-8")
    if not findings.measured:
        return 1
    if check.lengths:
        write_lengths(findings, Path(check.lengths))
    budget = Budget(train.max_tokens, train.max_frames)
    epoch = measure_epoch(findings, order, budget, train.batch_size, train.pack_buffer)
    print_sizes(console, findings, run.stts.prune_ratio)
    print_context(console, findings, processor.context_length, run.stts.position_ids)
    estimated = len(findings.measured) + len(findings.unreadable) < order.num_examples
    passes = train.grad_accumulation * check.processes
    print_epoch(console, epoch, budget, passes, train.pack_buffer > 0, estimated)
    if not good or (epoch.too_long and train.too_long == "error"):
        return 1
    suggest("train", [argument for argument in sys.argv[1:] if not argument.startswith("check.")])
    return 0


if __name__ == "__main__":
    launch(main, "check_data")
