"""The library that tests.helpers.fake_cuda loads: built from fake_cuda.cpp, in seconds, where there is a compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("fake_cuda.cpp")


def build(folder: Path) -> tuple[Path | None, str]:
    """The library, or None and why there is none."""
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++"))), None)
    if compiler is None:
        return None, "no C++ compiler: neither g++ nor clang++ is there"
    if torch.version.cuda or torch.version.hip:
        return None, "this build of torch brings its own CUDA or ROCm"
    home = Path(torch.__file__).parent
    if not (home / "include/ATen/detail/CUDAHooksInterface.h").exists():
        return None, f"torch in {home} has no headers"
    library = folder / "libfakecuda.so"
    where = [f"-I{home / 'include'}", f"-L{home / 'lib'}", f"-Wl,-rpath,{home / 'lib'}"]
    command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", *where, str(SOURCE), "-o", str(library)]
    made = subprocess.run([*command, "-lc10", "-ltorch_cpu"], capture_output=True, text=True)
    if made.returncode:
        return (
            None,
            f"{compiler} failed on {SOURCE.name} against torch {torch.__version__}: {made.stderr[-300:]}",
        )
    return library, ""
