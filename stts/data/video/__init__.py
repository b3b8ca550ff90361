"""Frames out of video files and folders of pictures. Names load on first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"decode": ["VideoError"], "read": ["Clip", "read_video"], "encode": ["write_video"]},
)
