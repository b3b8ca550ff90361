"""Generated clips: what the files show, what is asked about it, and that the answers are right.

Pixels are judged after decoding, by the colour in them; answers by a second reading of the questions.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stts.data import DataSpec, load_data, read_video
from stts.data.evidence import evidence_windows
from stts.data.rows import checked_rows, row_messages
from stts.data.synthetic.bystanders import draw_passers, place_decoys
from stts.data.synthetic.clips import conversation, make_clip, make_synthetic
from stts.data.synthetic.events import Event
from stts.data.synthetic.kinds import CELLS
from stts.data.synthetic.questions import ask_all
from stts.data.synthetic.render import render_clip, shape_mask
from stts.data.synthetic.spec import BYSTANDERS, COLOURS, SHAPES, SyntheticSpec
from stts.data.video import encode
from stts.eval.tasks import DataBenchmark
from stts.eval.tasks.data import load_test_rows
from stts.files.jsonl import read_jsonl
from tests.helpers.paths import ROOT

SPEC = SyntheticSpec(num_train=5, num_test=5, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "clips", num_train=5, num_test=5, seed=3)


def rows_of(folder: Path) -> list[dict]:
    return read_jsonl(folder / "train.jsonl") + read_jsonl(folder / "test.jsonl")


def coloured_box(frame: np.ndarray) -> list[int] | None:
    """Box (left, top, right, bottom) of the pixels that are not grey; None when all are."""
    y, x = np.nonzero(np.ptp(frame.astype(int), axis=-1) > 60)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else None


def solve(question: str, events: list[dict], slots: int = 10) -> tuple[str, list[dict]]:
    """The answer and the events it rests on, found by looking words up in the list of events."""
    words = question.strip("?").split()
    times = [(e["start"] + e["end"]) / 2 for e in events]
    asked = words[1]
    if question.startswith("How many"):
        return [None, "one", "two", "three", "four", "five", "six"][len(events)], events
    named = [e for e in events if e["colour"] in words or e["shape"] in words]
    if question.startswith("Was there"):
        return ("yes" if named else "no"), named
    if words[2] == "came":
        event = {"first": events[0], "last": events[-1]}[words[3]]
        return event[asked], [event]
    assert len(named) == 1, f"{question!r} is ambiguous"
    if words[0] == "When":
        share = (times[events.index(named[0])] / 0.5 - 1) / (slots - 1)
        return ("early" if share < 1 / 3 - 1e-9 else "middle" if share < 2 / 3 - 1e-9 else "late"), named
    return named[0][asked], named


def test_sampling_sees_each_slot_once_and_the_evidence_where_it_is_said_to_be(folder: Path) -> None:
    rows = {row["video"]: row for row in rows_of(folder)}
    assert len(rows) == 10
    for video, row in rows.items():
        clip = read_video(folder / video, frames=128)
        assert clip.frames.shape == (10, 72, 72, 3)
        np.testing.assert_allclose(clip.timestamps, np.arange(10) / 2, atol=1e-6)
        boxes = [coloured_box(frame) for frame in clip.frames]
        assert boxes[0] is None
        assert sum(box is not None for box in boxes) == len(row["events"])
        for event in row["events"]:
            (t,) = np.nonzero((clip.timestamps >= event["start"]) & (clip.timestamps < event["end"]))[0]
            np.testing.assert_allclose(np.array(event["box"]) * 72, boxes[t], atol=2)
            colour = np.median(clip.frames[t][np.ptp(clip.frames[t].astype(int), axis=-1) > 60], axis=0)
            nearest = min(COLOURS, key=lambda name: np.abs(colour - COLOURS[name]).sum())
            assert nearest == event["colour"]


def test_whole_slots_show_the_event(folder: Path) -> None:
    """Every encoded frame, not only the sampled one: four frames a slot, so a decoder may be off by one."""
    row = read_jsonl(folder / "train.jsonl")[0]
    clip = read_video(folder / row["video"], frames=37, max_fps=8)
    assert len(clip.frames) == 37
    shown = [any(e["start"] <= t < e["end"] for e in row["events"]) for t in clip.timestamps]
    assert [coloured_box(frame) is not None for frame in clip.frames] == shown


def test_default_evidence_is_one_window_of_the_tiny_model(folder: Path) -> None:
    for row in rows_of(folder):
        marked = evidence_windows(row["events"], np.arange(10) / 2, rows=3, cols=3)
        assert marked.sum(1).max() == 1
        assert marked.sum() == len(row["events"])
        assert not marked[0].any()


def test_rows_are_what_datasets_read(folder: Path) -> None:
    for split in ("train", "test"):
        rows = checked_rows(folder / f"{split}.jsonl")
        assert all((folder / row["video"]).is_file() for row in rows)
    test = read_jsonl(folder / "test.jsonl")
    assert len(test) == 20
    for row in test:
        assert row["answer"] in row["options"]
        assert 2 <= len(row["options"]) <= 6
        answer, shown = solve(row["question"], row["events"])
        assert answer == row["answer"]
        keys = ("start", "end", "box")
        assert row["evidence"] == [{key: event[key] for key in keys} for event in shown]


def test_train_turns_read_like_test_questions(folder: Path) -> None:
    for index, row in enumerate(read_jsonl(folder / "train.jsonl")):
        _, _, questions = make_clip("train", index, SPEC)
        assert 11 <= len(questions) <= 12
        assert row["messages"] == [turn for question in questions for turn in row_messages(question)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_right_and_questions_unambiguous(split: str) -> None:
    spec = replace(SPEC, min_events=1, max_events=6, questions_per_clip=99, test_questions_per_clip=99)
    categories = set()
    for index in range(200):
        _, events, questions = make_clip(split, index, spec)
        events = [{"colour": e.colour, "shape": e.shape, **e.evidence(spec.size)} for e in events]
        assert len({e["colour"] for e in events}) == len(events)
        assert [e["start"] for e in events] == sorted(e["start"] for e in events)
        assert min(e["start"] for e in events) >= 0.25  # never in the first slot
        assert len({q["question"] for q in questions}) == len(questions)
        for question in questions:
            assert solve(question["question"], events)[0] == question["answer"]
            categories.add(question["category"])
    assert categories == {"shape", "colour", "when", "first", "last", "count", "seen"}


def test_no_question_names_what_another_one_asks() -> None:
    for index in range(200):
        _, events, questions = make_clip("train", index, replace(SPEC, questions_per_clip=99))
        about = [q for q in questions if q["category"] in ("shape", "colour", "when", "seen")]
        words = {word for q in about if q["answer"] != "yes" for word in q["question"].split()}
        for event in events:
            if [e.shape for e in events].count(event.shape) == 1:
                assert (event.colour in words) != (f"{event.shape}?" in words or event.shape in words)


@pytest.mark.parametrize("split", ["train", "test"])
def test_guessing_does_not_pay(split: str) -> None:
    """The commonest answer of each kind of question, and the commonest letter, are right at most 35 %."""
    answers, letters = defaultdict(Counter), Counter()
    for index in range(1000):
        for question in make_clip(split, index, SPEC)[2]:
            answers[question["question"].split()[0], question["category"]][question["answer"]] += 1
            letters[question["options"].index(question["answer"])] += 1
    total = letters.total()
    assert sum(max(counts.values()) for counts in answers.values()) / total < 0.35
    assert max(letters.values()) / total < 0.35
    yes_no = answers["Was", "seen"]
    assert yes_no["yes"] == pytest.approx(yes_no["no"], rel=0.1)


def test_same_seed_same_files_and_a_larger_set_begins_with_the_smaller(folder: Path, tmp_path: Path) -> None:
    again = make_synthetic(tmp_path / "again", num_train=6, num_test=5, seed=3)
    lines = [(f / "train.jsonl").read_text().splitlines() for f in (folder, again)]
    assert lines[0] == lines[1][:5]
    assert (folder / "test.jsonl").read_text() == (again / "test.jsonl").read_text()
    for row in rows_of(folder):
        assert (folder / row["video"]).read_bytes() == (again / row["video"]).read_bytes()


def test_seeds_and_splits_differ() -> None:
    def pixels(split: str, seed: int, index: int) -> np.ndarray:
        rng, events, _ = make_clip(split, index, replace(SPEC, seed=seed))
        return render_clip(events, SPEC, rng)

    clips = [pixels(*which) for which in (("train", 0, 0), ("train", 0, 1), ("test", 0, 0), ("train", 1, 0))]
    for i, clip in enumerate(clips):
        for other in clips[:i]:
            assert (clip[0] != other[0]).mean() > 0.5


def test_reuses_its_files_and_replaces_them_for_other_settings(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "clips"
    settings = {"num_train": 2, "num_test": 1, "seed": 3}
    make_synthetic(place, **settings)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    make_synthetic(place, **settings)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    make_synthetic(place, **settings | {"num_train": 1})
    assert sorted(path.name for path in place.rglob("*.mp4")) == ["test_00000.mp4", "train_00000.mp4"]
    assert len(read_jsonl(place / "train.jsonl")) == 1


def test_movers_always_move_and_only_they_do() -> None:
    still = replace(SPEC, noise=0.0)  # but for the discs
    rng, _, _ = make_clip("train", 0, still)
    frames = render_clip([], still, rng)[::4, ..., 0].astype(int)
    changed = np.abs(np.diff(frames, axis=0)) > 0
    assert (changed.mean((1, 2)) > 0.01).all()
    rng, _, _ = make_clip("train", 0, still)
    assert not np.ptp(render_clip([], replace(still, movers=0), rng), axis=0).any()
    rng, _, _ = make_clip("train", 0, SPEC)
    assert not np.ptp(render_clip([], SPEC, rng), axis=-1).any()  # all grey


def quiet(**settings: object) -> tuple[list[Event], np.ndarray]:
    """Events and sampled frames (10, 72, 72, 3) of a clip without discs and noise."""
    spec = replace(SPEC, noise=0.0, movers=0, **settings)
    rng, events, _ = make_clip("train", 0, spec)
    return events, render_clip(events, spec, rng)[::4].astype(int)


def test_lamps_flip_in_every_slot_and_nothing_else_moves() -> None:
    rng, _, _ = make_clip("train", 0, SPEC)
    spec = replace(SPEC, noise=0.0, movers=0, lamps=2)
    frames = render_clip([], spec, rng)[::4, ..., 0].astype(int)
    changed = np.abs(np.diff(frames, axis=0)) == 200
    assert (changed == (np.diff(frames, axis=0) != 0)).all()
    assert (changed.sum((1, 2)) == changed[0].sum()).all()
    assert 12 * 12 < changed[0].sum() <= 2 * 12 * 12


def test_pan_carries_the_background_along() -> None:
    rng, _, _ = make_clip("train", 0, SPEC)
    spec = replace(SPEC, noise=0.0, movers=0, pan=0.25)  # 9 pixels a slot
    frames = render_clip([], spec, rng)[::4]
    moved = [np.roll(frames[0], direction * 9 * np.arange(10)[3], axis=1) for direction in (-1, 1)]
    assert any((frames[3] == other).all() for other in moved)


def test_decoys_flash_in_colours_that_are_never_asked_about_and_never_over_an_event() -> None:
    spec = replace(SPEC, noise=0.0, movers=0)
    for index in range(20):
        rng, events, _ = make_clip("train", index, spec)
        decoys = place_decoys(events, replace(spec, decoys=10), rng)
        cells = {(d.slot, d.x // 24, d.y // 24) for d in decoys}
        assert len(decoys) == len(cells) == 10
        assert not cells & {(e.slot, e.x // 24, e.y // 24) for e in events}
        assert all((d.x % 24) + d.side <= 24 and (d.y % 24) + d.side <= 24 for d in decoys)
        assert {d.colour for d in decoys} <= BYSTANDERS.keys()
        assert all(d.slots == 1 and d.slot >= 1 for d in decoys)
    assert not BYSTANDERS.keys() & COLOURS.keys()
    crowded = replace(spec, still=1, decoys=100, min_events=1, max_events=1)
    rng, events, _ = make_clip("train", 0, crowded)
    assert len(place_decoys(events, crowded, rng)) == 9 * 9 - 9 - 1  # no more than there is room for


def test_passers_by_walk_through_behind_the_events() -> None:
    events, frames = quiet(passers=2)
    colours = [np.array(colour) for colour in BYSTANDERS.values()]
    walking = np.any([(frames == colour).all(-1) for colour in colours], axis=0)  # (10, 72, 72)
    assert (walking.sum((1, 2)) > 0).sum() >= 8
    assert (walking[1:] != walking[:-1]).any((1, 2)).all()
    assert walking.any(0).sum() <= 2 * 24 * 72
    for event in events:
        box = frames[event.slot, event.y : event.y + event.side, event.x : event.x + event.side]
        assert (box[shape_mask(event.shape, event.side)] == COLOURS[event.colour]).all()


def test_kinds_that_came_later_leave_the_others_as_they_were() -> None:
    """Where there are none of them, no random number is spent on them."""
    spec = replace(SPEC, movers=2, lamps=1)
    rng, events, _ = make_clip("train", 1, spec)
    state = rng.bit_generator.state
    draw_passers(np.zeros((37, 72, 72, 3), np.float32), spec, rng)
    assert place_decoys(events, spec, rng) == []
    assert rng.bit_generator.state == state


def test_events_that_last_are_there_as_long_as_they_say() -> None:
    few = {"min_events": 1, "max_events": 1}
    (still, _), frames = quiet(still=1, **few)
    box = frames[:, still.y : still.y + still.side, still.x : still.x + still.side]
    assert (box == box[0]).all()
    assert still.evidence(72)["start"] == 0
    (opening, _), frames = quiet(opening=1, **few)
    assert [coloured_box(frame) is not None for frame in frames[:2]] == [True, opening.slot == 1]
    (one, other), frames = quiet(fading=1, **few)
    fading = one if one.fades else other
    mask = shape_mask(fading.shape, fading.side)
    box = frames[:, fading.y : fading.y + fading.side, fading.x : fading.x + fading.side][:, mask]
    distance = np.abs(box - COLOURS[fading.colour]).mean((1, 2))
    steps = distance[fading.slot - 1 : fading.slot + 4] / distance[fading.slot - 1]
    np.testing.assert_allclose(steps, [1, 0.75, 0.5, 0.25, 0], atol=0.01)
    assert not distance[fading.slot + 4 :].any()
    half = fading.evidence(72)["start"]
    assert 2 * half + 0.5 == fading.slot + 2


@pytest.mark.parametrize("cell", CELLS)
def test_answers_are_right_in_every_cell(cell: str) -> None:
    for index in range(60):
        name, spec = replace(SPEC, cells=(cell,), questions_per_clip=99).of_clip(index)
        _, events, questions = make_clip("train", index, spec)
        assert name == cell
        assert 2 <= len(events) <= 4
        lasting = [e for e in events if e.lasts]
        cells = [(e.x // 24, e.y // 24) for e in events]
        assert all(cells.count((e.x // 24, e.y // 24)) == 1 for e in lasting)
        assert bool(lasting) == (cell in ("still", "fading", "crowded"))
        shown = [{"colour": e.colour, "shape": e.shape, **e.evidence(spec.size)} for e in events]
        for question in questions:
            answer, evidence = solve(question["question"], shown)
            assert answer == question["answer"]
            assert question["options"].count(answer) == 1
            assert question["evidence"] == [{k: e[k] for k in ("start", "end", "box")} for e in evidence]
            assert not (lasting and question["category"] in ("first", "last"))
            assert not (question["category"] == "when" and evidence[0]["end"] - evidence[0]["start"] > 0.5)


def test_cells_take_turns_and_are_recorded(tmp_path: Path) -> None:
    place = make_synthetic(tmp_path / "x", num_train=3, num_test=3, cells=["still", "pan"], seed=1)
    rows = read_jsonl(place / "train.jsonl")
    assert [row["cell"] for row in rows] == ["still", "pan", "still"]
    assert [len(row["evidence"]) for row in rows] == [len(row["events"]) for row in rows]
    questions = load_test_rows(
        DataBenchmark(
            "x",
            data={
                "name": "jsonl",
                "annotations": str(place / "train.jsonl"),
                "test_annotations": str(place / "test.jsonl"),
            },
        )
    )
    assert {question.groups["cell"] for question in questions} == {("still",), ("pan",)}
    with pytest.raises(ValueError, match="cells has 'dark', must be of plain, movers"):
        make_synthetic(tmp_path / "y", cells=["plain", "dark"])


@pytest.mark.parametrize("side", [6, 18, 19, 70])
def test_shapes_fill_their_box_and_differ(side: int) -> None:
    masks = {shape: shape_mask(shape, side) for shape in SHAPES}
    for mask in masks.values():
        y, x = mask.nonzero()
        assert (y.min(), y.max(), x.min(), x.max()) == (0, side - 1, 0, side - 1)
    for shape in SHAPES:
        assert all((masks[shape] != masks[other]).mean() > 0.15 for other in SHAPES if other != shape)


def test_direct_share_and_shuffled_options() -> None:
    rng, _, questions = make_clip("train", 0, SPEC)
    words = [turn["content"] for turn in conversation(questions, replace(SPEC, direct_share=1.0), rng)]
    assert words == [text for q in questions for text in (q["question"], q["answer"])]
    orders = defaultdict(set)
    for index in range(60):
        for question in make_clip("train", index, replace(SPEC, shuffle_options=True))[2]:
            orders[question["category"]].add(tuple(question["options"]))
            assert solve_position(question)
    assert len(orders["when"]) == 6
    fixed = [q for index in range(60) for q in make_clip("train", index, SPEC)[2]]
    kinds = {(q["category"], q["question"].split()[1] if q["question"][:4] == "What" else "") for q in fixed}
    assert len({(q["category"], *q["options"]) for q in fixed}) == len(kinds)


def solve_position(question: dict) -> bool:
    """Whether the letter that the assistant gives stands before the answer in the prompt."""
    user, assistant = row_messages(question)
    return f"{assistant['content']}. {question['answer']}" in user["content"].split("\n")


def test_other_sizes(tmp_path: Path) -> None:
    settings = {"size": 130, "slots": 5, "fps": 12, "grid": 1, "min_events": 1, "max_events": 4, "movers": 0}
    place = make_synthetic(tmp_path / "x", num_train=3, num_test=0, **settings)
    for row in read_jsonl(place / "train.jsonl"):
        clip = read_video(place / row["video"], frames=64)
        assert clip.frames.shape == (5, 130, 130, 3)
        for event in row["events"]:
            t = int(np.argmin(np.abs(clip.timestamps - (event["start"] + event["end"]) / 2)))
            np.testing.assert_allclose(np.array(event["box"]) * 130, coloured_box(clip.frames[t]), atol=2)
    assert (place / "test.jsonl").read_text() == ""


def test_one_possible_count_is_not_asked_for() -> None:
    spec = replace(SPEC, min_events=2, max_events=2)
    rng, events, _ = make_clip("train", 0, spec)
    assert "count" not in {question["category"] for question in ask_all(events, spec, rng)}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_train", -1),
        ("num_test", -1),
        ("seed", -1),
        ("size", 95),
        ("size", 30),
        ("slots", 3),
        ("fps", 6),
        ("fps", 4),
        ("grid", 0),
        ("grid", 6),
        ("min_events", 0),
        ("max_events", 7),
        ("max_events", 1),
        ("movers", -1),
        ("still", -1),
        ("opening", 2),
        ("fading", -1),
        ("max_events", 6),
        ("lamps", -1),
        ("pan", -0.1),
        ("decoys", -1),
        ("passers", -1),
        ("noise", -0.1),
        ("questions_per_clip", 0),
        ("test_questions_per_clip", 0),
        ("direct_share", 1.1),
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, setting: str, value: float) -> None:
    others = {"fading": 1} if (setting, value) == ("max_events", 6) else {}  # seven colours
    with pytest.raises(ValueError, match=f"{setting} is {value}"):
        make_synthetic(tmp_path / "x", **{setting: value}, **others)
    assert not any(tmp_path.iterdir())


def test_unknown_setting_and_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown synthetic setting colour"):
        make_synthetic(tmp_path / "x", colour="red")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="choose a new or an empty folder"):
        make_synthetic(tmp_path, num_train=0, num_test=0)


def test_config_gives_the_default_settings(tmp_path: Path) -> None:
    """configs/data/synthetic.yaml says what the code would do without it."""
    from dataclasses import asdict

    from omegaconf import OmegaConf

    path = ROOT / "configs" / "data" / "synthetic.yaml"
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert (values.pop("name"), values.pop("folder")) == ("synthetic", None)
    assert (values.pop("decode_timeout"), values.pop("max_bad_fraction")) == (120, 0.01)  # of any data
    defaults = json.loads(json.dumps(asdict(SyntheticSpec())))
    assert values == {key: value for key, value in defaults.items() if key != "fps"}


def test_load_data_generates(tmp_path: Path) -> None:
    spec = DataSpec.from_dict({"name": "synthetic", "folder": None, "num_train": 1, "num_test": 1, "seed": 0})
    paths = load_data(spec, tmp_path / "made")
    assert json.loads(paths.train.read_text())["video"] == "videos/train_00000.mp4"
    assert paths.test.is_file()


def test_clips_of_an_older_encoding_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"num_train": 1, "num_test": 1, "seed": 3}
    make_synthetic(tmp_path / "clips", **settings)
    clip = tmp_path / "clips" / "videos" / "train_00000.mp4"
    clip.write_bytes(b"bytes of another encoder")
    make_synthetic(tmp_path / "clips", **settings)
    assert clip.read_bytes() == b"bytes of another encoder"
    monkeypatch.setattr("stts.data.video.encode.VERSION", encode.VERSION + 1)
    make_synthetic(tmp_path / "clips", **settings)
    assert len(read_video(clip, frames=2).frames) == 2
