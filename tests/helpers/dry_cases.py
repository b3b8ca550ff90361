"""What dry_run.py runs without values: training steps of Molmo2 and Qwen3-VL, evaluation, resume, many ranks."""

from __future__ import annotations

import tests.helpers.fake_cuda as fake  # isort: skip  (before anything imports torch)

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes
from transformers import Molmo2Config, Qwen3VLForConditionalGeneration

import stts
import stts.pruning.deciding
import stts.pruning.flex
import stts.pruning.packing
import stts.train.checkpoint
import stts.train.parallel
import stts.train.prepare
import stts.train.trainer
from stts import STTSConfig
from stts.hosts.llm_attention import BLOCK_SPARSE
from stts.hosts.qwen2_5_vl import Qwen25VL
from stts.hosts.qwen2_vl import Qwen2VL
from stts.hosts.qwen3_vl import Qwen3VL
from stts.pruning.config import POLICIES
from stts.pruning.layout import BatchLayout
from stts.pruning.packing import Packing
from stts.pruning.selection import num_dropped
from stts.train.checkpoint import Progress, rng_state, save_checkpoint
from stts.train.config import ParallelConfig, TrainConfig
from stts.train.optim import build_optimizer
from stts.train.trainer import Trainer
from tests.helpers.host_row import IMAGE_ID
from tests.helpers.hosts_flat import qwen3_vl, qwen_inputs
from tests.helpers.molmo2 import IMAGE, PATCH_ID, make_inputs, tiny_config

stts.pruning.flex.compile_friendly_flex_attention = fake.flex
CASES: dict[str, Callable[[], None]] = {}
Batch = dict[str, Any]


def case(name: str, *args: Any, **kwargs: Any) -> Callable:
    """Lists a function, with arguments, as a case."""

    def listed(function: Callable) -> Callable:
        CASES[name] = functools.partial(function, *args, **kwargs)
        return function

    return listed


# --- on the host: batches as the collator makes them ---------------------------------------------------------------


def molmo2_batch(rows: list[list[int | str]], packed: bool = False) -> Batch:
    batch = make_inputs(rows)
    videos = [(row, item) for row, items in enumerate(rows) for item in items if item != IMAGE]
    lengths = batch["attention_mask"].sum(1)
    layout = [tuple(t for _, t in videos), tuple(lengths.tolist()), tuple(row for row, _ in videos)]
    ids = ["image" if IMAGE in items else str(row) for row, items in enumerate(rows)]
    batch |= {"layout": BatchLayout(*layout), "ids": ids}
    if packed:
        place = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
        second, there = place >= lengths[:, None] // 2, batch["attention_mask"] == 1
        batch["sequence_ids"] = second.long().masked_fill(~there, -1)
        batch["position_ids"] = torch.where(second, place - lengths[:, None] // 2, place) * there
    unlabelled = (batch["mm_token_type_ids"] == 1) | (batch["attention_mask"] == 0)
    return batch | {"labels": batch["input_ids"].masked_fill(unlabelled, -100)}


def qwen_batch(videos: list[list[tuple[int, int, int]]]) -> Batch:
    batch = qwen_inputs(videos, pad="right")
    total = [(row, *video) for row, of_row in enumerate(videos) for video in of_row]
    layout = BatchLayout(
        tuple(t for _, t, _, _ in total),
        tuple(batch["attention_mask"].sum(1).tolist()),
        tuple(row for row, *_ in total),
        tuple((height, width) for _, _, height, width in total),
    )
    batch |= {"layout": layout, "ids": [str(row) for row in range(len(videos))]}
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] >= IMAGE_ID, -100)}


# --- on the device: models and steps --------------------------------------------------------------------------------


def small() -> Molmo2Config:
    """Four dense blocks, one biased, one ragged; one layer of an LLM whose heads the kernels of a GPU take."""
    config = tiny_config(blocks=6, feature_layers=(5, 4))
    config.text_config.head_dim, config.text_config.num_hidden_layers = 16, 1
    return config


def molmo2(llm: str = BLOCK_SPARSE, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    config = small()
    config.stts = STTSConfig(**settings).to_dict()
    options = {"dtype": dtype, "attn_implementation": llm}
    with torch.device("cuda"):
        return stts.STTSMolmo2ForConditionalGeneration._from_config(config, **options)


def qwen(**settings: Any) -> nn.Module:
    with unset_fake_temporarily():
        config = qwen3_vl().config
    config.stts = STTSConfig(**settings).to_dict()
    with torch.device("cuda"):
        return stts.pruning(Qwen3VLForConditionalGeneration)._from_config(config, attn_implementation="sdpa")


def on_the_host(function: Callable) -> Callable:
    """As it is, on tensors that have values."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes(), unset_fake_temporarily():
            return function(*args, **kwargs)

    return run


for name in ("count", "num_targets"):
    setattr(stts.train.trainer, name, on_the_host(getattr(stts.train.trainer, name)))
stts.train.trainer.refuse_damaged_weights = lambda model: None  # it reads them all
_grouped = stts.pruning.deciding.grouped


def grouped(host: Any, clips: Any, device: torch.device) -> list[Any]:
    """Sizes are worked out on the host, then sent."""
    groups = on_the_host(_grouped)(host, clips, "cpu")
    for group in groups:
        for field in ("patches", "inverse", "first"):
            value = getattr(group, field)
            setattr(group, field, None if value is None else value.to(device, non_blocking=True))
    return groups


PLANNED: list[Packing] = []


def sent(function: Callable) -> Callable:
    """Of a function of (host, clips, device): what it knows of sizes is worked out on the host, then sent."""

    def known(self: Any, clips: Any, device: torch.device) -> dict[str, Any]:
        found = on_the_host(function)(self, clips, torch.device("cpu"))
        for name, x in found.items():
            if name.startswith("cu_"):  # stays on the host, with its values
                found[name] = torch.tensor(on_the_host(Tensor.tolist)(x), dtype=torch.int32)
            elif isinstance(x, Tensor):
                found[name] = x.to(device, non_blocking=True)
        return found

    return known


def lengths(self: Packing) -> list[int]:
    """Of segments: some that add up."""
    PLANNED.append(self)
    left, found = len(self.index), []
    for _ in range(len(self.cu_seqlens) - 1):
        found.append(min(left, self.max_seqlen))
        left -= found[-1]
    return found


stts.pruning.deciding.grouped, Packing.lengths = grouped, lengths
Qwen3VL._known, Qwen2VL.known, Qwen25VL.known = map(sent, (Qwen3VL._known, Qwen2VL.known, Qwen25VL.known))
stts.train.checkpoint.set_rng_state = lambda state: None
stts.train.parallel.init_device_mesh = on_the_host(stts.train.parallel.init_device_mesh)


def step(
    make: Callable[..., nn.Module],
    batches: Callable[[], list[Batch]],
    model: dict[str, Any] | None = None,
    steps: int = 1,
    reads: int = 0,
    **config: Any,
) -> None:
    """Trainer steps on a fresh model. reads: what is found where a number is read; 0: none may be."""
    given = on_the_host(batches)()
    if "scores" in (model or {}):
        model = {k: v for k, v in model.items() if k != "scores"}
        frames = sum(given[0]["layout"].frames_per_video)
        given[0]["window_scores"] = on_the_host(torch.rand)(frames, 4)
    trainer = Trainer(
        make(**(model or {})), None, TrainConfig(max_steps=4, **config), Path(tempfile.mkdtemp())
    )
    fake.answer_masks(on_the_host(entries)(given[0], (model or {}).get("prune_ratio", 0.5)))
    if reads:
        fake.answer_reads(after=0, number=reads)
    elif "image" in given[0]["ids"]:
        fake.answer_reads(after=0, number=12)  # tokens of an image
    fake.WAITS.found.clear()
    PLANNED.clear()
    for _ in range(steps):
        trainer.step(given)
    if len(PLANNED) > steps and (model or {}).get("attention") == "bins":
        raise RuntimeError(f"bins were planned {len(PLANNED)} times in {steps} steps")


def entries(batch: Batch, ratio: float) -> int:
    """Of the masks that transformers indexes with: Molmo2's over placeholders and channels, Qwen's over survivors."""
    if not batch["layout"].grids:
        return int((batch["input_ids"] == PATCH_ID).sum()) * 48
    videos = [
        (t, h * w // 4)
        for t, (h, w) in zip(batch["layout"].frames_per_video, batch["layout"].grids, strict=True)
    ]
    return sum(t * w - num_dropped(t, w, ratio) for t, w in videos)


ROWS = {
    "video": [[7]],
    "two": [[4], [7]],
    "beside": [[3, 4]],
    "text": [[], []],
    "mixed": [[4], []],
    "one-frame": [[1]],
    "image": [[IMAGE], []],
    "image-and-video": [[IMAGE, 4], [3]],
}
for kind, rows in ROWS.items():
    for ratio in (0.5, 0.0):
        settings = {"prune_ratio": ratio}
        case(f"batch/{kind}/{ratio}", molmo2, lambda rows=rows: [molmo2_batch(rows)], settings)(step)
for ratio in (0.5, 0.0):
    settings = {"prune_ratio": ratio}
    case(f"batch/packed/{ratio}", molmo2, lambda: [molmo2_batch([[4], [7]], packed=True)], settings)(step)
    qwen_videos = {"video": [[(4, 8, 12)]], "two": [[(4, 8, 12)], [(3, 8, 8), (2, 4, 12)]]}
    for kind, videos in qwen_videos.items():
        case(f"qwen/{kind}/{ratio}", qwen, lambda videos=videos: [qwen_batch(videos)], settings)(step)
case("batch/accumulated", molmo2, lambda: [molmo2_batch([[4]]), molmo2_batch([[], []])], steps=2)(step)
for policy in POLICIES:
    settings = {"policy": policy, "prune_ratio": 0.5} | ({"scores": True} if policy == "given" else {})
    case(f"policy/{policy}", molmo2, lambda: [molmo2_batch([[4], [7]])], settings)(step)
for backend in ("loop", "varlen", "flash", "flex", "bins"):
    for precision in ("bf16", "no"):
        settings = {"attention": backend, "prune_ratio": 0.5}
        options = {"mixed_precision": precision}
        name = f"attention/{backend}/{precision}"
        case(name, molmo2, lambda: [molmo2_batch([[7]])], settings, **options)(step)
for llm in ("sdpa", BLOCK_SPARSE):
    for again in (False, True):
        settings, options = {"llm": llm, "prune_ratio": 0.5}, {"gradient_checkpointing": again}
        name = f"llm/{llm}{'/recomputed' if again else ''}"
        case(name, molmo2, lambda: [molmo2_batch([[4], [7]])], settings, **options)(step)
case("loss/example", molmo2, lambda: [weighted(molmo2_batch([[4], [7]]))], {"prune_ratio": 0.5})(step)


def weighted(batch: Batch) -> Batch:
    return batch | {"loss_weights": (batch["labels"] != -100).float()}


@case("cu_seqlens")
def fill_in() -> None:
    """The packing's last segment is told by the host without a copy."""
    keep = torch.ones(4, 9, dtype=torch.bool, device="cuda")
    stts.pruning.packing.plan_packing(keep, 20)


@case("windows")
def windows_of_a_recipe_row() -> None:
    """The adapter on more windows than a kernel can count, with gradients."""
    model = molmo2(dtype=torch.bfloat16)
    tokens = model.host.project(
        torch.empty(9, 64, device="cuda", dtype=torch.bfloat16),
        torch.zeros(70_000, 9, dtype=torch.int64, device="cuda"),
    )
    tokens.sum().backward()


# --- what reads values: evaluation, generation, resume --------------------------------------------------------------


@case("reads/generate/molmo2")
def generate_molmo2() -> None:
    fake.answer_masks((44 - 22) * 48)  # windows that are left, by channels
    generate(molmo2(dtype=torch.bfloat16, prune_ratio=0.5), on_the_host(molmo2_batch)([[4], [7]]))


@case("reads/generate/qwen")
def generate_qwen() -> None:
    batch = on_the_host(qwen_batch)([[(4, 8, 12)], [(3, 8, 8), (2, 4, 12)]])
    fake.answer_masks(entries(batch, 0.5))
    generate(qwen(prune_ratio=0.5), batch)


def generate(model: nn.Module, batch: Batch) -> None:
    fake.answer_reads(after=3)
    unasked = ("labels", "ids")
    inputs = {k: x.cuda() if isinstance(x, Tensor) else x for k, x in batch.items() if k not in unasked}
    model.eval().generate(**inputs, max_new_tokens=2, do_sample=False)


@case("reads/evaluate")
def evaluate() -> None:
    """An evaluation in the middle of training: logits of the next token, brought to the host."""
    trainer = Trainer(molmo2(prune_ratio=0.5), None, TrainConfig(max_steps=4), Path(tempfile.mkdtemp()))
    batch = on_the_host(molmo2_batch)([[4], [7]])
    trainer.step([batch])

    def ask(model: nn.Module, number: int) -> dict[str, float]:
        inputs = {
            k: x.cuda() if isinstance(x, Tensor) else x
            for k, x in batch.items()
            if k not in ("labels", "ids")
        }
        with torch.no_grad():
            logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        return {"best": float(logits.argmax(-1).sum())}

    fake.answer_reads(after=0)
    trainer.evaluate(ask)
    trainer.step([batch])


@case("reads/resume")
def resume() -> None:
    """Steps and a checkpoint on the host, then steps on the device from there."""
    folder = Path(tempfile.mkdtemp())
    on_the_host(begin)(folder)
    fake.answer_reads(after=0)
    trainer = Trainer(molmo2(prune_ratio=0.5), None, TrainConfig(max_steps=4), folder)
    if trainer.progress.step != 1:
        raise RuntimeError(f"the checkpoint of step 1 was not taken up: {trainer.progress}")
    trainer.step([on_the_host(molmo2_batch)([[4]])])


def begin(folder: Path) -> None:
    """A checkpoint of one step, made by a CPU."""
    config = small()
    config.stts = STTSConfig(prune_ratio=0.5).to_dict()
    model = stts.STTSMolmo2ForConditionalGeneration(config).train()
    batch = molmo2_batch([[4]])
    optimizer = build_optimizer(model, TrainConfig(max_steps=4))
    model(**{k: x for k, x in batch.items() if k != "ids"}).loss.backward()
    optimizer.step()
    processor = SimpleNamespace(save_pretrained=lambda folder: None)
    progress = Progress(step=1, examples=1)
    save_checkpoint(folder, progress, model, processor, optimizer, [rng_state()], keep=1)


# --- many processes -------------------------------------------------------------------------------------------------


def ranks(number: int) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ |= {"RANK": "0", "WORLD_SIZE": str(number), "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    dist.init_process_group("fake", rank=0, world_size=number, store=FakeStore())


def sharded(number: int, ratio: float, rows: list[list[int]], **config: Any) -> None:
    """FSDP2 over so many ranks, of which this is one."""
    if not dist.is_initialized():
        ranks(number)
    parallel = ParallelConfig(name="fsdp")
    step(molmo2, lambda: [molmo2_batch(rows)], {"prune_ratio": ratio}, parallel=parallel, **config)


for number in (8, 64):
    for ratio in (0.5, 0.0):
        case(f"fsdp{number}/video/{ratio}", number, ratio, [[4], [7]])(sharded)
    case(f"fsdp{number}/text", number, 0.5, [[], []])(sharded)
    case(f"fsdp{number}/recomputed", number, 0.5, [[4], []], gradient_checkpointing=True)(sharded)


@case("slow/molmo2_4b")
def true_size() -> None:
    """Molmo2-4B as released, a video of 128 frames."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from presets import build_model, make_inputs, preset_config

    config = preset_config("molmo2_4b", STTSConfig(prune_ratio=0.5))
    model = build_model(config, "cuda", torch.float32, BLOCK_SPARSE)
    batch = on_the_host(make_inputs)(config, 128, "cpu") | {"ids": ["0"]}
    step(lambda: model, lambda: [batch])
