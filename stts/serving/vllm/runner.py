"""One thing that vLLM 0.32's runner for CPUs forgets."""

from __future__ import annotations


def teach_cpu_runner() -> None:
    """Let the CPU runner ask whether the model prunes, as the GPU runner that it inherits from does when it loads.

    Without that the hook that takes the columns off the embeddings is never called.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    plain = CPUModelRunner.load_model
    if getattr(plain, "asks", False):
        return

    def load_model(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        config = self.model_config.multimodal_config
        prunes = getattr(self.get_model(), "supports_multimodal_pruning", False)
        self.is_multimodal_pruning_enabled = bool(
            prunes and config and config.is_multimodal_pruning_enabled()
        )

    load_model.asks = True
    CPUModelRunner.load_model = load_model
