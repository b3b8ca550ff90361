"""Tests that take minutes: run where somebody asks for them, with STTS_LONG=1."""

from __future__ import annotations

import os

import pytest

LONG = bool(os.environ.get("STTS_LONG"))
long = pytest.mark.skipif(not LONG, reason="takes minutes: run with STTS_LONG=1")
