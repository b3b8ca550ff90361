"""What a run tells: rows, curves and pictures on disk, a bar on the terminal, wandb when asked for.

In the run's folder: starts.jsonl (a row each time it was started: when, from which step, by which code),
metrics.jsonl (a row a step), eval.jsonl (a row an evaluation), curves.png and overlays/.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..files.durable import append_rows, keep_rows, read_rows
from .config import WandbConfig
from .metrics import relevance_trouble, scorer_trouble
from .provenance import run_provenance
from .run_folder import evaluation_folder

PLAIN_LINES = 20
"""Lines a whole run prints where there is no terminal to draw a bar on."""
SECONDS_BETWEEN_CURVES = 60
"""Curves are not drawn more often than that, however frequent the checkpoints are."""
TABLE_ROWS = 200
"""Predictions of an evaluation that wandb gets at most."""
TABLE_COLUMNS = ("id", "category", "question", "options", "answer", "predicted", "correct", "kept")


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
        self.drawn = time.monotonic()  # when curves.png was; a run that only just began can wait

    def __enter__(self) -> Tracker:
        if not self.enabled:
            return self
        for name in ("metrics.jsonl", "eval.jsonl"):
            keep_rows(self.output_dir / name, self.step)
        start = {"step": self.step} | run_provenance()
        append_rows(self.output_dir / "starts.jsonl", [start])
        if self.wandb_config.mode != "disabled":
            settings = self.settings | {"provenance": start}
            self.wandb_run = start_wandb(self.wandb_config, self.output_dir, settings)
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
        append_rows(self.output_dir / "metrics.jsonl", rows)
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
        trouble = scorer_trouble(row) or relevance_trouble(row)
        if trouble and not self.troubled:
            self.say(f"warning: at step {row['step']} {trouble}")
        elif self.troubled and not trouble:
            self.say(f"the scorer has recovered at step {row['step']}")
        self.troubled = bool(trouble)

    def log_evaluation(self, step: int, results: Mapping[str, Any]) -> None:
        """Append one row to eval.jsonl; wandb also gets the predictions that periodic_evaluation wrote."""
        if not self.enabled:
            return
        append_rows(self.output_dir / "eval.jsonl", [{"step": step, **results}])
        numbers = {k: v for k, v in results.items() if isinstance(v, int | float)}
        if self.wandb_run:
            sent = {f"eval/{k}": v for k, v in numbers.items()}
            predictions = read_rows(evaluation_folder(self.output_dir, step) / "predictions.jsonl")
            if predictions:
                sent["eval/predictions"] = predictions_table(predictions)
            self.wandb_run.log(sent, step=step)
        self.say(f"evaluation at step {step}: " + "  ".join(f"{k} {v:.4g}" for k, v in numbers.items()))

    def log_overlay(self, step: int, draw: Callable[[Path], Path | None]) -> None:
        """Put a picture of what was kept into overlays/. draw: writes it to the path it is given, or returns None."""
        if not self.enabled:
            return
        picture = draw(self.output_dir / "overlays" / f"step-{step:07d}.png")
        if picture is not None and self.wandb_run:
            self.wandb_run.log({"kept_windows": image(picture)}, step=step)

    def draw_curves(self, last: bool = False) -> None:
        """Draw curves.png anew, unless that was done within SECONDS_BETWEEN_CURVES. last: draw it in any case."""
        metrics = self.output_dir / "metrics.jsonl"
        recent = time.monotonic() - self.drawn < SECONDS_BETWEEN_CURVES
        if not self.enabled or (recent and not last) or not metrics.exists():
            return
        from ..viz.curves import draw_curves

        draw_curves(metrics, self.output_dir / "curves.png", self.output_dir / "eval.jsonl")
        self.drawn = time.monotonic()

    def _is_due(self, step: int) -> bool:
        return step == self.max_steps or step % math.ceil(self.max_steps / PLAIN_LINES) == 0

    def _eta(self, row: Mapping[str, Any]) -> str:
        minutes, seconds = divmod(round((self.max_steps - row["step"]) * row["seconds"]), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def predictions_table(predictions: Sequence[Mapping[str, Any]]) -> Any:
    """A wandb table of the first TABLE_ROWS predictions, as in predictions.jsonl."""
    import wandb

    cells = [[_cell(row.get(name)) for name in TABLE_COLUMNS] for row in predictions[:TABLE_ROWS]]
    return wandb.Table(columns=list(TABLE_COLUMNS), data=cells)


def _cell(value: Any) -> Any:
    """Lists become text: a column of a table has one plain type."""
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def image(path: Path) -> Any:
    """A picture for wandb, which copies the file."""
    import wandb

    return wandb.Image(str(path))


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


def _summary(row: Mapping[str, Any]) -> str:
    fill = f"rows {row['fill']:.0%} full  " if "fill" in row else ""
    return (
        f"loss {row['loss']:.4f}  aux {row['aux_loss']:.4f}  kept {row['kept']:.1%}  {fill}"
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
