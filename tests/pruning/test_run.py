"""The hook: blocks that answer to the run of their thread, and how attention is told."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn

from stts import STTSConfig, STTSScorer
from stts.pruning.blocks import Blocks, Bound
from stts.pruning.handover import Route, aside, carried, hear, told_aside
from stts.pruning.memory import Clips
from stts.pruning.run import Run


class Block(nn.Module):
    """A layer that mixes nothing, so that survivors are easy to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, hidden_states: Tensor, attention_mask=None) -> Tensor:
        self.seen = hidden_states.shape
        hear()
        return hidden_states * self.scale


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Blocks([Block() for _ in range(7)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x, None)
        return x


class Described:
    """Frames of 6 x 6 patches, or of what cells say."""

    def __init__(
        self, vision: Vision, tail: str = "blocks", num_prefix: int = 0, cells=None, size=None
    ) -> None:
        self.vision, self.tail, self.num_prefix = vision, tail, num_prefix
        self._cells, self._size = cells, size

    @property
    def blocks(self):
        return self.vision.layers

    def cells(self, grid):
        return torch.arange(grid[0] * grid[1]) if self._cells is None else self._cells

    def frame_tokens(self, grid):
        return self._size or grid[0] * grid[1]

    def for_survivors(self, kwargs, index):
        return kwargs


def a_run(host: Described, grid=(6, 6), frames=(4, 2), unit: int = 3, dim: int = 8, **stts) -> Run:
    torch.manual_seed(0)
    scorer = STTSScorer(dim, unit, 2)
    return Run(host, Clips(frames, (grid,) * len(frames), unit), STTSConfig(pool_width=unit, **stts), scorer)


def test_outside_of_a_run_blocks_are_a_plain_list():
    vision = Vision()
    plain = nn.ModuleList([Block() for _ in range(7)])
    assert list(vision.layers.state_dict()) == list(plain.state_dict())
    assert all(isinstance(block, Block) for block in vision.layers)
    assert isinstance(vision.layers[0], Block)
    assert isinstance(vision.layers[1:3], Blocks)
    for twin in (copy.deepcopy(vision), pickle.loads(pickle.dumps(vision))):
        assert isinstance(twin.layers, Blocks)


def test_only_its_own_blocks_answer_to_a_run_and_only_in_its_thread():
    vision, other = Vision(), Vision()
    seen = {}
    with a_run(Described(vision)).active():
        bound = list(vision.layers)
        assert all(isinstance(block, Bound) for block in bound)
        assert all(isinstance(block, Bound) for block in vision.layers[2:4])
        assert bound[3].scale is nn.ModuleList.__getitem__(vision.layers, 3).scale  # a block in all else
        assert all(isinstance(block, Block) for block in other.layers)
        with a_run(Described(other)).active():  # one inside the other
            assert all(isinstance(block, Block) for block in vision.layers)
            assert all(isinstance(block, Bound) for block in other.layers)
        assert isinstance(vision.layers[0], Bound)
        thread = threading.Thread(target=lambda: seen.update(blocks=list(vision.layers)))
        thread.start()
        thread.join()
    assert all(isinstance(block, Block) for block in (*vision.layers, *seen["blocks"]))


def test_a_run_that_fails_is_left_behind():
    vision = Vision()
    with (
        pytest.raises(ValueError, match="the vision model got 216 tokens, but videos of"),
        a_run(Described(vision), frames=(5, 2)).active(),
    ):
        vision(torch.randn(6, 36, 8))
    assert all(isinstance(block, Block) for block in vision.layers)


@torch.no_grad()
def test_survivors_come_back_where_they_stood():
    vision, x = Vision(), torch.randn(6, 36, 8)
    run = a_run(Described(vision))
    with run.active():
        out = vision(x)
    assert vision.layers[4].seen == (6, 36, 8)
    assert vision.layers[5].seen == (1, 6 * 18, 8)
    kept = torch.cat([windows.repeat_interleave(9) for windows in run.groups[0].keep.flatten(1)])
    assert kept.sum() == 6 * 18
    alive = out.view(-1, 8).abs().sum(1) > 0
    assert torch.equal(alive, run.running)
    torch.testing.assert_close(out.view(-1, 8)[alive], 128 * x.view(-1, 8)[alive])
    by_window = run.running.view(6, 2, 3, 2, 3).transpose(2, 3).flatten(3).all(3)
    assert torch.equal(by_window.view(6, 4), run.together("keep"))


@torch.no_grad()
def test_windows_may_share_patches_and_leave_some_unread():
    """5 x 5 patches of which LLM tokens read 4 x 4 cells: the middle row and column twice, the last ones never."""
    line = torch.tensor([0, 1, 1, 2])
    cells = (line[:, None] * 5 + line).flatten()
    vision, x = Vision(), torch.randn(5, 26, 8)
    run = a_run(Described(vision, num_prefix=1, cells=cells, size=25), (4, 4), (3, 2), 2, prune_ratio=0.5)
    with run.active():
        out = vision(x)
    unread = [p for p in range(25) if p not in cells.tolist()]
    keep = run.together("keep")
    assert keep.sum() == 20 - 6 - 4
    for frame in range(5):
        squares = cells.view(2, 2, 2, 2).transpose(1, 2).reshape(4, 4)
        read = set(squares[keep[frame]].flatten().tolist())
        alive = run.running.view(5, 26)[frame]
        assert alive[0]
        assert {p for p in range(25) if alive[1 + p]} == read | set(unread)
    kept = run.running.flatten()
    torch.testing.assert_close(out.view(-1, 8)[kept], 128 * x.view(-1, 8)[kept])
    assert kept.sum() <= len(run.index) <= kept.sum() + run.filler


def test_routes_are_read_off_the_signature():
    class Masked(nn.Module):
        def forward(self, hidden_states, position, attention_mask, **kwargs): ...

    class Keyword(nn.Module):
        def forward(self, hidden_states, cu_seqlens, **kwargs): ...

    class Bare(nn.Module):
        def forward(self, hidden_states): ...

    assert Route.of(Masked()) == Route("mask", 1)
    assert Route.of(Keyword()).kind == "keyword"
    assert Route.of(Bare()).kind == "aside"

    def told(x, attention_mask=None, stts=None):
        return x, attention_mask, stts

    assert Route("mask", 0).call(told, 1, (None,), {}, "how") == (1, "how", None)
    assert Route("mask", 0).call(told, 1, (), {}, "how") == (1, "how", None)
    assert Route("mask", 0).call(told, 1, (), {"attention_mask": 3}, "how") == (1, "how", None)
    assert Route("keyword").call(told, 1, (2,), {}, "how") == (1, 2, "how")
    assert Route("aside").call(lambda x: (x, told_aside()), 1, (), {}, "how") == (1, "how")
    assert told_aside() is None


def test_what_is_told_aside_stays_in_its_thread_and_is_carried_into_checkpoints():
    heard = {}
    with aside("first"):
        thread = threading.Thread(target=lambda: heard.update(other=told_aside()))
        thread.start()
        thread.join()
        _, again = carried()
    assert heard["other"] is None
    assert told_aside() is None
    for _ in range(2):
        with again:
            assert told_aside() == "first"


def test_compiled_code_hears_what_it_is_told_aside():
    def layer(x: Tensor) -> Tensor:
        how = told_aside()
        return x if how is None else x + how

    compiled, x = torch.compile(layer, backend="eager", fullgraph=True), torch.zeros(2)
    for how in (None, torch.ones(2), torch.full((2,), 7.0), None):
        with aside(how):
            assert torch.equal(compiled(x), layer(x))


def test_policies_that_act_elsewhere_are_refused():
    with pytest.raises(ValueError, match="policy is 'evs', which drops nothing in a vision model"):
        a_run(Described(Vision()), policy="evs")
    vision = Vision()
    clips = Clips((2, 2), ((6, 6), (3, 6)), 3)
    with pytest.raises(ValueError, match="put_back is True"):
        Run(Described(vision), clips, STTSConfig(pool_width=3, put_back=True), STTSScorer(8, 3, 2))
