"""Which part of a model computes, and for how long: told by hooks on its blocks, its adapter and its layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Seconds:
    """What the parts of one answer took. ViT: from its first block to its last, scoring and pruning included."""

    vit: float = 0.0
    adapter: float = 0.0
    llm: float = 0.0
    """Of the prompt; the reply's tokens are counted below."""
    words: float = 0.0

    @property
    def prompt(self) -> float:
        """All that comes before the first word: what pruning makes shorter."""
        return self.vit + self.adapter + self.llm


@contextmanager
def watched(model: nn.Module, tell: Callable[[float], object]) -> Iterator[Seconds]:
    """Inside, the model's parts add up what they take. tell: called before each part, with the share of the prompt
    that is done; what it raises ends the model's work."""
    watch, host = _Watch(model.device, tell), model.host
    blocks, layers = list(nn.ModuleList.__iter__(host.blocks)), list(host.layers)
    parts = {"vit": blocks, "adapter": [model.get_submodule(name) for name in host.adapter_at], "llm": layers}
    watch.total = len(blocks) + len(layers)
    hooks = []
    try:
        for part, modules in parts.items():
            for module in modules:
                last = module is modules[-1]
                hooks.append(module.register_forward_pre_hook(lambda *_, part=part: watch.enter(part)))
                hooks.append(
                    module.register_forward_hook(lambda *_, part=part, last=last: watch.leave(part, last))
                )
        yield watch.seconds
    finally:
        for hook in hooks:
            hook.remove()


class _Watch:
    def __init__(self, device: torch.device, tell: Callable[[float], object]) -> None:
        self.device, self.tell, self.seconds = device, tell, Seconds()
        self.total, self.done, self.prompted = 1, 0, False
        self.since: dict[str, float] = {}
        self.last_block = 0.0
        self.adapters: list[tuple[float, float]] = []
        """When each ended and what it took: some run between the blocks of the ViT."""

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def enter(self, part: str) -> None:
        self.tell(min(1.0, self.done / self.total))
        if part not in self.since:
            self.since[part] = self.now()

    def leave(self, part: str, last: bool) -> None:
        self.done += part != "adapter"
        if part == "vit":
            self.last_block = self.now()  # models may leave out those whose features nobody reads
        elif part == "adapter":
            now = self.now()
            self.adapters.append((now, now - self.since.pop(part)))
        elif last:
            self.end_of_pass(self.now() - self.since.pop(part))

    def end_of_pass(self, spent: float) -> None:
        if self.prompted:
            self.seconds.words += spent
            return
        self.prompted, seconds = True, self.seconds
        seconds.llm, seconds.adapter = spent, sum(took for _, took in self.adapters)
        between = sum(took for ended, took in self.adapters if ended < self.last_block)
        seconds.vit = self.last_block - self.since["vit"] - between if "vit" in self.since else 0.0
