"""The description that docs/hosts.md shows does what that of the library does."""

from __future__ import annotations

import re

import torch
from torch import nn

from stts import STTSConfig, insert_stts
from stts.hosts.base import Host
from tests.helpers.hosts import rows
from tests.helpers.paths import ROOT


def documented(name: str) -> type[Host]:
    """The class that docs/hosts.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "hosts.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if f"class {name}(" in block)
    assert len(code.splitlines()) <= 30
    found: dict[str, type[Host]] = {}
    exec(code, found)
    return found[name]


@torch.no_grad()
def test_the_example_prunes_as_the_host_that_comes_with_stts():
    (row,) = [row for row in rows() if row.name == "internvl"]
    ours = row.pruned(prune_ratio=0.5)
    theirs = insert_stts(row.plain(), STTSConfig(prune_ratio=0.5), documented("InternVL"))
    nn.Module.load_state_dict(theirs, ours.state_dict())
    inputs = row.batch()
    assert torch.equal(theirs(**inputs).logits, ours(**inputs).logits)
    answer = theirs.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(answer, ours.generate(**inputs, max_new_tokens=4, do_sample=False))
