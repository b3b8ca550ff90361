"""Benchmarks: one YAML each in configs/benchmark, which a loader here turns into questions."""

from __future__ import annotations

from .benchmark import Benchmark, BenchmarkGroup, DataBenchmark, Fields, TableBenchmark, read_benchmark
from .question import Question

__all__ = [
    "Benchmark",
    "BenchmarkGroup",
    "DataBenchmark",
    "Fields",
    "Question",
    "TableBenchmark",
    "read_benchmark",
]
