"""The shipped tiny Molmo2 says what it has always said: logits, losses, gradients, replies."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.known_results import FILE, SETTINGS, numbers, tensors


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return load_file(FILE)


@pytest.mark.parametrize("name", SETTINGS)
def test_results_are_those_of_before(stored, name: str):
    found = numbers(tensors(name))
    expected = {key.removeprefix(f"{name}/"): x for key, x in stored.items() if key.startswith(f"{name}/")}
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        if not x.is_floating_point():
            assert torch.equal(found[key], x), key
            continue
        size = float(x.abs().max())
        torch.testing.assert_close(found[key], x, rtol=1e-6, atol=1e-6 * size, msg=f"{name} {key}")
