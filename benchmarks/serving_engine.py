"""python benchmarks/serving_engine.py FOLDER POLICY RATIO: CPU seconds of one vLLM engine, as a line of JSON.

serving.py starts it for every row and repeat, in the virtual environment that has vLLM. New clips for every request;
the processor seconds of this process count, so that other work on the machine hardly does.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import numpy as np
import vllm
from vllm import LLM, SamplingParams

from stts.serving.vllm.model import STTSMolmo2ForConditionalGeneration as Served

PROMPT = "<|im_end|><|video|><|im_start|>user\nWhat colour came first?<|im_end|>\n<|im_start|>assistant\n"
PARTS = {"embed_multimodal": "vit", "forward": "llm"}
"""Methods of the served model, and what their time is called: ViT with scorer and adapter, LLM."""


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder")
    options.add_argument("policy")
    options.add_argument("ratio", type=float)
    options.add_argument("--frames", type=int, default=16)
    options.add_argument("--requests", type=int, default=8)
    options.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--new-tokens", type=int, default=16)
    options.add_argument("--seed", type=int, default=0)
    return options.parse_args()


def main() -> None:
    args = parse()
    llm = LLM(
        args.folder,
        dtype="float32",
        max_model_len=4096,
        max_num_batched_tokens=8192,
        max_num_seqs=max(args.at_once),
        enforce_eager=True,
        mm_processor_cache_gb=0,
        hf_overrides={"stts": {"policy": args.policy, "prune_ratio": args.ratio}},
    )
    spent: Counter[str] = Counter()
    for method, part in PARTS.items():
        setattr(Served, method, timed(getattr(Served, method), spent, part))
    side = llm.llm_engine.model_config.hf_config.vision_config.image_size[0]
    rng = np.random.default_rng(args.seed)
    metadata = {"timestamps": [i / 2 for i in range(args.frames)], "do_sample_frames": False}
    params = SamplingParams(temperature=0, max_tokens=args.new_tokens, ignore_eos=True)

    def prompts(count: int) -> list[dict]:
        pixels = rng.integers(0, 256, (count, args.frames, side, side, 3), dtype=np.uint8)
        return [{"prompt": PROMPT, "multi_modal_data": {"video": (clip, metadata)}} for clip in pixels]

    llm.generate(prompts(1), params, use_tqdm=False)  # warms up
    rows = []
    for at_once in args.at_once:
        waiting = prompts(args.requests)
        spent.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        for first in range(0, args.requests, at_once):
            llm.generate(waiting[first : first + at_once], params, use_tqdm=False)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        rows.append({"at_once": at_once, "seconds": cpu, "wall": wall, **spent})
    print(json.dumps({"vllm": vllm.__version__, "rows": rows}))


def timed(function: Callable, spent: Counter[str], part: str) -> Callable:
    def call(*args, **kwargs):
        start = time.process_time()
        result = function(*args, **kwargs)
        spent[part] += time.process_time() - start
        return result

    return call


if __name__ == "__main__":
    main()
