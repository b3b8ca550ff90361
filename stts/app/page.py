"""The page itself: what is where, and which action each part calls. Nothing else imports gradio."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from .actions import Actions, Changes, Chosen, Visible
from .config import CHOICES, AppConfig
from .given import ASK, COMPARE, LOOK
from .models import Models, Setting
from .panels import head
from .visits import Visits

ASSETS = Path(__file__).parents[1] / "assets"
LAYERS = {"kept windows": "kept", "scores": "scores", "the clip": "frames"}
MEGABYTE = 2**20
BARE = {"apply_default_css": False}
QUIET = {"show_progress": "hidden", "api_visibility": "private"}


def lenient(slider: gr.Slider) -> None:
    """A number beyond its ends, or none, is the end that the page then shows, and no mistake."""
    least, most, taken = slider.minimum, slider.maximum, slider.preprocess
    slider.preprocess = lambda number: taken(min(max(least, number or least), most))


class Page:
    """Its parts, by the names that actions call them."""

    def __init__(self, config: AppConfig, actions: Actions) -> None:
        self.config, self.actions, self.models = config, actions, actions.models
        self.parts: dict[str, Any] = {}
        self.blocks = gr.Blocks(
            title="stts", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
        )
        with self.blocks:
            self._add("head", gr.HTML, head(self.models), **BARE)
            with gr.Row():
                with gr.Column(scale=1, min_width=290, elem_id="controls"):
                    self._lay_out_controls()
                with gr.Column(scale=4, min_width=520):
                    self._lay_out_views()
            self._connect()

    def _add(self, name: str, kind: type, *args: Any, **settings: Any) -> None:
        self.parts[name] = kind(*args, elem_id=name, **settings)

    def _lay_out_controls(self) -> None:
        clips, most = list(self.actions.clips), f"{self.config.max_upload_mb:g} MB"
        self._add("upload", gr.File, label=f"Your video, up to {most}", height=118)
        self._add("clip", gr.Dropdown, clips, value=clips[0], label="Clip")
        frames = {"step": 1, "label": "Frames, at most"}
        self._add("frames", gr.Slider, 2, self.config.max_frames, self.config.frames, **frames)
        lenient(self.parts["frames"])
        first, *more = self.models.by_label
        start = self.models.start(first)
        other = self.models.start(more[0]) if more else Setting(first, "random", start.prune_ratio)
        self._lay_out_side("a", start)
        with gr.Column(visible=False) as self.parts["side_b"]:
            self._lay_out_side("b", other)
        with gr.Accordion("Take it home", elem_id="home"):
            shell = {"language": "shell", "label": "As a command", "lines": 2, "wrap_lines": True}
            self._add("command", gr.Code, interactive=False, show_line_numbers=False, **shell)
            self._add("save", gr.Button, "Draw picture and film", size="sm")
            self._add("links", gr.HTML, **BARE)

    def _lay_out_side(self, side: str, start: Setting) -> None:
        """Model, policy and ratio of one side."""
        labels, letter = list(self.models.by_label), side.upper()
        with gr.Group(elem_classes=f"box-{side}"):
            several = len(labels) > 1
            menu = {"value": start.model, "label": f"{letter}: model", "visible": several}
            self._add(f"model_{side}", gr.Dropdown, labels, **menu)
            menu = {"value": start.policy, "label": f"{letter}: who decides what is dropped"}
            self._add(f"policy_{side}", gr.Dropdown, list(CHOICES), **menu)
            slider = {"step": 0.05, "label": f"{letter}: dropped"}
            self._add(f"ratio_{side}", gr.Slider, 0, 0.95, start.prune_ratio, **slider)
            lenient(self.parts[f"ratio_{side}"])

    def _lay_out_views(self) -> None:
        plain = {"show_label": False, "container": False}
        with gr.Row(elem_id="bar"):
            self._add("view", gr.Radio, [LOOK, COMPARE, ASK], value=LOOK, **plain)
            self._add("layer", gr.Radio, list(LAYERS), value=next(iter(LAYERS)), **plain)
        with gr.Row(elem_id="state"):
            self._add("status", gr.HTML, **BARE)
            self._add("cancel", gr.Button, "Cancel", visible=False, size="sm", min_width=90, scale=0)
        self._add("pictures", gr.HTML, **BARE)
        first = next(iter(self.actions.clips.values()))
        with gr.Column(visible=False) as self.parts["asking"]:
            with gr.Row():
                self._add("question", gr.Textbox, first.question, label="Question", scale=3)
                label = "Options, if any, with commas between"
                self._add("options", gr.Textbox, ", ".join(first.options), label=label, scale=2)
                self._add("go", gr.Button, "Ask", variant="primary", scale=0, min_width=110)
            self._add("answers", gr.HTML, **BARE)

    def _connect(self) -> None:
        parts, actions = self.parts, self.actions
        sides = [parts[f"{name}_{side}"] for side in "ab" for name in ("model", "policy", "ratio")]
        drawn = [parts["view"], parts["clip"], parts["frames"], *sides]
        given = [*drawn, parts["question"], parts["options"]]
        again = [self.blocks.load, *(part.change for part in drawn)]
        asked = [parts["go"].click, parts["question"].submit, parts["options"].submit]
        state = [parts["status"], parts["cancel"]]
        views = [parts[name] for name in ("side_b", "asking", "layer", "pictures", "links", "command")]
        answers = [parts["answers"], parts["command"]]
        suggested = [parts[name] for name in ("question", "options", "answers")]
        taken = [parts[name] for name in ("upload", "clip", "status")]
        newest = {"trigger_mode": "multiple", **QUIET}  # a second click counts: it ends the work of the first
        # before what draws: of two that hear of the same event, the second begins when the first is over
        parts["clip"].change(self._suggest, parts["clip"], suggested, **QUIET)
        gr.on(again, self._steps(actions.draw), given, state + views, trigger_mode="always_last", **QUIET)
        gr.on(asked, self._steps(actions.ask), given, state + answers, **newest)
        parts["save"].click(self._steps(actions.draw_files), given, [*state, parts["links"]], **newest)
        parts["upload"].upload(self._take, parts["upload"], taken, **newest)
        parts["cancel"].click(self._stop, queue=False, **QUIET)
        show = f"name => {{ document.body.dataset.layer = {LAYERS}[name] }}"
        parts["layer"].change(None, parts["layer"], js=show, **QUIET)
        self.blocks.unload(self._leave)

    def _updates(self, changes: Changes) -> dict[Any, Any]:
        """What an action said, in gradio's words."""
        updates = {}
        for name, value in changes.items():
            if isinstance(value, Visible):
                value = gr.update(visible=value.on)
            elif isinstance(value, Chosen):
                value = gr.update(choices=value.choices, value=value.value)
            updates[self.parts[name]] = value
        return updates

    def _steps(self, action: Callable[[str, tuple], Iterator[Changes]]) -> Callable:
        def run(request: gr.Request, *values: Any) -> Iterator[dict[Any, Any]]:
            for changes in action(request.session_hash, values):
                yield self._updates(changes)

        return run

    def _take(self, request: gr.Request, upload: str) -> dict[Any, Any]:
        return self._updates(self.actions.take(request.session_hash, upload))

    def _suggest(self, request: gr.Request, clip: str) -> dict[Any, Any]:
        changes = self.actions.suggest(request.session_hash, clip)
        return self._updates(changes) or {self.parts["answers"]: gr.skip()}

    def _stop(self, request: gr.Request) -> None:
        self.actions.stop(request.session_hash)

    def _leave(self, request: gr.Request) -> None:
        self.actions.visits.end(request.session_hash)


def open_page(config: AppConfig, visits: Visits) -> str:
    """Start to serve, in threads of its own; the page's address."""
    os.environ["GRADIO_TEMP_DIR"] = str(visits.uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    logging.getLogger("httpx").setLevel(logging.WARNING)
    blocks = Page(config, Actions(config, Models(config), visits)).blocks
    fonts = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }  # none is fetched
    style, script, stream = ((ASSETS / name).read_text() for name in ("app.css", "app.js", "app.stream.js"))
    _, address, public = blocks.queue(max_size=64, default_concurrency_limit=8).launch(
        server_name=config.host,
        server_port=config.port or None,
        share=config.share,
        max_file_size=int(config.max_upload_mb * MEGABYTE),
        theme=gr.themes.Base(primary_hue="teal", neutral_hue="slate", **fonts),
        head=f"<style>{style}</style><script>{stream}</script><script>{script}</script>",  # css= would be rewritten
        footer_links=[],
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
    )
    return public or address


def serve(config: AppConfig) -> None:
    """Until the process is interrupted or told to end; then nothing of the visitors is left."""
    visits = Visits(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        print(f"open {open_page(config, visits)}  (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(1)  # not for ever: a signal that another thread took is heard when this one wakes
    finally:
        visits.close()
