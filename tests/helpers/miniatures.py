"""Benchmarks in their published file layouts, a few invented questions each, and what these must become."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from stts.data import read_video
from stts.eval.tasks import Question

Rows = list[dict[str, Any]] | dict[str, Any]
COMES_OUT = ("id", "video", "question", "options", "answer", "category", "groups", "start", "end")


@dataclass
class Miniature:
    """files: path -> rows of a .parquet, .json or .jsonl, or the text of another file; all below one folder."""

    files: dict[str, Rows | str]
    questions: list[dict[str, Any]]
    """What of each Question differs from the defaults; video is relative."""
    prompt: str = "letter"
    more: dict[str, Any] = field(default_factory=dict)
    """Settings of the benchmark that go with the small number of questions."""

    def videos(self) -> list[str]:
        return list(dict.fromkeys(question["video"] for question in self.questions))

    def expected(self, root: Path) -> list[dict[str, Any]]:
        defaults = {"category": "", "groups": {}, "start": None, "end": None}
        return [
            defaults | question | {"video": (root / question["video"]).resolve()}
            for question in self.questions
        ]


def come_out(questions: list[Question]) -> list[dict[str, Any]]:
    return [{name: getattr(question, name) for name in COMES_OUT} for question in questions]


def write_file(path: Path, content: Rows | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_miniature(name: str, root: Path, clip: Path) -> Miniature:
    """The files of a benchmark, every video of it a copy of one clip, or a folder of its frames."""
    miniature = MINIATURES[name]()
    for path, content in miniature.files.items():
        write_file(root / path, content)
    for video in miniature.videos():
        (root / video).parent.mkdir(parents=True, exist_ok=True)
        if Path(video).suffix:
            (root / video).write_bytes(clip.read_bytes())
        else:
            write_pictures(root / video, clip)
    return miniature


def write_pictures(folder: Path, clip: Path) -> None:
    """00001.jpg, 00002.jpg, ...: all frames of a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(read_video(clip, 1000, max_fps=1000).frames, start=1):
        write_jpeg(folder / f"{number:05}.jpg", frame)


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """image: (H, W, 3) uint8 RGB."""
    data = io.BytesIO()
    with av.open(data, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", options={"qscale": "1"})
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuvj444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(data.getvalue())


def nextqa() -> Miniature:
    row = {"video": 1234567890, "frame_count": 40, "width": 64, "height": 48, "answer": 2, "qid": 4}
    texts = {
        "question": "why did the girl drop the kite ",
        "type": "CW",
        "a0": "to rest",
        "a1": " to hide it",
    }
    more = {"a2": "string was tangled", "a3": "it was wet", "a4": "to wave"}
    rows = [
        {**row, **texts, **more},
        {**row, **texts, **more, "qid": 5, "answer": 0, "type": "TN", "question": "what then"},
    ]
    options = ("to rest", "to hide it", "string was tangled", "it was wet", "to wave")
    common = {"video": "NExTVideo/1234567890.mp4", "options": options}
    return Miniature(
        {"MC/test-00000-of-00001.parquet": rows},
        [
            common
            | {
                "id": "1234567890-4",
                "question": "why did the girl drop the kite",
                "answer": 2,
                "category": "CW",
                "groups": {"kind": ("C",)},
            },
            common
            | {
                "id": "1234567890-5",
                "question": "what then",
                "answer": 0,
                "category": "TN",
                "groups": {"kind": ("T",)},
            },
        ],
        "direct",
    )


def perception_test() -> Miniature:
    row = {
        "video_name": "video_9",
        "question": "Which cup is moved last?",
        "question_id": "7",
        "options": ["left", "middle", "right"],
        "answer_id": "1",
        "area": "Memory",
        "reasoning": "Descriptive",
        "tag": ["sequencing", "object"],
    }
    common = {"question": row["question"], "options": ("left", "middle", "right"), "category": "Memory"}
    groups = {"reasoning": ("Descriptive",), "tag": ("sequencing", "object")}
    return Miniature(
        {
            "mc_question_val/validation-00000-of-00001.parquet": [
                row,
                row | {"video_name": "video_8", "answer_id": "2", "tag": []},
            ]
        },
        [
            common | {"id": "video_9-7", "video": "videos/video_9.mp4", "answer": 1, "groups": groups},
            common
            | {
                "id": "video_8-7",
                "video": "videos/video_8.MP4",
                "answer": 2,
                "groups": groups | {"tag": ()},
            },
        ],
        "direct",
    )


MVBENCH = {
    "action_sequence": ("star/Charades_v1_480", "mp4"),
    "action_prediction": ("star/Charades_v1_480", "mp4"),
    "object_interaction": ("star/Charades_v1_480", "mp4"),
    "action_localization": ("sta/sta_video", "mp4"),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", ""),
    "action_antonym": ("ssv2_video", "webm"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", "mp4"),
    "unexpected_action": ("FunQA_test/test", "mp4"),
    "object_existence": ("clevrer/video_validation", "mp4"),
    "moving_direction": ("clevrer/video_validation", "mp4"),
    "moving_count": ("clevrer/video_validation", "mp4"),
    "moving_attribute": ("clevrer/video_validation", "mp4"),
    "counterfactual_inference": ("clevrer/video_validation", "mp4"),
    "object_shuffle": ("perception/videos", "mp4"),
    "action_count": ("perception/videos", "mp4"),
    "state_change": ("perception/videos", "mp4"),
    "character_order": ("perception/videos", "mp4"),
    "scene_transition": ("scene_qa/video", "mp4"),
    "fine_grained_pose": ("nturgbd", "avi"),
    "egocentric_navigation": ("vlnqa", "mp4"),
}


def mvbench() -> Miniature:
    files: dict[str, Rows | str] = {}
    questions = []
    for number, (task, (folder, suffix)) in enumerate(MVBENCH.items()):
        name = f"v{number % 3}.{suffix}" if suffix else f"scene_{number}"
        row = {
            "video": name,
            "question": f"Which {task}?",
            "candidates": ["opens", "sits", "takes"],
            "answer": "sits",
        }
        bounds = {"start": 0.25, "end": 0.75} if number < 5 else {}
        files[f"json/{task}.json"] = [row | bounds]
        video = f"video/{folder}/{name}"
        common = {"id": f"{task}-0", "video": video, "question": row["question"], "answer": 1}
        questions.append(common | {"options": ("opens", "sits", "takes"), "category": task} | bounds)
    return Miniature(files, questions)


def tomato() -> Miniature:
    row = {
        "question": "How often is the lamp switched on?",
        "options": ["1", "2", "3", "4", "5"],
        "answer": 3,
        "key": "9001-02",
        "video_source_url": "",
        "motion_type": "count",
        "variation": {"counterfactual": 0, "composite": 0, "zoom": 1, "first_person": 0},
        "demonstration_type": "object",
        "note": "",
    }
    parts = ["count", "direction", "rotation", "shape&trend", "velocity&frequency", "visual_cues"]
    files: dict[str, Rows | str] = {f"data/{part}.json": {"0": row | {"key": part}} for part in parts}
    human = row | {"demonstration_type": "human", "options": list("abcdefg"), "answer": 6}
    files["data/count.json"] = {"0": row | {"key": "count"}, "12": human}
    questions = [
        {
            "id": f"{part}-0",
            "video": f"videos/object/{part}.mp4",
            "question": row["question"],
            "options": ("1", "2", "3", "4", "5"),
            "answer": 3,
            "category": part,
            "groups": {"demonstration": ("object",)},
        }
        for part in parts
    ]
    seven = {"id": "count-12", "video": "videos/human/9001-02.mp4", "options": tuple("abcdefg"), "answer": 6}
    questions.insert(1, questions[0] | seven | {"groups": {"demonstration": ("human",)}})
    return Miniature(files, questions, "option")


def motionbench() -> Miniature:
    line = {"key": "k1", "video_path": "x.mp4", "question_type": "Camera Motion", "video_type": "web"}
    ask = {
        "uid": "u1",
        "question": "Which way does the camera turn?\nA. Left\nB. Right\nC. It does\nnot turn\n",
        "answer": "B",
    }
    hidden = {"uid": "u2", "question": "How?\nA. So\nB. So", "answer": "NA"}
    other = {"uid": "u3", "question": "In this clip,\nwho waves?\nA) he\nB) she", "answer": "A"}
    lines = [
        line | {"video_info": {"duration": 4.0}, "qa": [ask, hidden]},
        line | {"video_info": {}, "video_path": "y.mp4", "question_type": "Action Order", "qa": [other]},
    ]
    groups = {"video_type": ("web",)}
    return Miniature(
        {"MotionBench/video_info.meta.jsonl": lines},
        [
            {
                "id": "u1",
                "video": "MotionBench/self-collected/x.mp4",
                "question": "Which way does the camera turn?",
                "options": ("Left", "Right", "It does not turn"),
                "answer": 1,
                "category": "Camera Motion",
                "groups": groups,
            },
            {
                "id": "u3",
                "video": "MotionBench/public-dataset/y.mp4",
                "question": "In this clip,\nwho waves?",
                "options": ("he", "she"),
                "answer": 0,
                "category": "Action Order",
                "groups": groups,
            },
        ],
        "plain",
    )


def temp_compass() -> Miniature:
    row = {"video_id": "1000_reverse", "dim": "direction"}

    def asked(part: str, number: int, question: str, options: tuple[str, ...], answer: int) -> dict[str, Any]:
        video = "videos/1000_reverse.mp4"
        common = {"id": f"{part}-{number}", "video": video, "groups": {"aspect": ("direction",)}}
        return common | {"question": question, "options": options, "answer": answer, "category": part}

    balloon = "What happens to the balloon?"
    fits = "Which caption fits the video?"
    return Miniature(
        {
            "multi-choice/test-00000-of-00001.parquet": [
                row | {"question": f"{balloon}\nA. rising\nB. falling\nC. bursting", "answer": "B. falling"},
                row | {"question": f"{balloon}\nA. rising\nfalling", "answer": "falling"},
            ],
            "yes_no/test-00000-of-00001.parquet": [
                row | {"question": "Is the balloon falling?", "answer": "No"}
            ],
            "caption_matching/test-00000-of-00001.parquet": [
                row
                | {
                    "question": f"{fits}\nCaption A: The balloon falls.\nCaption B: The balloon rises.",
                    "answer": "Caption B: The balloon rises.",
                },
                row
                | {
                    "question": f"{fits}\nOption 1: It falls.\nOption 2: It rises.",
                    "answer": "Option 1: It falls.",
                },
            ],
        },
        [
            asked("multi-choice", 0, balloon, ("rising", "falling", "bursting"), 1),
            asked("multi-choice", 1, balloon, ("rising", "falling"), 1),
            asked("yes_no", 0, "Is the balloon falling?", ("yes", "no"), 1),
            asked("caption_matching", 0, fits, ("The balloon falls.", "The balloon rises."), 1),
            asked("caption_matching", 1, fits, ("It falls.", "It rises."), 0),
        ],
        "best",
    )


def egoschema() -> Miniature:
    row = {
        "question_idx": "12",
        "question": "What is C mainly trying to achieve?",
        "video_idx": "11111111-2222-3333-4444-555555555555",
        "option": ["A. C bakes.", "B. C paints.", "C. C fixes a bike.", "D. C reads.", "E. C sorts mail."],
        "answer": "2",
    }
    return Miniature(
        {"Subset/test-00000-of-00001.parquet": [row]},
        [
            {
                "id": "11111111-2222-3333-4444-555555555555-12",
                "video": "videos/11111111-2222-3333-4444-555555555555.mp4",
                "question": row["question"],
                "options": ("C bakes.", "C paints.", "C fixes a bike.", "C reads.", "C sorts mail."),
                "answer": 2,
            }
        ],
        "direct",
    )


def videomme() -> Miniature:
    row = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "url": "https://example.org/v",
        "videoID": "abcDEF12345",
        "question_id": "001-1",
        "task_type": "Object Recognition",
        "question": "Which instrument is on the table?",
        "options": ["A. Sextant.", "B. Telescope.", "C. Compass.", "D. Globe."],
        "answer": "B",
    }
    groups = {"task_type": ("Object Recognition",), "domain": ("Knowledge",), "sub_category": ("Astronomy",)}
    first = {
        "id": "001-1",
        "video": "data/abcDEF12345.mp4",
        "question": row["question"],
        "options": ("Sextant.", "Telescope.", "Compass.", "Globe."),
        "answer": 1,
        "category": "short",
        "groups": groups,
    }
    second = {"id": "002-1", "video": "data/other.mkv", "answer": 3, "category": "long"}
    other = {"videoID": "other", "question_id": "002-1", "answer": "D", "duration": "long"}
    return Miniature(
        {"videomme/test-00000-of-00001.parquet": [row, row | other]}, [first, first | second], "mme"
    )


SRT = """\ufeff1
00:00:00,000 --> 00:00:00,400
<font color="white" size=".72c">Look at the table.</font>

2
00:00:02,900 --> 00:00:04,000
<font color="white" size=".72c">A telescope</font>
<font color="white" size=".72c">from 1609.</font>
"""


def videomme_subtitle() -> Miniature:
    miniature = videomme()
    miniature.files["subtitle/abcDEF12345.srt"] = SRT
    miniature.more = {"num_without_subtitles": 1}
    return miniature


def longvideobench() -> Miniature:
    row = {
        "video_id": "vid_1",
        "question": "When the subtitle says 'hello', what is on the desk?",
        "question_wo_referring_query": "What is on the desk?",
        "candidates": ["A vase", "A book", "A lamp", "A pen"],
        "correct_choice": 2,
        "position": [120],
        "topic_category": "X",
        "question_category": "T2O",
        "level": "L1-Perception",
        "id": "vid_1_0",
        "video_path": "vid_1.mp4",
        "subtitle_path": "vid_1_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 30,
        "duration": 1.5,
        "view_count": 10,
    }
    other = {
        "id": "vid_2_0",
        "video_path": "vid_2.mp4",
        "subtitle_path": "vid_2_en.json",
        "correct_choice": 0,
    }
    clocks = [
        {"start": "00:00:20.000", "end": "00:00:29.500", "line": "before"},
        {"start": "00:00:29.900", "end": "00:00:30.200", "line": "hello"},
        {"start": "00:00:33.000", "end": "00:00:34.000", "line": "after"},
    ]
    seconds = [
        {"timestamp": [30, 31], "text": "hello"},
        {"timestamp": [31.25, None], "text": "to the end"},
    ]
    first = {
        "id": "vid_1_0-0",
        "video": "videos/vid_1.mp4",
        "question": row["question"],
        "options": ("A vase", "A book", "A lamp", "A pen"),
        "answer": 2,
        "category": "15",
        "groups": {"question_category": ("T2O",), "level": ("L1-Perception",), "topic": ("X",)},
    }
    return Miniature(
        {
            "lvb_val.json": [row, row | other],
            "subtitles/vid_1_en.json": clocks,
            "subtitles/vid_2_en.json": seconds,
        },
        [first, first | {"id": "vid_2_0-1", "video": "videos/vid_2.mp4", "answer": 0}],
        "direct",
    )


def mlvu() -> Miniature:
    tasks = ["plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning"]
    row = {
        "video": "v.mp4",
        "duration": 512.3,
        "question": "How often is a cake cut?",
        "candidates": ["1", "3", "0", "3"],
        "answer": "3",
        "question_type": "count",
    }
    files: dict[str, Rows | str] = {f"MLVU/json/{i}_{task}.json": [row] for i, task in enumerate(tasks, 1)}
    files["MLVU/json/2_needle.json"] = [row | {"answer": "7"}, row | {"question_type": "findNeedle"}]
    questions = [
        {
            "id": f"{task}-{int(task == 'needle')}",
            "video": f"MLVU/video/{i}_{task}/v.mp4",
            "question": row["question"],
            "options": ("1", "3", "0", "3"),
            "answer": 1,
            "category": task,
        }
        for i, task in enumerate(tasks, 1)
    ]
    return Miniature(files, questions, "direct")


def lvbench() -> Miniature:
    gate = "Who opens the gate?\n(A) The guard\n(B) The cook\n(C) The child\n(D) The driver"
    sign = "The sign reads:\nNO ENTRY\nWhen?\n(A) 00:10\n(B) 01:10\n(C) 02:10\n(D) 03:10"
    asked = {
        "answer": "C",
        "question_type": ["entity recognition", "reasoning"],
        "time_reference": "00:01-00:02",
    }
    line = {
        "key": "abcDEF12345",
        "type": "tv",
        "video_info": {"duration_minutes": 61},
        "qa": [
            asked | {"uid": "9001", "question": gate},
            asked | {"uid": 9002, "question": sign, "answer": "A"},
        ],
    }
    first = {
        "id": "9001",
        "video": "all_videos/abcDEF12345.mp4",
        "question": "Who opens the gate?",
        "options": ("The guard", "The cook", "The child", "The driver"),
        "answer": 2,
        "category": "tv",
        "groups": {"question_type": ("entity recognition", "reasoning")},
    }
    second = {"id": "9002", "question": "The sign reads:\nNO ENTRY\nWhen?", "answer": 0}
    times = {"options": ("00:10", "01:10", "02:10", "03:10")}
    return Miniature({"video_info.meta.jsonl": [line]}, [first, first | second | times])


def videoevalpro() -> Miniature:
    row = {
        "video": "src_42.mp4",
        "question": "What colour is the second train?",
        "options": ["A. Red", "B. Green", "C. Blue", "D. White", "E. Black"],
        "answer": "C",
        "answer_text": "Blue",
        "meta": "{}",
        "source": "LVBench",
        "qa_subtype": "Object Recognition",
        "qa_type": "Local Perception",
    }
    first = {
        "id": "0-src_42.mp4",
        "video": "videos/videos_filtered/src_42.mp4",
        "question": row["question"],
        "options": ("Red", "Green", "Blue", "White", "Black"),
        "answer": 2,
        "category": "Local Perception",
        "groups": {"subtype": ("Object Recognition",), "source": ("LVBench",)},
    }
    plain = {"options": ["Red", "Green"], "answer": "A", "video": "src_43.mp4"}
    second = {
        "id": "1-src_43.mp4",
        "video": "videos_filtered/src_43.mp4",
        "options": ("Red", "Green"),
        "answer": 0,
    }
    return Miniature({"data/test-00000-of-00001.parquet": [row, row | plain]}, [first, first | second])


MINIATURES: dict[str, Callable[[], Miniature]] = {
    make.__name__: make
    for make in (
        nextqa,
        perception_test,
        mvbench,
        tomato,
        motionbench,
        temp_compass,
        egoschema,
        videomme,
        videomme_subtitle,
        longvideobench,
        mlvu,
        lvbench,
        videoevalpro,
    )
}
