"""Tests that take minutes: run where somebody asks for them, with STTS_LONG=1."""

from __future__ import annotations

import os

import pytest

long = pytest.mark.skipif(not os.environ.get("STTS_LONG"), reason="takes minutes: run with STTS_LONG=1")
