"""Kill a training run again and again, resume it with the same command, and see that nothing is lost.

    python benchmarks/soak.py                                    # 10 cycles
    python benchmarks/soak.py --cycles 200 --out outputs/soak    # as reported in docs/reliability.md

One run is left alone. Then the same run is started over and over and disturbed each time: kill -9 at a random
moment, kill -9 at a random file operation inside its folder (so that every line between two renames gets its turn),
or SIGTERM. Now and then a file of its newest checkpoint is damaged while it is down. Whenever a run comes to its end,
its losses and weights must equal those of the run that was left alone bit for bit, and a new run begins.

Every start is a process of its own in which the main function of scripts/train.py runs, forked from a parent that has
imported what takes long but has not computed anything. Writes soak.json after each cycle.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stts.files.durable import write_whole
from stts.files.jsonl import read_jsonl

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a pool of threads does not survive a fork
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "train.py"
# clocks, and what a process remembers only while it lives
TIMED = ("seconds", "tokens_per_s", "data_wait", "churn")
KINDS = {"kill -9 at a moment": 5, "kill -9 at a file operation": 4, "SIGTERM": 2}  # and their weights
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
ENDINGS = {  # exit statuses that are in order, for each of them
    "kill -9 at a moment": (0, -signal.SIGKILL),
    "kill -9 at a file operation": (0, -signal.SIGKILL),
    "SIGTERM": (0, -signal.SIGTERM),  # the signal itself: it came before there was anything to save
    None: (0,),
}
MAX_FILE_EVENTS = 500
"""A run has about 510 file operations in its folder."""
DAMAGE_SHARE = 0.15
LATEST = 0.4
"""Signals come up to this share of an undisturbed run after the start."""
STEPS, KEEP = 16, 3


@cache
def settings(output_dir: Path, data: Path, num_workers: int) -> dict[str, Any]:
    """What scripts/train.py is given: the tiny model, a few steps on a handful of clips."""
    changes = [
        f"output_dir={output_dir}",
        f"data.folder={data}",
        *(
            "data.num_train=8",
            "data.num_test=1",
            "data.slots=4",
            "data.max_events=3",
            "data.questions_per_clip=4",
        ),
        *("frames=4", "train.batch_size=2", f"train.max_steps={STEPS}", "train.warmup_steps=4"),
        *("train.save_every=2", f"train.keep={KEEP}", f"train.num_workers={num_workers}"),
    ]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose("train", changes), resolve=True, throw_on_missing=True)


def preload() -> None:
    """Import what training imports, and start no thread."""
    import stts.data
    import stts.hosts.molmo2
    import stts.train.loop
    import stts.viz.figure  # noqa: F401


def start(run: dict[str, Any], log: Path, kill_at: int | None = None) -> int:
    """Fork a process that runs scripts/train.py with these settings; returns its id.

    kill_at: it kills itself before its n-th file operation in the folder of the run.
    """
    if child := os.fork():
        return child
    code = 70  # of a bug in the lines below
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if kill_at is not None:
            sys.addaudithook(killer(kill_at, run["output_dir"]))
        code = runpy.run_path(str(SCRIPT))["main"](run)
    except SystemExit as end:  # how SIGTERM ends a run that has nothing to save yet
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def killer(count: int, folder: str) -> Any:
    """An audit hook that kills the process with its count-th file operation below a folder."""
    left = count

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in FILE_EVENTS and arguments and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def wait(child: int) -> int:
    """Exit status of a process: negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturb(kind: str | None, run: dict[str, Any], log: Path, longest: float, rng: random.Random) -> int:
    """Start a run and stop it in one of the ways of KINDS, or leave it alone; returns its exit status."""
    if kind is None:
        return wait(start(run, log))
    if kind == "kill -9 at a file operation":
        return wait(start(run, log, rng.randint(1, MAX_FILE_EVENTS)))
    child = start(run, log)
    time.sleep(rng.uniform(0, longest))
    os.kill(child, signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)  # a zombie takes no harm
    return wait(child)


def damage_newest(run: Path, rng: random.Random) -> str | None:
    """Truncate or remove a file of the newest checkpoint, if there is one before it and the run still needs them;
    returns what was done."""
    from stts.train.run_folder import checkpoints

    whole = checkpoints(run)
    if len(whole) < 2 or (run / "model").is_dir():  # a finished run reads no checkpoint again
        return None
    files = sorted(path for path in whole[-1].rglob("*") if path.is_file() and path.name != "progress.json")
    path, how = rng.choice(files), rng.choice(("truncated", "removed"))
    if how == "removed":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    return how


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what is measured by a clock; a torn or doubled row would show."""
    found = read_jsonl(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMED} for row in found]


def differences(run: Path, reference: Path) -> list[str]:
    """What distinguishes a finished run from the one that was left alone; must be nothing."""
    from stts.train.checkpoint import check_files
    from stts.train.run_folder import checkpoints

    found = []
    if rows(run) != rows(reference):
        found.append("metrics.jsonl")
    for name in ("model", f"checkpoints/step-{STEPS:07d}/model"):
        weights = Path(name) / "model.safetensors"
        if (run / weights).read_bytes() != (reference / weights).read_bytes():
            found.append(str(weights))
    if len(checkpoints(run)) != KEEP:
        found.append(f"{len(checkpoints(run))} checkpoints, not {KEEP}")
    for folder in checkpoints(run):
        check_files(folder)
    leftovers = [p.name for p in (*run.iterdir(), *(run / "checkpoints").iterdir()) if p.name.startswith(".")]
    return found + leftovers


def soak(cycles: int, out: Path, seed: int) -> dict[str, Any]:
    """Stop runs `cycles` times; returns what soak.json holds. Raises SystemExit when a run does not go on."""
    rng, data, alone = random.Random(seed), out / "data", out / "alone"
    began = time.perf_counter()
    if code := wait(start(settings(alone, data, 0), out / "alone.txt")):
        sys.exit(f"the run that was left alone ended with status {code}: see {out / 'alone.txt'}")
    longest = LATEST * (time.perf_counter() - began)
    figures = {"cycles": 0, "runs": 0, "steps_per_run": STEPS, "seed": seed, "differences": []}
    events, run = Counter(), out / "run-000"
    while figures["cycles"] < cycles or run.exists():
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0] if figures["cycles"] < cycles else None
        log = run.with_suffix(".txt")
        code = disturb(kind, settings(run, data, figures["runs"] % 2), log, longest, rng)
        if code not in ENDINGS[kind]:
            sys.exit(f"{run.name} ended with status {code} after {kind}: see {log}")
        if code == 0 and (run / "model").is_dir():  # it came to its end before it was stopped
            figures["runs"] += 1
            figures["differences"] += [f"{run.name}: {what}" for what in differences(run, alone)]
            shutil.rmtree(run)
            run = out / f"run-{figures['runs']:03d}"
        else:
            figures["cycles"] += 1
            events[f"{kind}, which saved and ended with 0" if code == 0 else kind] += 1
            if rng.random() < DAMAGE_SHARE and (what := damage_newest(run, rng)):
                events[f"newest checkpoint damaged: file {what}"] += 1
        figures |= {
            "events": dict(sorted(events.items())),
            "resumed": count_in_logs(out, "resuming after step"),
            "fallbacks": count_in_logs(out, "going on from"),
            "minutes": round((time.perf_counter() - began) / 60, 1),
        }
        write_whole(out / "soak.json", json.dumps(figures, indent=1) + "\n")
        print(
            f"{figures['cycles']} of {cycles} cycles, {figures['runs']} runs: {kind}, status {code}",
            flush=True,
        )
    return figures


def count_in_logs(out: Path, words: str) -> int:
    """How often the runs said something."""
    return sum(path.read_text().count(words) for path in out.glob("run-*.txt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=10, help="times a run is stopped")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/soak"), help="emptied first if soak.py made it"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = options.out.absolute()
    if out.exists() and any(out.iterdir()) and not (out / "alone.txt").exists():
        sys.exit(f"{out} holds something else; give an empty folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    preload()
    figures = soak(options.cycles, out, options.seed)
    print(json.dumps(figures, indent=1))
    sys.exit(1 if figures["differences"] else 0)


if __name__ == "__main__":
    main()
