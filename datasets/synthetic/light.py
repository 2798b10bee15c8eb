"""Sun, sky, haze and the shadows on the ground."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.materials import FloatArray, tileable_noise

SHADOW_DENSITY = 6.0  # texels per metre of the shadow map
SHADOW_REACH = 42.0  # the map covers this many metres on each side


@dataclass(frozen=True)
class Light:
    """The lighting of the scene and how the camera renders it.

    sun: direction to the sun [3]; sun_share: 0 overcast .. 0.6 clear; tint: colour of the sunlight;
    zenith, horizon: sky colours; cloud: 0 none .. 1 closed; haze: distance in metres at which 63 % is haze;
    exposure, cast, contrast, grain: properties of the camera (grain in grey values).
    """

    sun: FloatArray
    sun_share: float
    tint: FloatArray
    zenith: FloatArray
    horizon: FloatArray
    cloud: float
    cloud_map: NDArray[np.float32]
    haze: float
    exposure: float
    cast: FloatArray
    contrast: float
    grain: float
    blur: float

    def on(self, normal: FloatArray) -> FloatArray:
        """Light [3] on a surface with outward unit `normal`; 1 is the light on open ground."""
        facing = max(0.0, float(normal @ self.sun)) / max(0.3, float(self.sun[1]))
        sky = 0.82 + 0.18 * float(normal[1])
        level = (1 - self.sun_share) * sky + self.sun_share * min(facing, 1.5) * self.tint
        return np.asarray(0.28 + 0.78 * level)


def make_light(rng: np.random.Generator) -> Light:
    """A random time of day and weather."""
    kind = rng.choice(["clear", "clear", "broken", "overcast", "evening", "mist"])
    azimuth, height = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(28, 60))
    if kind == "evening":
        height = np.radians(rng.uniform(14, 24))
    sun = np.array([np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)])
    share = {"clear": 0.55, "broken": 0.4, "overcast": 0.0, "evening": 0.5, "mist": 0.0}[kind] * rng.uniform(0.85, 1.05)
    cloud = {"clear": 0.25, "broken": 0.55, "overcast": 0.95, "evening": 0.4, "mist": 1.0}[kind] * rng.uniform(0.6, 1.1)
    tint = np.array([1.12, 0.98, 0.78]) if kind == "evening" else np.array([1.03, 1.0, 0.95])
    zenith, horizon = np.array([88, 138, 204.0]), np.array([200, 218, 232.0])
    if kind == "evening":
        zenith, horizon = np.array([106, 132, 178.0]), np.array([246, 208, 164.0])
    elif kind in ("overcast", "mist"):
        zenith, horizon = np.array([178, 184, 190.0]), np.array([214, 216, 216.0])
    return Light(
        sun=sun, sun_share=share, tint=tint,
        zenith=zenith * rng.uniform(0.92, 1.06), horizon=horizon * rng.uniform(0.95, 1.04), cloud=float(cloud),
        cloud_map=tileable_noise(rng, 256, (64, 32, 16, 8)),
        haze=float(rng.uniform(90, 160) if kind == "mist" else rng.uniform(260, 700)),
        exposure=float(rng.uniform(0.86, 1.16)), cast=1 + rng.uniform(-0.045, 0.045, 3),
        contrast=float(rng.uniform(0.92, 1.12)), grain=float(rng.uniform(1.5, 4.5)), blur=float(rng.uniform(0.0, 0.55)),
    )  # fmt: skip


def sky_colours(light: Light, directions: FloatArray) -> NDArray[np.float32]:
    """Colours [n, 3] of the sky in world `directions` [n, 3]; the sky is infinitely far away."""
    d = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    up = np.clip(d[:, 1], 0.0, 1.0)
    blend = (1 - np.exp(-3.2 * up))[:, None]
    colours = light.horizon + (light.zenith - light.horizon) * blend
    near_sun = np.clip(d @ light.sun, 0, 1)
    colours = colours + (light.sun_share * 160 * near_sun**24)[:, None] * light.tint
    lift = up + 0.12
    size = light.cloud_map.shape[0]
    columns, rows = np.mod(d[:, 0] / lift * 55, size), np.mod(d[:, 2] / lift * 55, size)
    density = light.cloud_map[rows.astype(np.intp), columns.astype(np.intp)]
    cover = np.clip((density * 0.55 + light.cloud * 1.1 - 0.42) * 1.9, 0, 1) * np.clip(up * 7, 0.15, 1)
    white = np.array([244, 243, 242]) * (1 - 0.14 * np.clip(density, 0, 1))[:, None]
    shaded = white * (0.9 if light.sun_share > 0 else 0.86)
    return (colours + cover[:, None] * (shaded - colours)).astype(np.float32)


@dataclass(frozen=True)
class Footprint:
    """An object on the ground: outline [n, 2] as (x, z), height, and velocity [3] per frame.

    contact: how dark the ground is right below, 0..1. lifted: height at which the body starts (a tree's crown).
    """

    outline: FloatArray
    height: float
    velocity: FloatArray
    contact: float = 0.5
    lifted: float = 0.0


@dataclass(frozen=True)
class ShadowMap:
    """level [rows, columns]: share of light that reaches the ground; row 0 lies at `first_z`, x from -SHADOW_REACH."""

    level: NDArray[np.uint8]
    first_z: float

    def pixels(self, outline: FloatArray) -> NDArray[np.int32]:
        """Map places of (x, z) points, for cv2 drawing."""
        return np.round((outline - [-SHADOW_REACH, self.first_z]) * SHADOW_DENSITY).astype(np.int32)

    def at(self, x: FloatArray, z: FloatArray) -> FloatArray:
        """Share of light [n] at ground points; 1 outside of the map."""
        rows, columns = self.level.shape
        u = np.clip((x + SHADOW_REACH) * SHADOW_DENSITY - 0.5, 0, columns - 1.01)
        v = np.clip((z - self.first_z) * SHADOW_DENSITY - 0.5, 0, rows - 1.01)
        i, j = v.astype(np.intp), u.astype(np.intp)
        fv, fu = v - i, u - j
        flat, at = self.level.ravel(), i * columns + j
        top = flat[at] * (1 - fu) + flat[at + 1] * fu
        low = flat[at + columns] * (1 - fu) + flat[at + columns + 1] * fu
        return np.asarray((top * (1 - fv) + low * fv) / 255)


def static_shadows(light: Light, footprints: list[Footprint], first_z: float, last_z: float) -> ShadowMap:
    """Shadows and contact shading of everything stationary."""
    size = (int((last_z - first_z) * SHADOW_DENSITY), int(2 * SHADOW_REACH * SHADOW_DENSITY))
    shadow_map = ShadowMap(np.full(size, 255, np.uint8), first_z)
    still = [f for f in footprints if not f.velocity.any()]
    return _darken(light, shadow_map, still, 0.0)


def with_moving(light: Light, shadow_map: ShadowMap, footprints: list[Footprint], t: float) -> ShadowMap:
    """`shadow_map` with the shadows of moving objects at time `t`."""
    moving = [f for f in footprints if f.velocity.any()]
    return _darken(light, shadow_map, moving, t, local=True) if moving else shadow_map


def _darken(light: Light, shadow_map: ShadowMap, footprints: list[Footprint], t: float,
            local: bool = False) -> ShadowMap:  # fmt: skip
    level = shadow_map.level.copy()
    drift = -np.array([light.sun[0], light.sun[2]]) / light.sun[1]
    hulls, contacts = [], []
    for footprint in footprints:
        outline = footprint.outline + t * footprint.velocity[[0, 2]]
        low = outline + drift * footprint.lifted
        high = outline + drift * footprint.height
        hulls.append(np.asarray(cv2.convexHull(shadow_map.pixels(np.concatenate([low, high]))), np.int32))
        contacts.append((shadow_map.pixels(outline), footprint.contact))
    window = _window([*hulls, *(c for c, _ in contacts)], level.shape) if local else (slice(None), slice(None))
    part = level[window]
    if part.size == 0:
        return shadow_map
    origin = (-(window[1].start or 0), -(window[0].start or 0))
    sun, contact = np.zeros(part.shape, np.uint8), np.zeros(part.shape, np.uint8)
    for hull in hulls:
        cv2.fillConvexPoly(sun, hull + np.array(origin, np.int32), 255)
    for outline, strength in contacts:
        cv2.fillPoly(contact, [outline + np.array(origin, np.int32)], int(255 * strength))
    shaded = np.asarray(cv2.blur(sun, (3, 3)), np.float32) / 255
    closed = np.asarray(cv2.blur(cv2.dilate(contact, np.ones((3, 3), np.uint8)), (5, 5)), np.float32) / 255
    gain = (1 - 0.95 * light.sun_share * shaded) * (1 - 0.75 * closed)
    level[window] = (part * gain).astype(np.uint8)
    return replace(shadow_map, level=level)


def _window(outlines: list[NDArray[np.int32]], shape: tuple[int, ...]) -> tuple[slice, slice]:
    points = np.concatenate([o.reshape(-1, 2) for o in outlines])
    (left, top), (right, bottom) = np.maximum(points.min(0) - 8, 0), np.maximum(points.max(0) + 9, 0)
    return slice(int(top), int(min(bottom, shape[0]))), slice(int(left), int(min(right, shape[1])))
