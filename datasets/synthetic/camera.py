"""The camera: its position and orientation over time, and its projection.

Conventions, used by every file of this package:

- World: x to the right, y up, z along the street, metres; the ground is y = 0. Time `t` counts frames.
- Camera: x to the right, y down, z forward (depth is this z, not the length of the ray).
- Image: pixel (row i, column j) has its centre at y = i, x = j; the optical axis meets the image at
  ((width - 1) / 2, (height - 1) / 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

# Focal length over image height: a vertical field of view of 47 degrees, about that of a dashboard camera.
FOCAL_PER_HEIGHT = 1.15


@dataclass(frozen=True)
class Curve:
    """Centre line of the street, x = c(z): one sine wave that passes through (0, 0)."""

    amplitude: float = 0.0
    wavelength: float = 200.0
    phase: float = 0.0

    def x(self, z: FloatArray | float) -> FloatArray:
        """x of the centre line at `z`, in metres."""
        k = 2 * np.pi / self.wavelength
        return np.asarray(self.amplitude * (np.sin(k * np.asarray(z) + self.phase) - np.sin(self.phase)))

    def slope(self, z: float) -> float:
        """dx/dz of the centre line at `z`."""
        k = 2 * np.pi / self.wavelength
        return float(self.amplitude * k * np.cos(k * z + self.phase))


@dataclass(frozen=True)
class CameraPath:
    """A drive along `curve` at `speed` metres per frame, with a gentle sway in yaw and lane."""

    curve: Curve = Curve()
    speed: float = 0.5
    lane: float = 0.0
    height: float = 1.5
    pitch: float = 0.0
    yaw: float = 0.0
    yaw_sway: float = 0.0
    lane_sway: float = 0.0
    sway_period: float = 40.0

    def pose(self, t: float) -> Pose:
        """Position and orientation at time `t` (frames, may be fractional)."""
        z = self.speed * t
        swing = 2 * np.pi * t / self.sway_period
        x = float(self.curve.x(z)) + self.lane + self.lane_sway * np.sin(swing)
        yaw = np.arctan(self.curve.slope(z)) + self.yaw + self.yaw_sway * np.sin(swing + 1.0)
        return Pose(np.array([x, self.height, z]), float(yaw), self.pitch)


@dataclass(frozen=True)
class Pose:
    """Position [3] in metres, yaw (to the right) and pitch (downwards) in radians."""

    position: FloatArray
    yaw: float
    pitch: float

    def rotation(self) -> FloatArray:
        """World to camera, [3, 3]; its rows are the camera's right, down and forward."""
        sin_y, cos_y, sin_p, cos_p = np.sin(self.yaw), np.cos(self.yaw), np.sin(self.pitch), np.cos(self.pitch)
        right = [cos_y, 0.0, -sin_y]
        down = [-sin_y * sin_p, -cos_p, -cos_y * sin_p]
        forward = [sin_y * cos_p, -sin_p, cos_y * cos_p]
        return np.array([right, down, forward])


@dataclass(frozen=True)
class Lens:
    """A pinhole lens for one image size; all values in pixels."""

    focal: float
    centre_x: float
    centre_y: float

    @staticmethod
    def for_size(height: int, width: int) -> Lens:
        """The lens of every street camera, for an image of `height` x `width`."""
        return Lens(FOCAL_PER_HEIGHT * height, (width - 1) / 2, (height - 1) / 2)

    def project(self, points: FloatArray) -> FloatArray:
        """Camera points [..., 3] to image points [..., 2] as (x, y). Points need a depth above 0."""
        xy = points[..., :2] / points[..., 2:]
        return self.focal * xy + np.array([self.centre_x, self.centre_y])

    def rays(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Camera directions [..., 3] of depth 1 through image points."""
        return np.stack([(x - self.centre_x) / self.focal, (y - self.centre_y) / self.focal, np.ones_like(x)], -1)
