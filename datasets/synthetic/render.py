"""Draw a scene: which surface is visible where (a depth buffer over exact planes), and its colour.

The inverse depth 1/z of a plane is an affine function of the image coordinates, and so are a/z and b/z of its texture
coordinates; six numbers per surface and a few multiply-adds per pixel give class and depth exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.camera import Lens, Pose
from datasets.synthetic.ground import FINE_SIZE, bilinear, fine_grain, ground_colours, ground_labels, kerb_distance
from datasets.synthetic.light import sky_colours, with_moving
from datasets.synthetic.materials import HOLE, SKY, FloatArray
from datasets.synthetic.scene import Scene

SKY_ID, GROUND_ID = -1, 0  # surface ids in a view; quad k of the scene has id k + 1
NEAR = 0.15  # metres; anything closer to the camera is not drawn
GROUND_FAR = 600.0  # metres; beyond this, the ground counts as sky (the skyline hides it)


@dataclass(frozen=True)
class Frame:
    """One drawn frame.

    image: [H, W, 3] uint8 RGB. labels: [H, W] uint8, CamVid train ids, 11 = void. depth: [H, W] float32, metres along
    the optical axis, inf in the sky. flow: [H, W, 2] float32, (x, y) pixels from frame t to t + 1. visible: [H, W]
    bool, whether the surface point seen here is also seen in frame t + 1.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    depth: NDArray[np.float32]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class Planes:
    """Affine functions c[0] * x + c[1] * y + c[2] of image coordinates, per surface id: [n, 3] each.

    inverse_depth: 1/z; a, b: texture coordinates over z. `boxes` [n, 4] are x0, y0, x1, y1 in pixels, `order` the
    ids to draw, nearest first.
    """

    inverse_depth: FloatArray
    a: FloatArray
    b: FloatArray
    boxes: FloatArray
    order: NDArray[np.intp]
    distance: FloatArray


@dataclass(frozen=True)
class View:
    """Surface id, 1/z, texture coordinates a, b and class at sample points `ys` x `xs`: [len(ys), len(xs)] each."""

    xs: FloatArray
    ys: FloatArray
    ids: NDArray[np.int16]
    inverse_depth: NDArray[np.float32]
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    labels: NDArray[np.uint8]


def planes_at(scene: Scene, t: float, pose: Pose, lens: Lens, height: int, width: int) -> Planes:
    """The scene's planes as seen at time `t`."""
    rotation = pose.rotation()
    # Id 0 is the ground: a = x and b = -z in metres, unbounded.
    origins = np.concatenate([np.zeros((1, 3)), scene.origins + t * scene.velocities])
    us = np.concatenate([[[1.0, 0.0, 0.0]], scene.us]) @ rotation.T
    vs = np.concatenate([[[0.0, 0.0, -1.0]], scene.vs]) @ rotation.T
    p = (origins - pose.position) @ rotation.T
    normal = np.cross(us, vs)
    distance = np.einsum("ij,ij->i", normal, p)
    safe = np.where(np.abs(distance) < 1e-9, 1e-9, distance)[:, None]
    to_image = np.array([[1, 0, -lens.centre_x], [0, 1, -lens.centre_y], [0, 0, lens.focal]]) / lens.focal
    boxes, nearest = _boxes(p, us, vs, lens)
    inside = (boxes[:, 0] < width) & (boxes[:, 2] > -1) & (boxes[:, 1] < height) & (boxes[:, 3] > -1)
    facing = np.concatenate([[True], scene.two_sided]) | (distance > 0)
    drawn = np.flatnonzero(inside & facing & (np.abs(distance) > 1e-9))
    drawn = drawn[drawn != GROUND_ID]
    length = np.linalg.norm(normal, axis=1)
    return Planes(
        inverse_depth=(normal / safe) @ to_image,
        a=(np.cross(vs, p) / safe) @ to_image,
        b=(np.cross(p, us) / safe) @ to_image,
        boxes=boxes,
        order=drawn[np.argsort(nearest[drawn], kind="stable")],
        distance=np.abs(distance) / np.maximum(length, 1e-12),
    )


def _boxes(p: FloatArray, us: FloatArray, vs: FloatArray, lens: Lens) -> tuple[FloatArray, FloatArray]:
    """Image boxes [n, 4] of the parts of the quads beyond NEAR, and the depth [n] of their nearest corners."""
    corners = np.stack([p, p + us, p + us + vs, p + vs], axis=1)
    following = np.roll(corners, -1, axis=1)
    depth, next_depth = corners[..., 2], following[..., 2]
    step = np.where(depth == next_depth, 1.0, next_depth - depth)
    share = np.clip((NEAR - depth) / step, 0, 1)[..., None]
    cut = corners + share * (following - corners)  # where an edge crosses the near plane
    crosses = (depth < NEAR) != (next_depth < NEAR)
    points = np.concatenate([corners, cut], axis=1)
    valid = np.concatenate([depth >= NEAR, crosses], axis=1)
    z = np.where(valid, np.maximum(points[..., 2], NEAR), 1.0)
    x = lens.focal * points[..., 0] / z + lens.centre_x
    y = lens.focal * points[..., 1] / z + lens.centre_y
    low = [np.where(valid, c, np.inf).min(axis=1) for c in (x, y)]
    high = [np.where(valid, c, -np.inf).max(axis=1) for c in (x, y)]
    return np.stack([*low, *high], axis=1), depth.min(axis=1)


def trace(scene: Scene, planes: Planes, xs: FloatArray, ys: FloatArray) -> View:
    """What is visible at the sample points; `xs` and `ys` ascend in even steps."""
    shape = (ys.size, xs.size)
    xs32, ys32 = xs.astype(np.float32), ys.astype(np.float32)
    nearest = np.full(shape, 1 / GROUND_FAR, np.float32)
    ids = np.full(shape, SKY_ID, np.int16)
    a, b = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    labels = np.full(shape, SKY, np.uint8)
    starts = np.array([xs[0], ys[0], xs[0], ys[0]])
    step = float(xs[1] - xs[0]) if xs.size > 1 else 1.0
    limits = np.array([xs.size, ys.size, xs.size, ys.size])
    cells = np.clip(np.floor((planes.boxes - starts) / step) + np.array([0, 0, 2, 2]), 0, limits).astype(int)
    coefficients = [c.astype(np.float32) for c in (planes.a, planes.b, planes.inverse_depth)]
    for k in planes.order:
        left, top, right, bottom = cells[k]
        if left >= right or top >= bottom:
            continue
        window = (slice(top, bottom), slice(left, right))
        x, y = xs32[left:right], ys32[top:bottom, None]
        ca, cb, cz = coefficients[0][k], coefficients[1][k], coefficients[2][k]
        z = (cz[0] * x)[None, :] + (cz[1] * y + cz[2])
        seen = z > nearest[window]
        if not seen.any():
            continue
        rows, columns = np.nonzero(seen)
        z = z[seen]
        px, py = x[columns], y[rows, 0]
        pa, pb = (ca[0] * px + ca[1] * py + ca[2]) / z, (cb[0] * px + cb[1] * py + cb[2]) / z
        hit = (pa >= 0) & (pa < 1) & (pb >= 0) & (pb < 1) & (z < 1 / NEAR)
        texture = scene.textures[k - 1]
        th, tw = texture.labels.shape
        hit = np.flatnonzero(hit)
        texel = texture.labels[(pb[hit] * th).astype(np.intp), (pa[hit] * tw).astype(np.intp)]
        if not texture.solid:
            opaque = texel != HOLE
            hit, texel = hit[opaque], texel[opaque]
        at = (rows[hit] + top) * shape[1] + columns[hit] + left
        nearest.ravel()[at], ids.ravel()[at], labels.ravel()[at] = z[hit], k, texel
        a.ravel()[at], b.ravel()[at] = pa[hit], pb[hit]
    _trace_ground(scene, planes, xs32, ys32, View(xs, ys, ids, nearest, a, b, labels))
    return View(xs, ys, ids, nearest, a, b, labels)


def _trace_ground(scene: Scene, planes: Planes, xs: FloatArray, ys: FloatArray, view: View) -> None:
    """Fill in the ground plane behind everything else."""
    cz, ca, cb = (c[GROUND_ID].astype(np.float32) for c in (planes.inverse_depth, planes.a, planes.b))
    z = (cz[0] * xs)[None, :] + (cz[1] * ys + cz[2])[:, None]
    rows, columns = np.nonzero(z > view.inverse_depth)
    z = z[rows, columns]
    px, py = xs[columns], ys[rows]
    at = rows * xs.size + columns
    a, b = (ca[0] * px + ca[1] * py + ca[2]) / z, (cb[0] * px + cb[1] * py + cb[2]) / z
    view.a.ravel()[at], view.b.ravel()[at] = a, b
    view.ids.ravel()[at], view.inverse_depth.ravel()[at] = GROUND_ID, z
    view.labels.ravel()[at] = ground_labels(scene.ground, a, -b, kerb_distance(scene.ground, a, -b))


def shade(scene: Scene, planes: Planes, view: View, pose: Pose, lens: Lens, t: float) -> NDArray[np.float32]:
    """Colours [rows, columns, 3] of a view, 0..255, before the camera's effects."""
    ids = view.ids.ravel()
    colours = np.empty((ids.size, 3), np.float32)
    z = view.inverse_depth.ravel()
    step = float(view.xs[1] - view.xs[0])
    order = np.argsort(ids, kind="stable")
    ends = np.searchsorted(ids[order], np.arange(-1, len(scene.textures) + 2))
    a, b = view.a.ravel(), view.b.ravel()
    for k in np.unique(ids):
        at = order[ends[k + 1] : ends[k + 2]]
        if k == SKY_ID:
            rows, columns = np.divmod(at, view.xs.size)
            rays = lens.rays(view.xs[columns], view.ys[rows])
            colours[at] = sky_colours(scene.light, rays @ pose.rotation())
        elif k == GROUND_ID:
            x, depth = a[at], -b[at]
            # A ground sample is depth / camera height times as long as wide; the geometric mean sets the blur.
            footprint = step / (lens.focal * z[at]) * np.sqrt(np.maximum(1.0, 1 / (z[at] * pose.position[1])))
            distance = kerb_distance(scene.ground, x, depth)
            ground = ground_colours(scene.ground, x, depth, distance, footprint, view.labels.ravel()[at])
            shadows = with_moving(scene.light, scene.shadows, scene.footprints, t)
            level = shadows.at(x, depth) * float(scene.light.on(np.array([0.0, 1.0, 0.0])).mean())
            colours[at] = ground * level.astype(np.float32)[:, None]
        else:
            colours[at] = _sample_surface(scene, planes, int(k), a[at], b[at], z[at], step / lens.focal)
    fog = np.exp(-1 / (np.maximum(z, 1 / GROUND_FAR) * scene.light.haze)).astype(np.float32)
    fog[ids == SKY_ID] = 1
    horizon = scene.light.horizon.astype(np.float32)
    return (horizon + (colours - horizon) * fog[:, None]).reshape(*view.ids.shape, 3)


def _sample_surface(scene: Scene, planes: Planes, k: int, a: FloatArray, b: FloatArray, z: FloatArray,
                    pixel: float) -> FloatArray:  # fmt: skip
    """Colours [n, 3] of surface `k`, from the texture copy whose texels are as large as the samples."""
    texture = scene.textures[k - 1]
    density = texture.labels.shape[1] / max(1e-6, float(np.linalg.norm(scene.us[k - 1])))
    slant = np.clip(z * planes.distance[k], 0.08, 1.0)
    level = np.round(np.log2(np.maximum(density * pixel / z, 1.0)) - 0.5 * np.log2(slant))
    level = np.clip(level, 0, len(texture.mips) - 1).astype(np.uint8)
    tint = scene.tints[k - 1].astype(np.float32)
    low, high = int(level.min()), int(level.max())
    out = np.empty((a.size, 3), np.float32)
    for value in range(low, high + 1):
        at = slice(None) if low == high else np.flatnonzero(level == value)
        mip = texture.mips[value]
        if a[at].size:
            out[at] = bilinear(mip, a[at] * np.float32(mip.shape[1]), b[at] * np.float32(mip.shape[0]), False)
    footprint = np.float32(pixel) / z
    if footprint.min() < 0.5 * FINE_SIZE:
        u, v = (np.float32(np.linalg.norm(c[k - 1])) for c in (scene.us, scene.vs))
        out *= fine_grain(scene.ground.asphalt, a * u, b * v, footprint)[:, None]
    return out * tint


def draw(scene: Scene, t: float, height: int, width: int) -> tuple[NDArray[np.uint8], View, Planes]:
    """Image [H, W, 3] uint8 RGB, and what is visible at the pixel centres."""
    pose, lens = scene.path.pose(t), Lens.for_size(height, width)
    planes = planes_at(scene, t, pose, lens, height, width)
    # Samples are half a pixel apart and include every pixel centre: labels are exact there, colours are averaged.
    xs, ys = np.arange(-1, 2 * width) / 2, np.arange(-1, 2 * height) / 2
    fine = trace(scene, planes, xs, ys)
    colours = shade(scene, planes, fine, pose, lens, t)
    rows = colours[0:-2:2] + 2 * colours[1::2] + colours[2::2]
    image = (rows[:, 0:-2:2] + 2 * rows[:, 1::2] + rows[:, 2::2]) / 16
    centre = (slice(1, None, 2), slice(1, None, 2))
    view = View(xs[1::2], ys[1::2], fine.ids[centre], fine.inverse_depth[centre], fine.a[centre], fine.b[centre],
                fine.labels[centre])  # fmt: skip
    return develop(scene, image, t), view, planes


def develop(scene: Scene, image: NDArray[np.float32], t: float) -> NDArray[np.uint8]:
    """The camera's effects: blur, exposure, colour cast, contrast, vignette, grain."""
    light = scene.light
    height, width = image.shape[:2]
    sigma = light.blur * height / 240
    if sigma > 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    gain = (light.exposure * (1 - 0.09 * (x**2 + y**2)))[..., None] * light.cast.astype(np.float32)
    image = 118 + (image * gain - 118) * np.float32(light.contrast)
    rng = np.random.default_rng([*scene.seed, 2, round(t * 1000)])
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * light.grain
    colour_grain = rng.standard_normal((height, width, 3), dtype=np.float32) * (light.grain * 0.4)
    return np.clip(image + grain + colour_grain + 0.5, 0, 255).astype(np.uint8)
