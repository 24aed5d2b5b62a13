"""Networks by name: the recipe fields that a backbone and its way of training need."""

from __future__ import annotations

from typing import Any

_CLIP = dict(backbone="vit_base_patch16_clip_quickgelu_224.openai", crop_size=224, view_size=None, short_side=None)

#: Settings by network, on top of a benchmark's preset. "lite0" is the preset's own network, EfficientNet-Lite0.
NETWORKS: dict[str, dict[str, Any]] = {
    "lite0": dict(),
    # Heads on stored features of CLIP's image tower: a LIVEC split trains in seconds once the features are there.
    "clip-b16-frozen": dict(
        **_CLIP,
        **dict(frozen=True, scales=(1.0, 1.5), flip=False, precision="32-true", epochs=5, batch_images=32, lr=1e-4),
        **dict(manifold_weight=0.2, quality_sigma=1.0, correlation_weight=0.5),  # the same on every benchmark
    ),
    # Fine-tuned; not tuned, because a run takes hours without a GPU.
    "clip-b16": dict(**_CLIP, epochs=5, batch_images=32, lr=2e-5),
    # The setting that DEIQT publishes for this backbone: 10 crops, AdamW, 9 epochs, a step schedule.
    "deit3-s": dict(
        **dict(backbone="deit3_small_patch16_224.fb_in22k_ft_in1k", crop_size=224, view_size=None, crops=10),
        **dict(epochs=9, batch_images=64, lr=2e-4, schedule="step", ema_momentum=0.999),
    ),
}
