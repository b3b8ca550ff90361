"""vLLM's OpenAI server as a process of its own on this machine, and questions to it over HTTP."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import psutil

COMMAND = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
OPTIONS = ("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "8", "--enforce-eager")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",  # else a kernel is kept for every new number of tokens, up to 1024
}
PATIENCE = 240.0
"""Seconds until it must answer: it imports for a minute where other work runs beside it."""


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]


def data_url(video: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(video).decode()}"


class Server:
    """A server on loopback, in a process group of its own, so that nothing of it is left behind."""

    def __init__(self, folder: Path, log: Path, options: Sequence[str] = ()) -> None:
        self.port, self.log = free_port(), log
        command = [*COMMAND, "--model", str(folder), "--host", "127.0.0.1", "--port", str(self.port)]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, *OPTIONS, *options],
                stdout=out,
                stderr=out,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )
        self.model = str(folder)

    def wait(self) -> Server:
        """Until it answers. Raises RuntimeError with the end of its log where it does not."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError, urllib.error.URLError):
                if self.healthy():
                    return self
            time.sleep(0.5)
        self.kill()
        raise RuntimeError(f"no server came up:\n{self.log.read_text()[-4000:]}")

    def healthy(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10) as reply:
            return reply.status == 200

    def ask(self, text: str, *parts: dict[str, Any], **options: Any) -> str:
        """The reply to a text and what stands in front of it."""
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", timeout=120, max_retries=0
        )
        content = [*parts, {"type": "text", "text": text}]
        reply = client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            **{"temperature": 0, "max_tokens": 64} | options,
        )
        return (reply.choices[0].message.content or "").strip()

    def about(self, video: bytes, text: str, **options: Any) -> str:
        return self.ask(text, {"type": "video_url", "video_url": {"url": data_url(video)}}, **options)

    def memory(self) -> int:
        """Bytes resident in all its processes."""
        first = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in [first, *first.children(recursive=True)])

    def kill(self) -> None:
        """At once, with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
