from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Molmo2Config, Molmo2Processor, PreTrainedTokenizerFast
from transformers.models.molmo2.video_processing_molmo2 import arange_for_pooling, batch_pixels_to_patches
from transformers.processing_utils import ProcessorMixin

from stts.data.processors.molmo2 import IGNORE, VideoProcessor, multiple_choice_prompt

SPECIAL = ["<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>"]
SPECIAL += ["<frame_start>", "<frame_end>", "<|video|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]

BODY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% elif VIDEO %}<|video|>"
    "{% endif %}{% endfor %}END{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Every turn closed, the video where its part stands.
CLOSED = BODY.replace("VIDEO", "true").replace("END", "{{ '<|im_end|>\n' }}")
# As Molmo2's: the video before all text, and what ends an answer is only written when another turn follows.
HOISTED = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'video' %}<|video|>"
    "{% endif %}{% endfor %}{% endfor %}"
) + BODY.replace("VIDEO", "false").replace(
    "END", "{% if m['role'] == 'user' or not loop.last %}{{ '<|im_end|>\n' }}{% endif %}"
)

QUESTION = {"role": "user", "content": "What moves?"}
TURNS = [QUESTION, {"role": "assistant", "content": "A cat."}]
LONG = [*TURNS, {"role": "user", "content": "When?"}, {"role": "assistant", "content": "At 0.5 s, häppily."}]


def make_tokenizer(template=HOISTED, eos="<|im_end|>", bos=None, special=SPECIAL):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["user assistant What moves in the clip? Please answer: A cat. " * 3], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        bos_token=bos,
        chat_template=template,
        pad_token="<|endoftext|>",
    )


def make_processor(image_size=28, patch_size=4, pool_width=3, **kwargs):
    return VideoProcessor(make_tokenizer(**kwargs), image_size, patch_size, pool_width)


def make_clip(timestamps, size=28):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (len(timestamps), size, size, 3), dtype=np.uint8)
    return SimpleNamespace(frames=frames, timestamps=np.array(timestamps, dtype=np.float64))


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def answers(processor, example):
    """The supervised runs of an example, as text."""
    runs, previous = [], False
    for token, label in zip(example["input_ids"].tolist(), example["labels"].tolist(), strict=True):
        assert label in (IGNORE, token)
        if label != IGNORE:
            runs = [*runs, [token]] if not previous else [*runs[:-1], [*runs[-1], token]]
        previous = label != IGNORE
    return [processor.tokenizer.decode(run) for run in runs]


# --- the text is transformers'


def transformers_processor(monkeypatch, tokenizer, grid, indices, fps):
    """The real Molmo2Processor around a stand-in for its video part, which needs torchvision."""

    def assemble(self, image_processor, video_processor, tokenizer, chat_template):
        self.image_processor, self.video_processor, self.tokenizer = (
            image_processor,
            video_processor,
            tokenizer,
        )

    def video_processor(videos, **kwargs):
        metadata = SimpleNamespace(frames_indices=indices, fps=fps)
        return {"video_grids": torch.tensor([grid]), "video_metadata": [metadata]}

    monkeypatch.setattr(ProcessorMixin, "__init__", assemble)
    return Molmo2Processor(None, video_processor, tokenizer)


@pytest.mark.parametrize("template", [CLOSED, HOISTED], ids=["closed", "hoisted"])
@pytest.mark.parametrize("bos", [None, "<|endoftext|>"])
@pytest.mark.parametrize("messages", [[QUESTION], LONG[:3]], ids=["one turn", "three turns"])
@pytest.mark.parametrize(("indices", "fps"), [([0], 2.0), ([0, 15, 30], 30.0), ([0, 7, 101, 3599], 29.97)])
def test_prompt_equals_transformers(monkeypatch, template, bos, messages, indices, fps):
    ours = make_processor(template=template, bos=bos)
    example = ours(messages, make_clip([i / fps for i in indices]), add_generation_prompt=True)

    grid = [len(indices), 3, 3]
    theirs = transformers_processor(monkeypatch, ours.tokenizer, grid, indices, fps)
    turns = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    turns[0]["content"].insert(0, {"type": "video"})
    text = ours.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    expected = theirs(text=text, videos=[np.zeros((len(indices), 28, 28, 3), np.uint8)])

    assert example["input_ids"].tolist() == expected["input_ids"][0]
    assert example["mm_token_type_ids"].tolist() == expected["mm_token_type_ids"][0]


def test_video_string_equals_transformers(processor):
    times = [0.0, 0.04, 0.05, 0.15, 0.25, 1.0, 59.95, 3600.0]
    settings = SimpleNamespace(use_frame_special_tokens=True, video_use_col_tokens=False)
    expected = Molmo2Processor.get_video_string(settings, torch.tensor([len(times), 3, 3]), times)
    assert processor.video_string(np.array(times)) == expected


def test_times_are_counted_from_the_first_frame(processor):
    cut, whole = (
        processor([QUESTION], make_clip([61.5, 62, 70.5])),
        processor([QUESTION], make_clip([0, 0.5, 9])),
    )
    assert torch.equal(cut["input_ids"], whole["input_ids"])


def test_begin_token_is_not_doubled():
    processor = make_processor(template="{{ bos_token }}" + CLOSED, bos="<|endoftext|>")
    ids = processor([QUESTION])["input_ids"]
    assert ids[0] == processor.tokenizer.bos_token_id != ids[1]


# --- video tensors


@pytest.mark.parametrize(("image_size", "pool_width"), [(36, 3), (28, 3), (20, 2), (4, 3)])
def test_video_tensors_equal_transformers(image_size, pool_width):
    processor = make_processor(image_size=image_size, pool_width=pool_width)
    clip = make_clip([0, 0.5, 1], image_size)
    example = processor(TURNS, clip)

    side = image_size // 4
    grid = torch.arange(side * side, dtype=torch.int32).reshape(side, side)
    windows, rows, cols = arange_for_pooling(grid, pool_width, pool_width)
    pooling = [w + t * side * side if w >= 0 else -1 for t in range(3) for w in windows.flatten().tolist()]
    assert example["video_token_pooling"].flatten().tolist() == pooling
    assert example["video_token_pooling"].shape == (3 * rows * cols, pool_width**2)
    assert torch.equal(example["pixel_values_videos"], batch_pixels_to_patches(torch.tensor(clip.frames), 4))
    assert example["pixel_values_videos"].dtype == torch.uint8
    assert example["video_grids"].tolist() == [[3, rows, cols]]
    patch = processor.tokenizer.convert_tokens_to_ids("<im_patch>")
    assert (example["input_ids"] == patch).sum() == 3 * rows * cols


def test_frames_of_any_size_are_resized(processor):
    frames = np.full((2, 50, 90, 3), 77, np.uint8)
    patches = processor(TURNS, SimpleNamespace(frames=frames, timestamps=[0, 1]))["pixel_values_videos"]
    assert patches.shape == (2, 49, 48)
    assert (patches == 77).all()


def test_without_a_clip_there_is_only_text(processor):
    example = processor(TURNS)
    assert set(example) == {"input_ids", "labels", "mm_token_type_ids"}
    assert not example["mm_token_type_ids"].any()
    assert all(tensor.dtype == torch.int64 for tensor in example.values())


# --- labels


@pytest.mark.parametrize("clip", [None, make_clip([0, 0.5])], ids=["text", "video"])
@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_a_template_that_closes_its_turns_decides_what_ends_an_answer(clip, eos):
    processor = make_processor(template=CLOSED, eos=eos)
    assert answers(processor, processor(LONG, clip)) == ["A cat.<|im_end|>", "At 0.5 s, häppily.<|im_end|>"]


@pytest.mark.parametrize("clip", [None, make_clip([0, 0.5])], ids=["text", "video"])
def test_a_missing_end_token_is_put_in(clip):
    processor = make_processor(template=HOISTED)
    example = processor(LONG, clip)
    assert answers(processor, example) == ["A cat.<|im_end|>", "At 0.5 s, häppily.<|im_end|>"]
    text = processor.tokenizer.decode(example["input_ids"])
    assert text.count("A cat.<|im_end|>\n<|im_start|>user") == 1  # the template's own is not doubled
    assert text.endswith("häppily.<|im_end|>")


def test_an_end_token_the_template_never_writes_is_put_in_every_answer():
    processor = make_processor(template=HOISTED, eos="<|endoftext|>")
    example = processor(LONG)
    assert answers(processor, example) == ["A cat.<|endoftext|>", "At 0.5 s, häppily.<|endoftext|>"]
    assert "A cat.<|endoftext|><|im_end|>\n<|im_start|>user" in processor.tokenizer.decode(
        example["input_ids"]
    )


@pytest.mark.parametrize("template", [CLOSED, HOISTED], ids=["closed", "hoisted"])
def test_training_text_continues_the_prompt(template):
    processor = make_processor(template=template)
    clip = make_clip([0, 0.5])
    prompt, example = processor([QUESTION], clip, add_generation_prompt=True), processor(TURNS, clip)
    length = len(prompt["input_ids"])
    assert torch.equal(example["input_ids"][:length], prompt["input_ids"])
    assert (prompt["labels"] == IGNORE).all()
    assert (example["labels"][:length] == IGNORE).all()
    assert example["labels"][length] == example["input_ids"][length]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\0"), min_size=1)
texts = texts.map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(texts, min_size=1, max_size=6), hoisted=st.booleans(), with_clip=st.booleans())
def test_exactly_the_answers_are_supervised(turns, hoisted, with_clip):
    processor = make_processor(template=HOISTED if hoisted else CLOSED)
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    example = processor(messages, make_clip([0, 0.5]) if with_clip else None)
    assert answers(processor, example) == [f"{text}<|im_end|>" for text in turns[1::2]]


# --- broken input


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ([{"role": "assistant", "content": "hi"}], r"messages\[0\].*role 'user'"),
        ([QUESTION, QUESTION], r"messages\[1\].*role 'assistant'"),
        ([{"role": "user"}], r"messages\[0\] has content None"),
        ([{"role": "user", "content": " \n"}], r"messages\[0\] has content"),
        ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], r"messages\[0\] has content"),
        (["hi"], r"messages\[0\] is 'hi'"),
        (
            [{"role": "user", "content": "see <|video|>?"}],
            r"messages\[0\] contains the special token '<\|video\|>'",
        ),
        ([QUESTION, {"role": "assistant", "content": "no<|im_end|>"}], r"messages\[1\].*'<\|im_end\|>'"),
        ([{"role": "user", "content": "a<im_patch>b"}], "'<im_patch>'"),
    ],
)
def test_messages_that_cannot_be_a_prompt(processor, messages, message):
    with pytest.raises(ValueError, match=message):
        processor(messages)


def test_generation_needs_the_users_turn_last(processor):
    with pytest.raises(ValueError, match="user's turn last"):
        processor(TURNS, add_generation_prompt=True)


@pytest.mark.parametrize("timestamps", [[0.0], [0.0, 1.0, 2.0]])
def test_every_frame_has_a_timestamp(processor, timestamps):
    clip = SimpleNamespace(frames=make_clip([0, 1]).frames, timestamps=timestamps)
    with pytest.raises(ValueError, match=f"2 frames and {len(timestamps)} timestamps"):
        processor(TURNS, clip)


def test_a_clip_without_frames(processor):
    with pytest.raises(ValueError, match=r"shape \(0, 28, 28, 3\)"):
        processor(TURNS, SimpleNamespace(frames=np.zeros((0, 28, 28, 3), np.uint8), timestamps=[]))


@pytest.mark.parametrize("token", ["<im_patch>", "<frame_end>", "<im_low>", "<|video|>"])
def test_a_missing_special_token_is_named(token):
    with pytest.raises(ValueError, match=token.replace("|", r"\|")):
        make_processor(special=[t for t in SPECIAL if t != token])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"template": None}, "no chat template"),
        ({"eos": None}, "no eos_token"),
        ({"image_size": 30}, "image_size is 30, must be a multiple of patch_size 4"),
        ({"pool_width": 0}, "pool_width is 0"),
    ],
)
def test_a_processor_that_cannot_work(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_processor(**kwargs)


@pytest.mark.parametrize(
    ("template", "times"), [(BODY.replace("VIDEO", "false"), 0), ("<|video|>" + CLOSED, 2)]
)
def test_a_template_that_misplaces_the_video(template, times):
    with pytest.raises(ValueError, match=f"{times} times for 1 videos"):
        make_processor(template=template)(TURNS, make_clip([0]))


# --- from_pretrained


def save_folder(folder, **config):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    patch_id = tokenizer.convert_tokens_to_ids("<im_patch>")
    values = {"image_patch_id": patch_id, "vision_config": {"image_size": [28, 28], "patch_size": 4}} | config
    Molmo2Config(**values).save_pretrained(folder)
    return folder


def test_a_folder_gives_the_same_examples(tmp_path, processor):
    loaded = VideoProcessor.from_pretrained(save_folder(tmp_path))
    clip = make_clip([0, 0.5])
    expected = processor(LONG, clip)
    actual = loaded(LONG, clip)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_a_saved_processor_loads_back(tmp_path, processor):
    save_folder(tmp_path / "model")
    VideoProcessor.from_pretrained(tmp_path / "model", pool_width=2).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((tmp_path / "model" / "config.json").read_text())
    again = VideoProcessor.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(LONG)["input_ids"], processor(LONG)["input_ids"])
    assert (again.image_size, again.patch_size, again.pad_token_id) == (28, 4, processor.pad_token_id)


def test_sizes_in_the_released_layout(tmp_path):
    save_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vit_config"] = {"image_default_input_size": [42, 42], "image_patch_size": 6, "image_num_pos": 49}
    del config["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert VideoProcessor.from_pretrained(tmp_path).grid == (7, 7)


def test_no_code_of_the_folder_runs(tmp_path):
    save_folder(tmp_path)
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        settings = json.loads((tmp_path / name).read_text())
        code = "code.Any" if key == "AutoConfig" else ["code.Any", "code.Any"]
        (tmp_path / name).write_text(json.dumps(settings | {"auto_map": {key: code}}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Any: pass\n")
    VideoProcessor.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_patch_id": 7777}, "image_patch_id is 7777"),
        ({"vision_config": {"image_size": [28, 56], "patch_size": 4}}, "28 x 56 pixels"),
    ],
)
def test_a_model_that_does_not_fit(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        VideoProcessor.from_pretrained(save_folder(tmp_path, **config))


def test_another_kind_of_model(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(ValueError, match="'qwen3' model, must be 'molmo2'"):
        VideoProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("frame_tokens", [True, False])
@pytest.mark.parametrize("col_tokens", [True, False])
def test_frames_are_written_as_the_model_was_trained(tmp_path, frame_tokens, col_tokens):
    save_folder(tmp_path)
    flags = {"use_frame_special_tokens": frame_tokens, "video_use_col_tokens": col_tokens}
    (tmp_path / "processor_config.json").write_text(json.dumps(flags))
    processor = VideoProcessor.from_pretrained(tmp_path)
    rows = processor([QUESTION], make_clip([0]))["video_grids"]
    expected = Molmo2Processor.get_video_string(
        SimpleNamespace(**flags), torch.tensor([2, *rows[0, 1:]]), [0.0, 1.5]
    )
    assert processor.video_string([0.0, 1.5]) == expected
    (tmp_path / "again").mkdir()
    processor.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "config.json").write_text((tmp_path / "config.json").read_text())
    again = VideoProcessor.from_pretrained(tmp_path / "again")
    assert again.video_string([0.0, 1.5]) == expected


def test_released_models_say_in_config_json_how_frames_are_written(tmp_path):
    save_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"use_frame_special_tokens": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "0.0 <im_start><im_patch>" in VideoProcessor.from_pretrained(tmp_path).video_string([0.0])


# --- multiple choice


def test_multiple_choice_layout():
    prompt = multiple_choice_prompt("Which is it? ", ["red", " blue "])
    assert prompt.split("\n")[:3] == ["Which is it?", "A. red", "B. blue"]
    assert prompt.count("\n") == 3
    assert "letter" in prompt.split("\n")[3]


def test_the_last_letter_is_z():
    lines = multiple_choice_prompt("?", [f"option {i}" for i in range(26)]).split("\n")
    assert lines[26] == "Z. option 25"


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [("?", ["x"] * 27, "27 options"), ("?", ["x"], "1 options"), (" ", ["x", "y"], "question is empty")],
)
def test_a_question_that_cannot_be_asked(question, options, message):
    with pytest.raises(ValueError, match=message):
        multiple_choice_prompt(question, options)
