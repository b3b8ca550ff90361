"""What happens when a visitor touches the page, without the page: names of its parts -> what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pruning.config import STTSConfig
from ..viz.config import headline
from ..viz.kept_video import KeptVideo
from .clips import QUESTION, StartClip, start_clips
from .config import AppConfig
from .errors import heard, told
from .given import ASK, LOOK, Given
from .jobs import Job, StoppedError
from .models import Models, Setting
from .panels import answers_table, links, note, progress, viewer
from .saving import as_seen_from_here, command, draw_files
from .visits import Visit, Visits

CANCELLED = "Cancelled."


@dataclass(frozen=True)
class Visible:
    """A part that comes or goes."""

    on: bool


@dataclass(frozen=True)
class Chosen:
    """A menu with another list, and what is chosen of it."""

    choices: list[str]
    value: str


Changes = dict[str, Any]
"""Part of the page -> its new value, Visible or Chosen."""


class Actions:
    """One of them for all visitors; what belongs to one is in the Visit of the session."""

    def __init__(self, config: AppConfig, models: Models, visits: Visits) -> None:
        self.config, self.models, self.visits = config, models, visits
        self.clips = start_clips(config)

    def draw(self, session: str, values: Sequence[Any]) -> Iterator[Changes]:
        """What the settings keep of the clip: one side, or both."""
        visit, given = self.visits.of(session), Given.of(values)
        asking = Visible(given.view == ASK)
        looking = Visible(not asking.on)
        yield {
            "side_b": Visible(given.view != LOOK),
            "asking": asking,
            "layer": looking,
            "pictures": looking,
            "links": "",
        }
        if tuple(values) == visit.refused:  # sliders ask twice for the same
            yield {"status": note(CANCELLED)}
            return
        if tuple(values) != visit.drawing:
            visit.drop("files")  # they would be offered beside other pictures
        visit.refused, visit.drawing = None, tuple(values)

        def work(job: Job) -> Changes:
            changed, clip, seen = {"command": self._command(visit, given)}, self._clip(visit, given.clip), {}
            if asking.on:
                return changed
            for letter, setting in given.sides.items():
                name = f"{letter}: {self.models.words(setting)}"
                seen[name] = self._seen(visit, clip, given.frames, setting, job)
            warnings = dict.fromkeys(filter(None, map(self.models.warning, given.sides.values())))
            return changed | {"pictures": viewer(seen), "status": note(" ".join(warnings))}

        yield from self._wait(visit, "draw", work)

    def ask(self, session: str, values: Sequence[Any]) -> Iterator[Changes]:
        """The replies of both sides, and of no pruning."""
        visit, given = self.visits.of(session), Given.of(values)

        def work(job: Job) -> Changes:
            clip = self._clip(visit, given.clip)
            asked = {"unpruned": given.sides["A"].unpruned} | given.sides
            processors = [self.models.by_label[one.model].processor for one in asked.values()]
            shown = [visit.shown(clip.path, processor, given.frames, job) for processor in processors]
            with heard() as warnings:
                pairs = list(zip(asked.values(), shown, strict=True))
                found = self.models.ask(pairs, given.question, given.options, job)
            table = answers_table(given.question, dict(zip(asked, found, strict=True)), self.models.words)
            warned = note(" ".join(dict.fromkeys(warnings)))
            return {"answers": table, "command": self._command(visit, given), "status": warned}

        yield from self._wait(visit, "ask", work)

    def draw_files(self, session: str, values: Sequence[Any]) -> Iterator[Changes]:
        """The files that visualize.py writes, as links."""
        visit, given = self.visits.of(session), Given.of(values)

        def work(job: Job) -> Changes:
            files, clip = {}, self._clip(visit, given.clip)
            for letter, setting in given.sides.items():
                seen = self._seen(visit, clip, given.frames, setting, job)
                stts = STTSConfig(policy=setting.policy, prune_ratio=setting.prune_ratio)
                title = headline(seen.name, setting.model, stts)
                drawn = draw_files(seen, title, visit.folder / "drawn", job)
                before = "" if len(given.sides) == 1 else f"{letter}-"
                files |= {before + name: content for name, content in drawn.items()}
            return {"links": links(files)}

        yield from self._wait(visit, "files", work)

    def take(self, session: str, upload: str) -> Changes:
        """A file was dropped: it is the clip from now on."""
        visit = self.visits.of(session)
        try:
            own = visit.take(self.visits.check(upload))
        except (ValueError, OSError) as error:
            return {"upload": None, "status": note(told(error, [visit.folder]), "error")}
        name = own.name if visit.taken == 1 else f"{own.name} ({visit.taken})"
        return {"upload": None, "clip": Chosen([*self.clips, name], name)}

    def suggest(self, session: str, clip: str) -> Changes:
        """What may be asked about a clip; nothing where that was said, and may have been written over since."""
        visit = self.visits.of(session)
        if clip == visit.suggested:
            return {}
        visit.suggested = clip
        visit.drop("ask")  # the answer would stand below another clip
        found = self.clips.get(clip, StartClip(Path(), QUESTION))
        return {"question": found.question, "options": ", ".join(found.options), "answers": ""}

    def stop(self, session: str) -> None:
        """Cancel what this visitor waits for."""
        visit = self.visits.of(session)
        if "draw" in visit.jobs and not visit.jobs["draw"].stopped.is_set():
            visit.refused = visit.drawing
        visit.stop()

    def _clip(self, visit: Visit, name: str) -> StartClip:
        """The clip of that name: one of those at the start, or the visitor's own."""
        if name in self.clips:
            return self.clips[name]
        if visit.own is None:
            raise ValueError("there is no clip: drop a video, or choose one")
        return StartClip(visit.own)

    def _seen(self, visit: Visit, clip: StartClip, frames: int, setting: Setting, job: Job) -> KeptVideo:
        processor = self.models.by_label[setting.model].processor
        shown = visit.shown(clip.path, processor, frames, job)
        return visit.seen((clip.path, frames, setting), lambda: self.models.look(setting, shown, job))

    def _command(self, visit: Visit, given: Given) -> str:
        """How the first side is drawn without the page."""
        path = self._clip(visit, given.clip).path
        video = path.name if path == visit.own else as_seen_from_here(path)
        setting, asked = given.sides["A"], (given.question, given.options) if given.view == ASK else ()
        loaded = self.models.by_label[setting.model]
        return command(loaded, setting, video, given.frames, self.config.seed, *asked)

    def _wait(self, visit: Visit, kind: str, work: Callable[[Job], Changes]) -> Iterator[Changes]:
        """Do some work and show how far it is; then what it returns, or what went wrong."""
        job, over = visit.start(kind, work), {"cancel": Visible(False)}
        try:
            for doing, share in job:
                yield {"status": progress(doing, share), "cancel": Visible(True)}
            shown = over | {"status": ""} | job.result()
            yield shown
            yield {"status": shown["status"]}  # gradio sends the last once more: not the pictures
        except StoppedError:
            if visit.jobs.get(kind) is job:  # and no newer one took its place
                yield over | {"status": note(CANCELLED)}
        except Exception as error:
            mine = [visit.folder, *(clip.path.absolute().parent for clip in self.clips.values())]
            yield over | {"status": note(told(error, mine), "error")}
        finally:
            job.stop()  # also where nobody waits any more
