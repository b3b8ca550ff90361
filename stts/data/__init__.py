"""From files on disk to what the model takes: decode, process, collate. Names load on first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "datasets": ["Mixture", "VideoQADataset", "training_data"],
        "feed.collator": ["Collator"],
        "load": ["load_data", "prepare_data"],
        "processors.molmo2": ["VideoProcessor"],
        "processors.qwen": ["QwenProcessor"],
        "prompts": ["multiple_choice_prompt"],
        "spec": ["DataSpec", "JsonlData", "MixtureData", "PublishedData", "SyntheticData"],
        "video.decode": ["VideoError"],
        "video.read": ["Clip", "read_video", "write_video"],
    },
)
