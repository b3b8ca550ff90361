"""The pruned VLM: a transformers class whose videos lose windows once, for the rest of ViT, adapter and LLM.

PrunedVLM stands before the transformers class (classes.pruning makes the pair). The host's own vision model, adapter,
LLM and generate run; what is written here is what happens between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ..pruning.attention import install
from ..pruning.config import STTSConfig
from ..pruning.layout import BatchLayout
from ..pruning.losses import novelty, score_error, weighted_lm_loss
from ..pruning.policies import View, choose
from ..pruning.run import Clips, Run
from ..pruning.sequence import Survivors, compact_positions, keep_tokens, plan_survivors
from ..pruning.visual_tokens import VisualTokens
from ..pruning.windows import window_grid
from .base import Host
from .pruned import PrunedModel
from .supervised import supervised_alone


@dataclass
class PrunedCausalOutput(ModelOutput):
    """transformers' output over the surviving sequence, and what pruning did.

    loss: lm_loss, plus aux_loss_weight * aux_loss in training mode; logits: (B, L_kept, V), padded on the side the
    input was; keep_mask: (B, L) bool, True where a real input token survived, so row i of logits belongs to
    input_ids[i][keep_mask[i]]; keep_windows: bool, scores and targets (what the auxiliary loss holds the scores
    against): (F, W), or where frames differ in size a list of (T, W), one a video; None when nothing was pruned;
    lm_loss, aux_loss: scalars. The rest is transformers'.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Any = None
    video_hidden_states: Any = None
    rope_deltas: Tensor | None = None
    router_logits: Any = None
    keep_mask: Tensor | None = None
    keep_windows: Tensor | list[Tensor] | None = None
    scores: Tensor | list[Tensor] | None = None
    targets: Tensor | list[Tensor] | None = None
    lm_loss: Tensor | None = None
    aux_loss: Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """The windows of the videos of a batch that stay."""

    keep: Tensor
    """(all windows,) bool, video by video."""
    keep_windows: Tensor | list[Tensor] | None
    """None, as scores: nothing was dropped."""
    scores: Tensor | list[Tensor] | None
    run: Run | None = None
    """Of policies that choose inside the ViT."""


@dataclass(frozen=True)
class Pruned:
    """A batch whose videos were encoded and pruned: what the LLM takes."""

    tokens: dict[str, Tensor]
    """input_ids, attention_mask and position_ids over survivors, (B, L_kept)."""
    survivors: Survivors
    encoded: ModelOutput
    choice: Choice
    ahead: Tensor | None
    """(B, 1) how far positions run ahead of the tokens, where they have three planes."""


class PrunedVLM(PrunedModel):
    """What stands before a transformers VLM class: forward, generate, losses."""

    # ------------------------------------------------------------------ forward and generate

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        layout: BatchLayout | None = None,
        window_scores: Tensor | list[Tensor] | None = None,
        loss_weights: Tensor | None = None,
        visual: VisualTokens | None = None,
        num_targets: int | None = None,
        **inputs: Any,
    ) -> PrunedCausalOutput:
        """The transformers class's forward on the tokens that survive; inputs are its own, named as there.

        input_ids: (B, L), placeholders of ALL windows in it, like all arguments of that shape. layout: the batch's
        sizes, which on a GPU saves waiting for them; frames_per_video: T of each video, where pixels do not say it;
        pixels may be bytes, which are normalised here; window_scores: (F, W), or (T, W) of each video, what policy
        "given" ranks by; loss_weights: (B, L) float, what each token of labels counts in lm_loss. visual: the videos,
        as encode_videos returns them, in place of their pixels. num_targets: at least how many tokens labels
        supervise, the first column not counted: then logits are made in front of these alone,
        (1, num_targets + 1, V). Raises ValueError when placeholders do not fit the videos.
        """
        inputs = self.host.accept(inputs)
        pruned = self._prune(
            input_ids, attention_mask, position_ids, inputs, layout, window_scores, visual=visual
        )
        if pruned is None:
            inputs.pop("frames_per_video", None)
            if attention_mask is None and inputs.get("mm_encoder_outputs") and input_ids is not None:
                # generate drops a mask of ones; without one, transformers takes gaps in the positions for packing
                attention_mask = torch.ones_like(input_ids)
            if layout is not None and layout.grids and inputs.get(self.host.keys[0]) is not None:
                text = (input_ids, attention_mask, position_ids)
                inputs, position_ids = self._encode_whole(*text, inputs, layout)
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
            tokens = {name: x for name, x in given.items() if x is not None}
        else:
            others = self.host.others(inputs)
            inputs = self._of_survivors(inputs, input_ids, pruned.survivors)
            inputs["mm_encoder_outputs"] = others | {self.host.modality: pruned.encoded}
            tokens = pruned.tokens
            labels = pruned.survivors.take(labels, -100)
            loss_weights = pruned.survivors.take(loss_weights, 0)
        as_tuple = inputs.pop("return_dict", None) is False
        with supervised_alone(self.get_output_embeddings(), labels, loss_weights, num_targets) as (
            labels,
            loss_weights,
        ):
            if labels is not None and loss_weights is None:
                inputs["labels"] = labels
            out = super().forward(**tokens, **inputs)
        if loss_weights is not None:
            out.loss = weighted_lm_loss(out.logits, labels, loss_weights)
        if pruned is not None and pruned.ahead is not None:
            self.base_model.rope_deltas = pruned.ahead
        result = self._finish(out, pruned, input_ids, attention_mask)
        return result.to_tuple() if as_tuple else result

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """transformers' generate on the surviving prompt.

        Takes what forward takes, padded on either side, and generate's own options. Returns input_ids as given,
        followed by the new tokens. last_keep_windows then holds what was kept.
        """
        self.last_keep_windows = None
        input_ids, kwargs = kwargs.pop("input_ids", inputs), self.host.accept(kwargs)
        layout, scores = kwargs.pop("layout", None), kwargs.pop("window_scores", None)
        visual = kwargs.pop("visual", None)
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        pruned = self._prune(input_ids, mask, positions, kwargs, layout, scores, True, visual)
        if pruned is None:
            kwargs.pop("frames_per_video", None)
            return self._as_given(super().generate(**padded_left(input_ids, kwargs)), input_ids)
        self.last_keep_windows = pruned.choice.keep_windows
        others = self.host.others(kwargs)
        kwargs = self._of_survivors(kwargs, input_ids, pruned.survivors) | pruned.tokens
        kwargs["mm_encoder_outputs"] = others | {self.host.modality: pruned.encoded}
        length = pruned.tokens["input_ids"].shape[1]
        for bound in ("max_length", "min_length"):  # counted from the prompt the caller knows
            if kwargs.get(bound) is not None:
                kwargs[bound] += length - input_ids.shape[1]
        return self._as_given(super().generate(**kwargs), input_ids, length)

    @staticmethod
    def _as_given(output: Any, input_ids: Tensor | None, length: int | None = None) -> Any:
        """generate's output with the prompt that the caller knows, in place of one of so many tokens."""
        if input_ids is None:
            return output
        sequences = output if isinstance(output, Tensor) else output.sequences
        new = sequences[:, input_ids.shape[1] if length is None else length :]
        sequences = torch.cat([input_ids.repeat_interleave(len(new) // len(input_ids), 0), new], 1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Tensor, dict]:
        """For beams: our features row by row, which transformers, counting placeholders, would not always find."""
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get(self.host.modality)
        again = getattr(encoded, "again", None)
        if expand_size == 1 or again is None:
            return super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
        others = {k: v for k, v in kwargs.pop("mm_encoder_outputs").items() if k != self.host.modality}
        ids, kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, mm_encoder_outputs=others or None, **kwargs
        )
        others = kwargs.get("mm_encoder_outputs") or {}
        return ids, kwargs | {"mm_encoder_outputs": others | {self.host.modality: again(expand_size)}}

    # ------------------------------------------------------------------ from all tokens to survivors

    def _prune(
        self,
        input_ids: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        inputs: dict[str, Any],
        layout: BatchLayout | None,
        window_scores: Tensor | list[Tensor] | None,
        prompt: bool = False,
        visual: VisualTokens | None = None,
    ) -> Pruned | None:
        """Encode the videos, drop windows, take their placeholders out of the sequence; None: nothing is to drop.

        prompt: to generate from: padded on the left, positions counted as generate does.
        """
        host, stts = self.host, self.stts
        told = (
            inputs.get("frames_per_video") is not None
        )  # which transformers' class does not know: encoded here
        if visual is None and (inputs.get(host.keys[0]) is None or not (stts.prune_ratio or told)):
            return None
        clips = clips_of(host, inputs, layout, visual)
        drops = clips.drops(stts.prune_ratio)
        if visual is None and not any(drops) and not told:
            return None
        check_whole_prompt(input_ids, mask, inputs.get("past_key_values"))
        windows = [host.windows_of(t, w) for t, w in zip(clips.frames, clips.windows, strict=True)]
        tokens = [len(x) for x in windows]
        of_video = host.placeholders(input_ids, inputs)
        if layout is None:
            layout = BatchLayout.read(of_video, mask, clips.frames, clips.grids, tokens)
        real = torch.ones_like(input_ids) if mask is None else mask
        places = None
        if positions is None:
            places = host.positions(input_ids, real, inputs, clips)
            positions = places[0] if places else count_positions(real, mask is not None and prompt)
        if visual is None:
            features, extra, choice, kept = self._encode(inputs, clips, stts, windows, window_scores)
        else:
            features, extra, choice, kept = encoded_before(visual, clips, windows, sum(tokens) - sum(drops))

        keep = keep_tokens(of_video, kept.to(of_video.device), mask)  # the ViT may be elsewhere than the LLM
        lengths, per_row = list(layout.lengths), [0] * len(layout.lengths)
        for row, drop, count in zip(layout.video_rows, drops, tokens, strict=True):
            lengths[row] -= drop
            per_row[row] += count - drop
        left_padded = None if mask is None else mask[:, 0] == 0
        survivors = plan_survivors(keep, max(lengths), True if prompt else None, left_padded)
        return Pruned(
            tokens={
                "input_ids": survivors.take(input_ids, 0),
                "attention_mask": survivors.valid.long(),
                "position_ids": self._positions(positions, survivors, stts),
            },
            survivors=survivors,
            encoded=by_row(host, features, extra, per_row),
            choice=choice,
            ahead=None if places is None else places[1] + (real.sum(1) - survivors.valid.sum(1))[:, None],
        )

    def _encode_whole(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        inputs: dict[str, Any],
        layout: BatchLayout,
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Where nothing is to drop: the arguments with the videos encoded, and their positions, as transformers would
        make them. It would work out sizes that the layout knows, and wait for the device."""
        host, clips = self.host, clips_of(self.host, inputs, layout)
        if positions is None:
            real = torch.ones_like(input_ids) if mask is None else mask
            if (places := host.positions(input_ids, real, inputs, clips)) is not None:
                positions, self.base_model.rope_deltas = places
        inputs = dict(inputs)
        others = host.others(inputs)
        per_row = [0] * len(layout.lengths)
        for row, frames, windows in zip(layout.video_rows, clips.frames, clips.windows, strict=True):
            per_row[row] += len(host.windows_of(frames, windows))
        encoded = by_row(host, *host.encode(inputs, clips), per_row)
        inputs = {name: x for name, x in inputs.items() if name not in host.keys}
        return inputs | {"mm_encoder_outputs": others | {host.modality: encoded}}, positions

    def encode_videos(
        self,
        layout: BatchLayout | None = None,
        window_scores: Tensor | list[Tensor] | None = None,
        **videos: Tensor,
    ) -> VisualTokens:
        """Videos as `visual`, which forward and generate take in place of their pixels: encoded and pruned once,
        however many questions follow. videos: as forward takes them. The auxiliary loss is not for these."""
        host, stts, videos = self.host, self.stts, self.host.accept(videos)
        clips = clips_of(host, videos, layout)
        windows = [host.windows_of(t, w) for t, w in zip(clips.frames, clips.windows, strict=True)]
        if any(clips.drops(stts.prune_ratio)):
            features, extra, choice, _ = self._encode(videos, clips, stts, windows, window_scores)
            return VisualTokens(
                features, choice.keep_windows, choice.scores, extra=extra, grids=tuple(clips.grids)
            )
        features, extra = host.encode(videos, clips)
        sizes = zip(clips.frames, clips.windows, strict=True)
        keep = [torch.ones(size, dtype=torch.bool, device=features.device) for size in sizes]
        keep = torch.cat(keep) if len(set(clips.windows)) == 1 else keep
        return VisualTokens(features, keep, extra=extra, grids=tuple(clips.grids))

    def _encode(
        self,
        inputs: dict[str, Any],
        clips: Clips,
        stts: STTSConfig,
        windows: list[Tensor],
        window_scores: Tensor | list[Tensor] | None,
    ) -> tuple[Tensor, dict[str, list[Tensor]], Choice, Tensor]:
        """Features of the survivors, further ones, which windows they are, and which placeholders stay, (tokens,)."""
        host = self.host
        if not any(clips.drops(stts.prune_ratio)):
            features, extra = host.encode(inputs, clips)
            kept = torch.ones(len(features), dtype=torch.bool, device=features.device)
            return features, extra, Choice(kept, None, None), kept
        if stts.stage == "llm":
            features, extra = host.encode(inputs, clips)
            choice = choose_in_front(features, clips, stts, windows)
        else:
            install(host.vision.config)
            run = Run(host, clips, stts, host.scorer, window_scores)
            with run.active():
                features, extra = host.encode(inputs, clips)
            if not run.groups:
                raise ValueError(
                    f"{type(host).__name__}.encode did not run the blocks at {host.blocks_at!r} of the vision model, "
                    "whose forward has to loop over them"
                )
            keep = torch.cat([x.flatten() for x in run.by_video("keep")])
            choice = Choice(keep, run.together("keep"), run.together("scores"), run)
        kept = stays(choice.keep, windows, clips)
        count = len(kept) - sum(clips.drops(stts.prune_ratio))
        index = kept.logical_not().byte().argsort(stable=True)[:count]

        def of_survivors(x: Tensor) -> Tensor:
            if len(x) == count:
                return x
            if len(x) == len(kept):  # taken before the prune, or dense again
                return x.index_select(0, index)
            if stts.stage != "frames" and not stts.put_back:
                raise ValueError(
                    f"{type(host).__name__}.encode gave {len(x)} features, must be {count} of survivors or "
                    f"{len(kept)} of all windows: is its tail {host.tail!r}?"
                )
            ran = stays(choice.run.ran(), windows, clips)  # whole frames run on
            return x.index_select(0, (ran.cumsum(0) - 1)[index])

        extra = {name: [of_survivors(x) for x in parts] for name, parts in extra.items()}
        return of_survivors(features), extra, choice, kept

    def _positions(self, positions: Tensor, survivors: Survivors, stts: STTSConfig) -> Tensor:
        """Positions of the survivors: (B, L_kept), or (4, B, L_kept), one plane for masks and three of mrope."""
        if positions.ndim == 2:
            if stts.position_ids == "compact":
                return compact_positions(survivors.valid)
            return survivors.take(positions.expand_as(survivors.keep), 0)
        planes = [survivors.take(plane, 0) for plane in positions[-3:]]
        return torch.stack([compact_positions(survivors.valid), *planes])

    def _of_survivors(
        self, inputs: dict[str, Any], input_ids: Tensor, survivors: Survivors
    ) -> dict[str, Any]:
        """The other arguments: the videos' gone, and of those with an entry for every token the survivors'."""
        kept = {name: x for name, x in inputs.items() if name not in (*self.host.keys, "frames_per_video")}
        for name, x in kept.items():
            if isinstance(x, Tensor) and x.shape == input_ids.shape:
                kept[name] = survivors.take(x, 0)
        return kept

    # ------------------------------------------------------------------ losses

    def _finish(
        self,
        out: ModelOutput,
        pruned: Pruned | None,
        input_ids: Tensor | None,
        mask: Tensor | None,
    ) -> PrunedCausalOutput:
        """Add the auxiliary loss and what pruning did to transformers' output."""
        known = PrunedCausalOutput.__dataclass_fields__
        result = PrunedCausalOutput(**{name: x for name, x in out.items() if name in known})
        result.lm_loss, result.aux_loss = out.loss, None
        if pruned is not None:
            result.keep_mask = pruned.survivors.keep
            result.keep_windows, result.scores = pruned.choice.keep_windows, pruned.choice.scores
        elif input_ids is not None:
            result.keep_mask = (torch.ones_like(input_ids) if mask is None else mask).bool()
        if self.training or out.loss is not None:
            result.aux_loss, result.targets = self._aux_loss(pruned)
        if self.training and out.loss is not None:
            result.loss = out.loss + self.stts.aux_loss_weight * result.aux_loss
        return result

    def _aux_loss(self, pruned: Pruned | None) -> tuple[Tensor, Tensor | list[Tensor] | None]:
        """The temporal loss of the batch and its targets; without scores a zero that still holds the scorer's
        parameters, so that data-parallel ranks without a video take part in its gradient."""
        stts, unit = self.stts, self.host.unit
        if pruned is None or pruned.choice.run is None or stts.policy != "scorer":
            zero = torch.zeros((), device=self.device)
            return sum((p.float().sum() * 0 for p in self.host.scorer.parameters()), zero), None
        losses, counts, run = [], [], pruned.choice.run
        for group in run.groups:
            scored = group.scored.detach() if stts.detach_targets else group.scored
            group.targets = novelty(scored, unit, group.grid)
            across = stts.aux_across_videos
            losses.append(score_error(group.scores, group.targets, group.frames, across))
            pairs = sum(group.frames) - (1 if across else len(group.frames))
            counts.append(pairs * group.scores.shape[1])
        targets = run.together("targets")
        targets = [x.detach() for x in targets] if isinstance(targets, list) else targets.detach()
        if len(losses) == 1:
            return losses[0], targets
        total = max(sum(counts), 1)
        return sum(loss * (count / total) for loss, count in zip(losses, counts, strict=True)), targets


def clips_of(
    host: Host, inputs: dict[str, Any], layout: BatchLayout | None, visual: VisualTokens | None = None
) -> Clips:
    """The sizes of the videos, from the host's memory where it has them."""
    if layout is not None:
        grids = layout.grids or (() if visual is None else visual.grids)
        if grids:
            return Clips(layout.frames_per_video, grids, host.unit)
    return host.clips(inputs)


def padded_left(input_ids: Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """generate's arguments, padding moved to the left in all that have an entry for every token."""
    mask = inputs.get("attention_mask")
    if input_ids is None:
        return inputs
    inputs = {"input_ids": input_ids, **inputs}
    if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
        return inputs
    survivors = plan_survivors(mask.bool(), mask.shape[1], left=True)
    return {
        name: survivors.take(x, 0) if isinstance(x, Tensor) and x.shape == mask.shape else x
        for name, x in inputs.items()
    }


def encoded_before(
    visual: VisualTokens, clips: Clips, windows: list[Tensor], num_kept: int
) -> tuple[Tensor, dict[str, list[Tensor]], Choice, Tensor]:
    """What PrunedVLM._encode returns, of videos that were encoded before."""
    visual.check(num_kept)
    parts = visual.keep if isinstance(visual.keep, list) else [visual.keep]
    keep = torch.cat([x.flatten() for x in parts])
    choice = Choice(keep, visual.keep, visual.scores)
    return visual.features, visual.extra, choice, stays(keep, windows, clips)


def count_positions(mask: Tensor, skip_padding: bool) -> Tensor:
    """(B, L) positions as transformers counts them: forward all columns, generate the tokens it has a mask for."""
    if skip_padding:
        return (mask.long().cumsum(1) - 1).clamp(0)
    return torch.arange(mask.shape[1], device=mask.device).expand_as(mask)


def stays(keep: Tensor, windows: list[Tensor], clips: Clips) -> Tensor:
    """Which placeholders stay, (tokens,) bool. keep: (all windows,); windows: of each video, Host.windows_of."""
    owners, start = [], 0
    for owner, frames, count in zip(windows, clips.frames, clips.windows, strict=True):
        owners.append(torch.where(owner < 0, -1, owner + start))
        start += frames * count
    owner = torch.cat(owners)
    if len(owner) == start and torch.equal(owner, torch.arange(start)):
        return keep
    owner = owner.to(keep.device, non_blocking=True)
    return keep[owner.clamp(0)] | (owner < 0)


def choose_in_front(features: Tensor, clips: Clips, stts: STTSConfig, windows: list[Tensor]) -> Choice:
    """Choose among the tokens that were made for the LLM of all windows, (tokens, D)."""
    videos, start = [], 0
    for owner, frames, grid in zip(windows, clips.frames, clips.grids, strict=True):
        places = (owner >= 0).nonzero().flatten()[owner[owner >= 0].argsort()] + start
        tokens = features.index_select(0, places.to(features.device, non_blocking=True))
        videos.append((frames, window_grid(grid, clips.unit), tokens.unflatten(0, (frames, -1))))
        start += len(owner)
    if len(set(clips.grids)) == 1:
        tokens = torch.cat([tokens for *_, tokens in videos])
        keep, scores = choose(View(tokens, clips.frames, videos[0][1], 1, stts))
        return Choice(keep.flatten(), keep, scores)
    chosen = [choose(View(tokens, (frames,), grid, 1, stts)) for frames, grid, tokens in videos]
    keep, scores = (list(x) for x in zip(*chosen, strict=True))
    return Choice(torch.cat([x.flatten() for x in keep]), keep, scores)


def by_row(host: Host, features: Tensor, extra: dict[str, list[Tensor]], per_row: list[int]) -> ModelOutput:
    """Features of survivors as the host's forward takes them, and how to repeat them for beams."""
    rows = list(features.split(per_row))
    more = {name: [list(x.split(per_row)) for x in parts] for name, parts in extra.items()}

    def again(times: int) -> ModelOutput:
        order = [row for row in range(len(rows)) for _ in range(times)]
        return host.output(
            [rows[r] for r in order], {k: [[x[r] for r in order] for x in v] for k, v in more.items()}
        )

    encoded = again(1)
    object.__setattr__(encoded, "again", again)
    return encoded


def check_whole_prompt(input_ids: Tensor | None, mask: Tensor | None, cache: Any) -> None:
    """Raises ValueError unless the whole conversation is there as (B, L) tokens, none of it in the cache."""
    if input_ids is None or (mask is not None and mask.ndim != 2):
        raise ValueError("a pruning model needs input_ids, and an attention_mask of (B, L) if any")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            "past_key_values holds tokens already: a pruning model takes its videos with the whole conversation "
            "in input_ids, and goes on from there without them"
        )
