"""What a run tells: metrics.jsonl and eval.jsonl on disk, a bar on the terminal, wandb when asked for."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .metrics import scorer_trouble
from .train_config import WandbConfig

PLAIN_LINES = 20
"""Lines a whole run prints where there is no terminal to draw a bar on."""


class Tracker:
    """Writes the rows of a run; a context manager. Disabled (all processes but the first), it does nothing.

    step: where the run goes on from; later rows of an earlier attempt are dropped.
    """

    def __init__(
        self,
        output_dir: Path,
        max_steps: int,
        step: int = 0,
        wandb: WandbConfig | None = None,
        settings: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.max_steps = max_steps
        self.step = step
        self.wandb_config = wandb or WandbConfig()
        self.settings = dict(settings or {})
        self.enabled = enabled
        self.console = Console(highlight=False, quiet=not enabled)
        self.bar = self.wandb_run = None
        self.troubled = False

    def __enter__(self) -> Tracker:
        if not self.enabled:
            return self
        for name in ("metrics.jsonl", "eval.jsonl"):
            keep_rows(self.output_dir / name, self.step)
        if self.wandb_config.mode != "disabled":
            self.wandb_run = start_wandb(self.wandb_config, self.output_dir, self.settings)
        if self.console.is_terminal:
            self.bar = _progress_bar(self.console)
            self.task = self.bar.add_task("train", total=self.max_steps, completed=self.step, summary="")
            self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.wandb_run:
            self.wandb_run.finish(exit_code=0 if exc_info[0] is None else 1)

    def say(self, text: str) -> None:
        """One line for the reader, above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append one row for each step to metrics.jsonl and show the last one."""
        if not self.enabled or not rows:
            return
        _append(self.output_dir / "metrics.jsonl", rows)
        self._warn(rows[-1])
        for row in rows:
            if self.wandb_run:
                self.wandb_run.log({k: v for k, v in row.items() if v is not None}, step=row["step"])
            if not self.bar and self._is_due(row["step"]):
                self.say(f"step {row['step']}/{self.max_steps}  {_summary(row)}  eta {self._eta(row)}")
        if self.bar:
            self.bar.update(self.task, completed=rows[-1]["step"], summary=_summary(rows[-1]))

    def _warn(self, row: Mapping[str, Any]) -> None:
        """Say once that the scorer is in trouble, and once that it no longer is."""
        trouble = scorer_trouble(row)
        if trouble and not self.troubled:
            self.say(f"warning: at step {row['step']} {trouble}")
        elif self.troubled and not trouble:
            self.say(f"the scorer has recovered at step {row['step']}")
        self.troubled = bool(trouble)

    def log_evaluation(self, step: int, results: Mapping[str, Any]) -> None:
        """Append one row to eval.jsonl."""
        if not self.enabled:
            return
        _append(self.output_dir / "eval.jsonl", [{"step": step, **results}])
        numbers = {k: v for k, v in results.items() if isinstance(v, int | float)}
        if self.wandb_run:
            self.wandb_run.log({f"eval/{k}": v for k, v in numbers.items()}, step=step)
        self.say(f"evaluation at step {step}: " + "  ".join(f"{k} {v:.4g}" for k, v in numbers.items()))

    def _is_due(self, step: int) -> bool:
        return step == self.max_steps or step % math.ceil(self.max_steps / PLAIN_LINES) == 0

    def _eta(self, row: Mapping[str, Any]) -> str:
        minutes, seconds = divmod(round((self.max_steps - row["step"]) * row["seconds"]), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def keep_rows(path: Path, step: int) -> None:
    """Drop the rows of a JSONL file that come after a step, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # the process died while writing this line; nothing follows it
        if row["step"] <= step:
            kept.append(line + "\n")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept))
    partial.replace(path)


def start_wandb(config: WandbConfig, output_dir: Path, settings: Mapping[str, Any]) -> Any:
    """Start a wandb run, or go on with the one this folder belongs to."""
    import wandb

    id_file = output_dir / "wandb_run_id.txt"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    return wandb.init(
        mode=config.mode,
        project=config.project,
        entity=config.entity,
        name=config.name or output_dir.name,
        dir=str(output_dir),
        id=id_file.read_text().strip(),
        resume="allow",
        config=dict(settings),
    )


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _summary(row: Mapping[str, Any]) -> str:
    return (
        f"loss {row['loss']:.4f}  aux {row['aux_loss']:.4f}  kept {row['kept']:.1%}  "
        f"{row['tokens_per_s']:,.0f} tokens/s"
    )


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[summary]}"),
        TimeRemainingColumn(),
        console=console,
    )
