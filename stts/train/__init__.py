"""Fine-tuning: the loop and what only training needs. Names load on first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["LearningRates", "TrainConfig", "WandbConfig"],
        "loop": ["train"],
        "signals": ["Interrupted"],
    },
)
