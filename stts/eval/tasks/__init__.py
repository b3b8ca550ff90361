"""Benchmarks: one YAML each in configs/benchmark, which a loader here turns into questions."""

from __future__ import annotations

from .base import BenchmarkSpec, Fields, Question

__all__ = ["BenchmarkSpec", "Fields", "Question"]
