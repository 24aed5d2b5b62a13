"""Generated images with known scores: the same pixels on every machine, from integer arithmetic alone."""

from __future__ import annotations

import numpy as np


def golden_images() -> dict[str, np.ndarray]:
    """(H, W), (H, W, 3) or (H, W, 4) uint8 arrays by name: smooth, noisy, blocky, large, small, grey, RGBA."""
    y, x = np.mgrid[:360, :480]
    ramp = np.stack([x * 255 // 479, y * 255 // 359, (x + y) * 255 // 838], axis=2).astype(np.uint8)
    rings = (((x - 240) ** 2 + (y - 180) ** 2) // 97 % 256).astype(np.uint8)
    scene = ramp // 2 + np.stack([rings, np.roll(rings, 60, 1), np.roll(rings, 40, 0)], axis=2) // 2
    noise = (_hash(360, 480, 3).astype(int) - 128) // 4
    return {
        "ramp": ramp,
        "scene": scene,
        "scene_noisy": np.clip(scene.astype(int) + noise, 0, 255).astype(np.uint8),
        "scene_blocky": scene[::16, ::16].repeat(16, 0).repeat(16, 1)[:360, :480],
        "scene_dark": scene // 4,
        "scene_portrait": np.ascontiguousarray(scene.transpose(1, 0, 2)),
        "scene_small": np.ascontiguousarray(scene[100:196, 150:300]),
        "scene_large": scene.repeat(3, 0).repeat(3, 1),
        "noise": _hash(256, 256, 3),
        "stripes": ((x // 7 + y // 11) % 2 * 200 + 27).astype(np.uint8)[..., None].repeat(3, 2),
        "rings_grey": rings,
        "scene_rgba": np.concatenate([scene, np.full((360, 480, 1), 128, np.uint8)], axis=2),
    }


def _hash(height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels) uint8 pseudo-random values from a 32-bit integer hash of the position."""
    value = np.arange(height * width * channels, dtype=np.uint32)
    with np.errstate(over="ignore"):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            value = (value ^ (value >> np.uint32(shift))) * np.uint32(factor)
    return (value >> np.uint32(24)).astype(np.uint8).reshape(height, width, channels)
