"""python scripts/visualize.py checkpoint=outputs/train/RUN/model video=clip.mp4; --help explains every key."""

from __future__ import annotations

from typing import Any

from stts.eval.config import warn_if_untrained
from stts.eval.records import write_json
from stts.hosts.folders import ModelSpec, find_folder
from stts.hosts.load import default_device, load_model
from stts.pruning.config import STTSConfig
from stts.settings.launch import launch
from stts.settings.next_command import of_model, suggest
from stts.settings.run_names import named_after_weights
from stts.settings.typed import from_dict
from stts.viz.config import DrawingConfig, folder_for, headline


def main(config: dict[str, Any]) -> None:
    """Settings and files first, then the model, then the pictures."""
    config = named_after_weights(config)
    settings = {key: config[key] for key in ("video", "frames", "reading", "question", "options", "seed")}
    drawing = from_dict(DrawingConfig, settings | config["draw"])
    drawing.check_ready()
    folder = folder_for(drawing.path, config["output_dir"])
    model_spec = from_dict(ModelSpec, config["model"], "model")
    stts = from_dict(STTSConfig, {key: config[key] for key in ("prune_ratio", "policy")} | config["stts"])
    warn_if_untrained(stts, find_folder(model_spec, config["checkpoint"]))

    import torch

    from stts.viz.contact_sheet import draw_sheet
    from stts.viz.kept_video import ask_about, describe_kept, look_at
    from stts.viz.movie import write_film

    torch.manual_seed(config["seed"])  # of the scorer of a model that has none yet
    model, processor = load_model(model_spec, stts, config["checkpoint"])
    model.to(default_device())
    seen = look_at(model, processor, drawing.path, drawing.frames, seed=drawing.seed, **drawing.reading)
    if seen.keep.all():
        raise ValueError(
            f"nothing is dropped of {drawing.path}: prune_ratio is {stts.prune_ratio} and {len(seen.keep)} "
            "frames were taken; choose prune_ratio above 0 and a video of several frames"
        )
    reply = ask_about(model, processor, drawing) if drawing.question else None
    title = headline(seen.name, model_spec.name, model.stts, drawing.question, reply)
    print(f"drawn: {draw_sheet(seen, folder / 'sheet.png', title, drawing.sheet_frames)}")
    if drawing.mp4:
        print(f"drawn: {write_film(seen, folder / 'overlay.mp4', title, drawing.fps)}")
    numbers = {"file": str(drawing.path), "settings": model.stts.to_dict(), "answer": reply} | describe_kept(
        seen
    )
    write_json(folder / "kept.json", numbers)
    print(f"written: {folder / 'kept.json'}")
    suggest("eval", **of_model(config))


if __name__ == "__main__":
    launch(main, "visualize")
