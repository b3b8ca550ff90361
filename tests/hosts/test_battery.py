"""What every host has to do, the same checks for all: a new host is a row in tests/helpers/hosts.py."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stts import STTSConfig, attention_bias, insert_stts, remove_stts
from stts.hosts.classes import pruning
from stts.pruning.layout import BatchLayout
from stts.pruning.relevance import SUMS
from tests.helpers.host_row import VOCABULARY
from tests.helpers.hosts import Row, as_plain, rows
from tests.helpers.relevance import entering, slow_loss

RATIOS = (0.5, 0.8)
STEPS = 6

EACH_ROUTE = ("molmo2", "molmo2_described", "qwen3_vl", "internvl")
"""Of each way to tell the attention of a block something, one host."""

hosts = pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)


@cache
def shared(row: Row) -> PreTrainedModel:
    """One pruning model for checks that leave it as it was but for its prune_ratio."""
    return row.pruned()


def pruned(row: Row, ratio: float) -> PreTrainedModel:
    model = shared(row)
    model.stts = model.stts.replace(prune_ratio=ratio)
    return model.eval()


@cache
def plain(row: Row) -> PreTrainedModel:
    return row.plain()


def of_video(values: Tensor | list[Tensor], row: Row) -> list[Tensor]:
    """keep_windows or scores of each video, (T, W)."""
    return list(values) if isinstance(values, list) else list(values.split([t for t, *_ in row.total]))


def real(logits: Tensor, keep_mask: Tensor, left: bool = True) -> list[Tensor]:
    """Of each row the logits of its survivors."""
    counts = keep_mask.sum(1).tolist()
    return [x[len(x) - n :] if left else x[:n] for x, n in zip(logits, counts, strict=True)]


def options(row: Row, **more: Any) -> dict[str, Any]:
    """Of generate: greedy, words alone."""
    vocabulary = plain(row).config.get_text_config().vocab_size
    banned = list(range(row.words, vocabulary))
    return {
        "max_new_tokens": STEPS,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        "suppress_tokens": banned or None,
    } | more


def labels_of(row: Row, inputs: dict[str, Any]) -> Tensor:
    wordless = (inputs["input_ids"] >= row.words) | (inputs["attention_mask"] == 0)
    return inputs["input_ids"].masked_fill(wordless, -100)


# The reference: every token stays, those that were dropped are masked as keys


class Masked:
    """Attention of the ViT's blocks by explicit softmax, with a bias on the keys that depends on the block."""

    def __init__(self, blocks: nn.ModuleList, bias: Tensor, gone: Tensor) -> None:
        self.block_of = {id(module): i for i, block in enumerate(blocks) for module in block.modules()}
        self.bias = {4: bias} | dict.fromkeys(range(5, len(blocks)), gone)
        self.seen = dict.fromkeys(range(len(blocks)), 0)

    def __call__(self, module, query, key, value, attention_mask=None, scaling=None, **kwargs):
        logits, i = query @ key.transpose(-1, -2) * scaling, self.block_of[id(module)]
        batch, _, length, _ = query.shape
        if i in self.bias:
            bias = self.bias[i][self.seen[i] : self.seen[i] + batch * length]
            logits = logits + bias.view(batch, 1, 1, length)
        self.seen[i] += batch * length
        return (logits.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def in_memory(row: Row, keep: list[Tensor], scores: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Key bias of the block after the scored one, and of all later ones, of every patch as it lies in memory."""
    bias, gone = [], []
    for (frames, height, width), kept, score in zip(row.total, keep, scores, strict=True):
        by_patch = attention_bias(score, [frames], row.unit, grid=(height, width))
        across = width // row.unit
        for frame in range(frames):
            bias += [torch.zeros(())] * row.prefix
            gone += [0.0] * row.prefix
            for cells in row.patches(height, width):
                if not cells:  # that no token reads: never dropped
                    bias.append(torch.zeros(()))
                    gone.append(0.0)
                    continue
                r, c = cells[0]  # of several, the first one's score is the patch's
                stays = any(kept[frame, r // row.unit * across + c // row.unit] for r, c in cells)
                bias.append(by_patch[frame, r * width + c])
                gone.append(0.0 if stays else -1e9)
    return torch.stack(bias), torch.tensor(gone)


def ancestors(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The modules on the way to one, the model first."""
    for part in path.split("."):
        yield model
        model = getattr(model, part)


@torch.no_grad()
def reference(row: Row, inputs: dict[str, Any], out: Any) -> Tensor:
    """Logits of all tokens."""
    model = row.plain()
    blocks = model.get_submodule(row.blocks)
    owner = [m for m in ancestors(model, row.blocks) if hasattr(m, "config")][-1]
    keep, scores = of_video(out.keep_windows, row), of_video(out.scores, row)
    ALL_ATTENTION_FUNCTIONS.register("masked", Masked(blocks, *in_memory(row, keep, scores)))
    owner.config._attn_implementation = "masked"
    if row.recurrent:
        return shorter(row, model, inputs, out.keep_mask)
    seen = row.visible(inputs) & out.keep_mask[:, None, :]
    seen |= torch.eye(seen.shape[1], dtype=torch.bool)
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
    given = {name: x for name, x in as_plain(inputs).items() if name != "attention_mask"}
    return model(**given, attention_mask=mask, position_ids=row.positions(model, inputs)).logits


def shorter(row: Row, model: PreTrainedModel, inputs: dict[str, Any], keep: Tensor) -> Tensor:
    """The same of an LLM whose state runs over every token it gets: row by row it gets the survivors alone."""
    kept = keep[row.placeholders(inputs)]
    features = torch.cat(list(model.model.get_video_features(**of_pixels(inputs)).pooler_output))[kept]
    positions, logits = row.positions(model, inputs), torch.zeros(*keep.shape, VOCABULARY)
    rows = features.split((keep & row.placeholders(inputs)).sum(1).tolist())
    for i, part in enumerate(rows):
        encoded = {"video": BaseModelOutputWithPooling(pooler_output=(part,))}
        given = {
            "input_ids": inputs["input_ids"][i, keep[i]][None],
            "position_ids": positions[:, i, keep[i]][:, None],
        }
        logits[i, keep[i]] = model(**given, mm_encoder_outputs=encoded).logits[0]
    return logits


def of_pixels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}


@hosts
@torch.no_grad()
def test_without_pruning_the_model_is_untouched(row: Row):
    inputs = row.batch()
    labels = labels_of(row, inputs)
    ours, theirs = pruned(row, 0)(**inputs, labels=labels), plain(row)(**row.theirs(), labels=labels)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    assert ours.keep_windows is None
    answer = plain(row).generate(**row.theirs(), **options(row))
    assert torch.equal(pruned(row, 0).generate(**inputs, **options(row)), answer)


@hosts
@pytest.mark.parametrize("ratio", RATIOS)
@torch.no_grad()
def test_survivors_say_what_they_would_if_the_dropped_were_masked(row: Row, ratio: float):
    inputs = row.batch()
    out = pruned(row, ratio)(**inputs)
    expected = reference(row, inputs, out)
    whole = plain(row)(**row.theirs()).logits
    for i, (ours, keep) in enumerate(zip(real(out.logits, out.keep_mask), out.keep_mask, strict=True)):
        torch.testing.assert_close(ours, expected[i][keep], rtol=0, atol=row.tolerance)
        assert (whole[i][keep] - expected[i][keep]).abs().max() > 100 * row.tolerance


@hosts
@pytest.mark.parametrize("ratio", RATIOS)
@torch.no_grad()
def test_what_is_kept_is_the_budget(row: Row, ratio: float):
    inputs = row.batch()
    out = pruned(row, ratio)(**inputs)
    keep = of_video(out.keep_windows, row)
    for (frames, height, width), kept in zip(row.total, keep, strict=True):
        windows = height * width // row.unit**2
        assert kept.shape == (frames, windows)
        dropped = min(int(frames * windows * ratio + 1e-6), (frames - 1) * windows)
        assert kept.sum() == frames * windows - dropped
        assert kept[0].all()
    tokens, always = row.placeholders(inputs), torch.ones(row.behind, dtype=torch.bool)
    flat = torch.cat([part for kept in keep for part in (kept.flatten(), always)])
    assert torch.equal(out.keep_mask[tokens], flat)
    assert torch.equal(out.keep_mask[~tokens], inputs["attention_mask"].bool()[~tokens])
    assert out.logits.shape[1] == out.keep_mask.sum(1).max()


@hosts
def test_an_llm_token_reads_exactly_its_window(row: Row):
    """By the gradient of a token with respect to what the last block says."""
    model, inputs, said = row.pruned(), row.batch(), {}
    host = model.host
    clips = host.clips(inputs)

    def leaf(module, args, out):
        said["x"] = out.detach().requires_grad_()
        return said["x"]

    handle = host.blocks[len(host.blocks) + row.read].register_forward_hook(leaf)
    features, _ = host.encode(inputs, clips)
    handle.remove()
    places, start = [], 0
    for frames, height, width in row.total:
        for _ in range(frames):
            of_window: dict[int, set[int]] = {}
            patches = row.patches(height, width)
            for place, cells in enumerate(patches):
                for r, c in cells:
                    window = r // row.unit * (width // row.unit) + c // row.unit
                    of_window.setdefault(window, set()).add(start + row.prefix + place)
            places += [of_window[window] for window in sorted(of_window)]
            start += row.prefix + len(patches)
        places += [set()] * row.behind
    assert len(features) == len(places)
    for token in torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:25].tolist():
        say = features[token].square().sum() + 0 * said["x"].sum()
        (grad,) = torch.autograd.grad(say, said["x"], retain_graph=True)
        read = grad.reshape(-1, grad.shape[-1]).abs().sum(1).nonzero().flatten().tolist()
        assert set(read) == places[token]


@hosts
@torch.no_grad()
def test_a_batch_is_its_rows_on_either_side_of_the_padding(row: Row):
    model = pruned(row, 0.5)
    batch = model(**row.batch())
    left = real(batch.logits, batch.keep_mask)
    out = model(**row.batch(pad="right"))
    for i, (ours, right) in enumerate(zip(left, real(out.logits, out.keep_mask, left=False), strict=True)):
        torch.testing.assert_close(right, ours, rtol=0, atol=row.tolerance)
        torch.testing.assert_close(model(**row.alone(i)).logits[0], ours, rtol=0, atol=row.tolerance)


@hosts
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@torch.no_grad()
def test_a_layout_says_what_the_tensors_say(row: Row, ratio: float):
    inputs = row.batch()
    of_row = [number for number, videos in enumerate(row.videos) for _ in videos]
    layout = BatchLayout(
        tuple(t for t, *_ in row.total),
        tuple(inputs["attention_mask"].sum(1).tolist()),
        tuple(of_row),
        tuple((h, w) for _, h, w in row.total),
    )
    model = pruned(row, ratio)
    assert torch.equal(model(**inputs, layout=layout).logits, model(**inputs).logits)


@hosts
def test_the_gradient_at_the_llms_tokens_teaches_the_scorer_and_changes_nothing_else(row: Row):
    inputs, off = row.batch(), {"bias_floor": 1.0, "aux_loss_weight": 0.0}
    labels, plain_model = labels_of(row, inputs), row.pruned(**off).train()
    with entering(plain_model.host.layers[0]) as seen:
        out = plain_model(**inputs, labels=labels)
    out.loss.backward(retain_graph=True)
    tokens, gradient = [], []
    for i, keep in enumerate(out.keep_mask):
        visual = row.placeholders(inputs)[i][keep].nonzero().flatten() - int(keep.sum())  # padded on the left
        words = plain_model.get_input_embeddings()(inputs["input_ids"][i][keep][visual])
        tokens.append(seen[0][i][visual].detach() - (words.detach() if row.name.startswith("molmo2") else 0))
        gradient.append(seen[0].grad[i][visual])
    keeps = of_video(out.keep_windows, row)
    keep, scores = (torch.cat([x.flatten() for x in of_video(x, row)]) for x in (keeps, out.scores))
    of_token, start = [], 0
    for kept in keeps:  # and what stands behind a video's windows is none
        of_token += [*(start + kept.flatten().nonzero().flatten()).tolist(), *[-1] * row.behind]
        start += kept.numel()
    sizes = [tuple(kept.shape) for kept in keeps]
    loss = slow_loss(torch.cat(tokens), torch.cat(gradient), scores, keep, torch.tensor(of_token), sizes)
    loss.backward()

    taught = row.pruned(**off, relevance_weight=1.0).train()
    found = taught(**inputs, labels=labels)
    assert torch.equal(found.logits, out.logits)
    found.loss.backward()
    sums = dict(zip(SUMS, found.relevance.sums.tolist(), strict=True))
    assert sums["loss"] / sums["count"] == pytest.approx(loss.item(), rel=1e-3)
    expected = dict(plain_model.named_parameters())
    for name, p in taught.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name].grad, rtol=2e-3, atol=1e-5, msg=name)


@hosts
def test_both_losses_teach_the_scorer_and_checkpoints_change_nothing(row: Row):
    inputs = row.batch()
    labels, grads, losses = labels_of(row, inputs), [], []
    for checkpoints in (False, True):
        model = row.pruned().train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        out = model(**inputs, labels=labels)
        out.lm_loss.backward(retain_graph=True)
        scorer = dict(model.host.scorer.named_parameters())
        assert len(scorer) == 14
        assert all(p.grad.abs().sum() > 0 for p in scorer.values())
        model.zero_grad()
        out.loss.backward()
        losses.append(out.loss.item())
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(out.loss, out.lm_loss + 0.5 * out.aux_loss)
    assert losses[0] == losses[1]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def by_hand(model: PreTrainedModel, inputs: dict[str, Any], row: Row) -> Tensor:
    """Append the best word and run everything anew."""
    inputs = dict(inputs)
    for _ in range(STEPS):
        logits = model(**inputs).logits[:, -1, : row.words]
        one = {name: 0 for name in ("mm_token_type_ids",) if name in inputs} | {"attention_mask": 1}
        inputs["input_ids"] = torch.cat([inputs["input_ids"], logits.argmax(-1, keepdim=True)], 1)
        for name, value in one.items():
            inputs[name] = nn.functional.pad(inputs[name], (0, 1), value=value)
    return inputs["input_ids"]


@hosts
@torch.no_grad()
def test_generation_with_and_without_a_cache_and_by_hand(row: Row):
    model, inputs = pruned(row, 0.5), row.batch()
    answer = model.generate(**inputs, **options(row))
    assert torch.equal(answer[:, :-STEPS], inputs["input_ids"])
    assert torch.equal(model.generate(**inputs, **options(row, use_cache=False)), answer)
    right = model.generate(**row.batch(pad="right"), **options(row))
    assert torch.equal(right[:, -STEPS:], answer[:, -STEPS:])
    alone = row.alone(1)
    new = by_hand(model, alone, row)[0, -STEPS:]
    assert torch.equal(new, answer[1, -STEPS:])
    assert torch.equal(new, model.generate(**alone, **options(row))[0, -STEPS:])
    length = {"max_new_tokens": None, "max_length": inputs["input_ids"].shape[1] + STEPS}
    assert torch.equal(model.generate(**inputs, **options(row, **length)), answer)


@hosts
@torch.no_grad()
def test_beams_are_those_of_each_row(row: Row):
    model, beams = pruned(row, 0.5), options(row, num_beams=3)
    batch = model.generate(**row.batch(), **beams)
    for i in range(len(row.videos)):
        assert torch.equal(model.generate(**row.alone(i), **beams)[0, -STEPS:], batch[i, -STEPS:])
    several = model.generate(**row.batch(), **beams, num_return_sequences=2, return_dict_in_generate=True)
    assert torch.equal(several.sequences[::2], batch)


def tensors(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@hosts
@torch.no_grad()
def test_plain_folders_and_saved_ones_load(row: Row, tmp_path):
    inputs, theirs = row.batch(), plain(row)
    theirs.save_pretrained(tmp_path / "plain")
    cls = pruning(type(theirs), row.host)
    assert cls is pruning(type(theirs), row.host)
    settings = STTSConfig(prune_ratio=0.0)
    model, loaded = cls.from_pretrained(tmp_path / "plain", stts=settings, output_loading_info=True)
    scorer = {name for name, _ in model.named_parameters() if ".scorer." in name}
    assert set(loaded["missing_keys"]) == scorer
    assert not loaded["unexpected_keys"]
    assert len(scorer) == 14
    fresh = model.host.scorer
    assert fresh.fc3.bias.item() == settings.scorer_bias
    assert 0.5 < fresh.fc1.weight.std() * fresh.fc1.in_features**0.5 < 1.5
    whole = theirs(**row.theirs()).logits
    assert torch.equal(model.eval()(**inputs).logits, whole)

    model.stts = model.stts.replace(prune_ratio=0.5)
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["architectures"] == [(cls if cls.host_type.served else type(theirs)).__name__]
    names = [tensors(tmp_path / folder) for folder in ("saved", "plain")]
    assert names[0] > names[1]
    assert len(added := names[0] - names[1]) == 14
    assert all(".scorer." in name for name in added)
    again, loaded = cls.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not loaded["missing_keys"]
    assert again.stts == model.stts
    assert torch.equal(again.eval()(**inputs).logits, model(**inputs).logits)
    back = type(theirs).from_pretrained(tmp_path / "saved")
    assert torch.equal(back.eval()(**row.theirs()).logits, whole)


@hosts
@torch.no_grad()
def test_copies_and_pickles_are_models_of_their_own(row: Row):
    model, inputs = row.pruned(), row.batch()
    pickled = pickle.dumps(model)  # hooks that transformers installs to record hidden states cannot be
    expected = model(**inputs).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickled)):
        assert type(twin) is type(model)
        assert torch.equal(twin(**inputs).logits, expected)
        twin.stts = twin.stts.replace(prune_ratio=0.8)
        for p in twin.host.blocks[5].parameters():
            p.mul_(2)
        assert twin(**inputs).logits.shape[1] < expected.shape[1]
        assert torch.equal(model(**inputs).logits, expected)
    assert twin.host.model is twin


@pytest.mark.parametrize("row", [row for row in rows() if row.name in EACH_ROUTE], ids=lambda row: row.name)
@torch.no_grad()
def test_threads_and_models_side_by_side_know_nothing_of_each_other(row: Row):
    """Of two models that share nothing, and one that several threads use, some with pruning that others do not."""
    batches = [row.alone(0), row.alone(1), row.batch()]
    first, second = row.pruned(), row.pruned(prune_ratio=0.8)
    whole = row.pruned(prune_ratio=0.0)
    jobs = [(model, inputs) for inputs in batches for model in (first, second, whole)]
    expected = [model.generate(**inputs, **options(row)) for model, inputs in jobs]
    got: dict[int, list[Tensor]] = {}
    kept: dict[int, Any] = {}
    start = threading.Barrier(len(jobs))

    def work(number: int) -> None:
        model, inputs = jobs[number]
        start.wait()
        got[number] = [model.generate(**inputs, **options(row)) for _ in range(2)]
        kept[number] = model.last_keep_windows

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in enumerate(expected):
        assert all(torch.equal(one, answer) for one in got[number])
        assert (kept[number] is None) == (jobs[number][0] is whole)


@hosts
@torch.no_grad()
def test_taking_stts_out_leaves_the_model_of_before(row: Row):
    model, inputs = row.plain(), row.batch()
    names, kind, implementation = list(model.state_dict()), type(model), model.config._attn_implementation
    insert_stts(model, STTSConfig(), row.host)
    assert isinstance(model, kind)
    assert model(**inputs).keep_windows is not None
    scorer = model.host.scorer
    assert remove_stts(model) is scorer
    assert type(model) is kind
    assert list(model.state_dict()) == names
    assert model.config._attn_implementation == implementation
    assert not hasattr(model.config, "stts")
    assert torch.equal(model(**row.theirs()).logits, plain(row)(**row.theirs()).logits)
    again = insert_stts(model, STTSConfig(prune_ratio=0.5), row.host)  # and in again
    assert again(**inputs).logits.shape[1] < inputs["input_ids"].shape[1]


@hosts
@torch.no_grad()
def test_single_frames_stay_whole_and_what_makes_no_sense_is_refused(row: Row):
    model = pruned(row, 0.8)
    (_, *size), *_ = row.total
    still = row.inputs([[(1, *size)], [(1, *size)]])
    assert torch.equal(model(**still).logits, plain(row)(**as_plain(still)).logits)
    with pytest.raises(
        ValueError, match=r"pool_width is 5, but one token of this model reads \d x \d patches"
    ):
        model.stts = model.stts.replace(pool_width=5)
    with pytest.raises(ValueError, match="pool_width is 5"):
        insert_stts(row.plain(), STTSConfig(pool_width=5), row.host)
    with pytest.raises(ValueError, match="already has a scorer"):
        insert_stts(model, STTSConfig())
    with pytest.raises(ValueError, match="insert_after is 5, must leave blocks to prune: below 5"):
        insert_stts(row.plain(), STTSConfig(insert_after=5), row.host)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    cut = row.batch()
    cut["input_ids"] = cut["input_ids"].clone()
    place = row.placeholders(cut)[1].nonzero()[0]
    cut["input_ids"][1, place] = 3  # a placeholder is missing
    if "mm_token_type_ids" in cut:
        cut["mm_token_type_ids"] = cut["mm_token_type_ids"].clone()
        cut["mm_token_type_ids"][1, place] = 0
    with pytest.raises(ValueError, match=r"row 1 of input_ids has \d+ visual placeholders"):
        model(**cut)


@hosts
@pytest.mark.parametrize(
    "policy", ["random", "temporal", "reference", "tome", "uniform", "evs", "vidcom2", "given"]
)
@torch.no_grad()
def test_every_policy_keeps_the_same_budget(row: Row, policy: str):
    inputs, model = row.batch(), pruned(row, 0.5)
    expected = model(**inputs).keep_mask.sum(1)
    before = model.stts
    try:
        model.stts = before.replace(policy=policy)
        sizes = [(t, h * w // row.unit**2) for t, h, w in row.total]
        scores = [torch.rand(size) for size in sizes] if policy == "given" else None
        if scores and len({windows for _, windows in sizes}) == 1:
            scores = torch.cat(scores)
        if policy == "tome" and row.shares:
            with pytest.raises(ValueError, match="cannot merge windows that share patches"):
                model(**inputs)
            return
        out = model(**inputs, window_scores=scores)
    finally:
        model.stts = before
    assert out.logits.isfinite().all()
    assert torch.equal(out.keep_mask.sum(1), expected)


@pytest.fixture(autouse=True, scope="module")
def _forget() -> Iterator[None]:
    yield
    shared.cache_clear()
    plain.cache_clear()
