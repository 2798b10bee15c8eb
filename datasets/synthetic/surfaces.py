"""The flat painted quads of a street while it is being built."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from datasets.synthetic.light import Footprint
from datasets.synthetic.materials import FloatArray, Texture


@dataclass
class Surfaces:
    """A growing list of quads; the fields have the same meaning as in `scene.Scene`."""

    origins: list[FloatArray] = field(default_factory=list)
    us: list[FloatArray] = field(default_factory=list)
    vs: list[FloatArray] = field(default_factory=list)
    velocities: list[FloatArray] = field(default_factory=list)
    textures: list[Texture] = field(default_factory=list)
    tints: list[FloatArray] = field(default_factory=list)
    two_sided: list[bool] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)

    def add(self, top_left: FloatArray, u: FloatArray, v: FloatArray, texture: Texture, tint: FloatArray | float = 1.0,
            velocity: FloatArray | None = None, two_sided: bool = False) -> None:  # fmt: skip
        """Add one quad; `u` runs along the texture's columns, `v` along its rows (downwards)."""
        self.origins.append(np.asarray(top_left, float))
        self.us.append(np.asarray(u, float))
        self.vs.append(np.asarray(v, float))
        self.velocities.append(np.zeros(3) if velocity is None else velocity)
        self.textures.append(texture)
        self.tints.append(np.broadcast_to(np.asarray(tint, float), 3))
        self.two_sided.append(two_sided)
