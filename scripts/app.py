"""python scripts/app.py; --help explains every key."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from stts.app.config import AppConfig
from stts.settings.launch import launch
from stts.settings.typed import from_dict


def main(config: dict[str, Any]) -> None:
    """Settings first, then the models, then the page, which stays until it is interrupted."""
    settings = from_dict(AppConfig, config)
    if find_spec("gradio") is None:
        raise ValueError("the page needs gradio, which is not installed: pip install 'stts[app]'")

    from stts.app.page import serve

    serve(settings)


if __name__ == "__main__":
    launch(main, "app")
