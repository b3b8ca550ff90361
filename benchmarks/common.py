"""What every benchmark needs: arguments, timing, peak memory, facts about the machine, a JSON file and a table."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from stts.files.durable import write_whole

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("stts", "torch", "transformers", "numpy", "av", "decord")
Step = Callable[[], Any]


def parser(description: str, device: str = "cpu", repeats: int = 5) -> argparse.ArgumentParser:
    """With the arguments that all benchmarks take."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--device", default=device, help="cpu, cuda, cuda:1, ... (default %(default)s)")
    found.add_argument("--threads", type=int, default=1, help="on a CPU")
    found.add_argument("--repeats", type=int, default=repeats)
    found.add_argument("--output", type=Path, default=RESULTS, help="folder")
    return found


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def on_cuda(device: str) -> bool:
    return device.startswith("cuda")


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Set the threads; returns the facts about the machine, load included, as they are before the first run."""
    if on_cuda(args.device):
        if (index := torch.device(args.device).index) is not None:
            torch.cuda.set_device(index)
    else:
        torch.set_num_threads(args.threads)
    return machine(args.device)


@dataclass(frozen=True)
class Timing:
    """Median seconds over the repeats, and every repeat. `seconds` is what speed-ups are computed from: CPU time
    of the process on a CPU, where other load must not count, and event time on CUDA."""

    seconds: float
    wall: float
    repeats: list[float]


def measure(
    steps: Mapping[str, Step], device: str = "cpu", repeats: int = 5, warmup: int = 1
) -> dict[str, Timing]:
    """Time each step `repeats` times after `warmup` unmeasured ones, in turns, so that drift meets all alike."""
    for _ in range(warmup):
        for step in steps.values():
            step()
    runs = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            gc.collect()
            runs[name].append(_time_once(step, device))
    return {
        name: Timing(median(s for s, _ in run), median(w for _, w in run), [round(s, 6) for s, _ in run])
        for name, run in runs.items()
    }


def _time_once(step: Step, device: str) -> tuple[float, float]:
    """Seconds of the device and of the clock on the wall."""
    if not on_cuda(device):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        return time.process_time() - cpu, time.perf_counter() - wall
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    wall = time.perf_counter()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000, time.perf_counter() - wall


def peak_memory(step: Step, device: str = "cpu") -> int | None:
    """Bytes that a step needs at its peak beyond what is held before it.

    On a CPU the growth of the resident set, which Linux alone tells; None elsewhere.
    """
    gc.collect()
    if on_cuda(device):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    _return_freed_memory()
    reset.write_text("5")  # sets the peak to the present size
    before = _status("VmRSS")
    step()
    return max(_status("VmHWM") - before, 0)


def peak_if_it_fits(step: Step, device: str) -> int | str | None:
    """As peak_memory, or "out of memory"."""
    try:
        return peak_memory(step, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"


def _return_freed_memory() -> None:
    """Hand freed blocks back to the system, which glibc otherwise keeps resident and uses again unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where and with what the numbers were measured."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    if on_cuda(device):
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        facts["gpu_memory"] = torch.cuda.get_device_properties(torch.device(device)).total_memory
    return facts


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        fields = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
        name = next((v.strip() for k, v in fields.items() if k.strip() == "model name"), None)
        if name:
            return name
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_results(
    name: str, args: argparse.Namespace, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> Path:
    """Write <args.output>/<name>-<kind of device>.json: settings, machine, rows. Returns its path."""
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{name}-{args.device.split(':')[0]}.json"
    settings = {key: value for key, value in vars(args).items() if key not in ("output", "name")}
    content = {"benchmark": name, "settings": settings, "machine": dict(facts), "rows": list(rows)}
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def run_steps(steps: Mapping[str, Step], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Time and peak memory of each step, as the fields of its row. The pass that measures memory warms up."""
    peaks = {name: peak_memory(step, args.device) for name, step in steps.items()}
    timings = measure(steps, args.device, args.repeats, warmup=0)
    return {name: timing_fields(timings[name]) | {"peak_bytes": peaks[name]} for name in steps}


def timing_fields(timing: Timing) -> dict[str, Any]:
    """A Timing as JSON, rounded to microseconds."""
    fields = asdict(timing)
    return fields | {key: round(fields[key], 6) for key in ("seconds", "wall")}


def milliseconds(seconds: float, digits: int = 1) -> str:
    """For a table."""
    return f"{seconds * 1e3:.{digits}f}"


def rounded(value: float | None, digits: int = 2) -> str | None:
    """For a table; None stays None."""
    return None if value is None else f"{value:.{digits}f}"


def megabytes(size: int | None) -> str | None:
    """For a table; None stays None."""
    return None if size is None else f"{size / 1e6:.1f}"


def now(device: torch.device) -> float:
    """CPU seconds of the process; on CUDA seconds on the wall once the device is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Numbers to the right, None as a dash; floats as given, so round or format them first."""
    table = Table(caption=title, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    Console(width=118).print(table)
