"""Who asks what, and what is asked together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stts.eval.portions import batches, by_clip, portions, share_of
from stts.eval.tasks import Question


def ask(number: int, video: str, **changes) -> Question:
    return Question(f"q{number}", Path(video), "Which?", ("a", "b"), 0, **changes)


class TestWork:
    def test_questions_about_a_clip_come_together(self) -> None:
        questions = [ask(0, "a"), ask(1, "b"), ask(2, "a"), ask(3, "a", end=2.0), ask(4, "a", end_frame=9)]
        ids = [[question.id for question in shared] for shared in by_clip(questions)]
        assert ids == [["q0", "q2"], ["q1"], ["q3"], ["q4"]]

    @given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 7), st.integers(1, 5))
    def test_every_question_is_asked_by_one_process(
        self, videos: list[int], size: int, processes: int
    ) -> None:
        questions = [ask(number, f"v{video}") for number, video in enumerate(videos)]
        planned = portions(questions, size)
        shares = [share_of(planned, process, processes) for process in range(processes)]
        ids = sorted(q.id for share in shares for portion in share for shared in portion for q in shared)
        assert ids == sorted(question.id for question in questions)
        for portion in planned:
            assert sum(map(len, portion[:-1])) < size, "no portion goes on once it fills a batch"
            assert all(len({question.video for question in shared}) == 1 for shared in portion)
        clips = [shared[0].video for portion in planned for shared in portion]
        assert len(clips) == len(set(clips)), "a video belongs to one portion"
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    @given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 6), st.integers(1, 120))
    def test_batches_keep_to_their_budget(self, lengths: list[int], size: int, tokens: int) -> None:
        found = batches(lengths, size, tokens)
        assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
        for batch in found:
            padded = len(batch) * max(lengths[place] for place in batch)
            assert len(batch) == 1 or (len(batch) <= size and padded <= tokens)
        for one, other in pairwise(found):  # nothing more would have fitted
            longest = max(lengths[place] for place in one)
            assert len(one) == size or longest * (len(one) + 1) > tokens
            assert min(lengths[place] for place in one) >= max(lengths[place] for place in other)
