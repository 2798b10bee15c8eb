"""Draw a street: what is visible where, its colours, and the exact motion to any other frame.

Camera: x to the right, y down, z forward (depth is this z, not the length of the ray). Image: the centre of pixel
(row i, column j) is y = i, x = j. The inverse depth 1/z of a plane is an affine function of x and y, and so are a/z and
b/z of the places on it: a depth buffer over these functions gives class, depth and place of every sample exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.streets.world import ROAD, SIDEWALK, SKY, TREE, FloatArray, World, blobs

SKY_ID, GROUND_ID, FIRST_QUAD = 0, 1, 2  # surface ids: sky, ground, then the quads
NEAR, GROUND_FAR = 0.15, 600.0  # metres; nothing closer is drawn, and beyond this the ground counts as sky
FOCAL_PER_HEIGHT = 1.15  # a vertical field of view of 47 degrees, about that of a dashboard camera
# A point is visible again if the surface at the pixel that it moves to has its depth, up to this share of it.
DEPTH_TOLERANCE = 0.01
SHADOW_REACH, SHADOW_LENGTH, SHADOW_DENSITY = 40.0, 150.0, 6.0  # metres sideways and ahead; samples per metre
GRASS, HORIZON = (98, 122, 56), np.array([208, 217, 224])
NOISE = blobs(np.random.default_rng(0), 256, 256, 2) + blobs(np.random.default_rng(1), 256, 256, 8)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at one moment; focal length and centre (x, y) in pixels."""

    position: FloatArray
    rotation: FloatArray
    focal: float
    centre: FloatArray

    def project(self, points: FloatArray) -> FloatArray:
        """Camera points [..., 3] of depth above 0 to image points [..., 2] as (x, y)."""
        return self.focal * points[..., :2] / points[..., 2:] + self.centre

    def rays(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """World directions [..., 3] of depth 1 through image points."""
        right, down = (x - self.centre[0]) / self.focal, (y - self.centre[1]) / self.focal
        return np.stack([right, down, np.ones_like(right)], -1) @ self.rotation


@dataclass(frozen=True)
class TracedView:
    """What is visible at the image points `ys` x `xs`.

    ids: [len(ys), len(xs)] surface ids. colours: [len(ys), len(xs), 3], those of the quads; sky and ground are black.
    planes: [surfaces, 3, 3], per surface the coefficients of x, y and 1 for 1/z, a/z and b/z; 1/z of the sky is 0, and
    a and b of the ground are the world's x and -z.
    """

    camera: Camera
    xs: FloatArray
    ys: FloatArray
    ids: NDArray[np.int16]
    colours: NDArray[np.float32]
    planes: FloatArray

    def places(self, ids: NDArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """1/z, a/z and b/z of surfaces `ids` [...] at image points: [3, ...]."""
        planes = np.moveaxis(self.planes[ids], -2, 0)
        return planes[..., 0] * x + planes[..., 1] * y + planes[..., 2]


def trace(world: World, t: float, height: int, width: int, per_pixel: int = 1) -> TracedView:
    """The view of frame `t`, with `per_pixel` samples per pixel side, which include the pixel centres.

    With more than one, a margin of samples surrounds the image: sample k lies at (k + 1) / per_pixel - 1.
    """
    camera = Camera(*world.pose(t), FOCAL_PER_HEIGHT * height, np.array([width - 1, height - 1]) / 2)
    xs, ys = (np.arange(1 - per_pixel, per_pixel * size) / per_pixel for size in (width, height))
    planes, corners, brightness = _surfaces(world, t, camera)
    ahead = np.asarray(corners[..., 2] > NEAR)
    image = camera.project(np.where(ahead[..., None], corners, [0.0, 0.0, 1.0]))
    whole = np.asarray(ahead.all(1))[:, None]  # the others are searched for everywhere: only a part of them is ahead
    low, high = np.where(whole, image.min(1), -np.inf), np.where(whole, image.max(1), np.inf)
    first = np.clip(np.floor((low + 1) * per_pixel) - 1, 0, [xs.size, ys.size]).astype(int)
    last = np.clip(np.floor((high + 1) * per_pixel) + 1, 0, [xs.size, ys.size]).astype(int)
    planes32, x32, y32 = planes.astype(np.float32), xs.astype(np.float32), ys.astype(np.float32)
    fx, fy, f1 = planes32[GROUND_ID, 0]
    nearest = np.maximum(fx * x32 + (fy * y32[:, None] + f1), 0)
    nearest[nearest < 1 / GROUND_FAR] = 0
    ids = np.where(nearest > 0, GROUND_ID, SKY_ID).astype(np.int16)
    colours = np.zeros((*ids.shape, 3), np.float32)
    for k in np.argsort(corners[..., 2].min(1), kind="stable"):  # nearest first, so that little is drawn twice
        (left, top), (right, bottom) = first[k], last[k]
        if left >= right or top >= bottom or not ahead[k].any():
            continue
        (zx, zy, z1), (ax, ay, a1), (bx, by, b1) = planes32[k + FIRST_QUAD]
        window = (slice(top, bottom), slice(left, right))
        x, y = x32[left:right], y32[top:bottom, None]
        inverse = zx * x + (zy * y + z1)
        rows, columns = np.nonzero((inverse > nearest[window]) & (inverse < 1 / NEAR))
        x, y, inverse = x[columns], y[rows, 0], inverse[rows, columns]
        a, b = (ax * x + ay * y + a1) / inverse, (bx * x + by * y + b1) / inverse
        hit = np.flatnonzero((a >= 0) & (a < 1) & (b >= 0) & (b < 1))
        canvas = world.quads[k].canvas
        texels = (b[hit] * canvas.opaque.shape[0]).astype(int), (a[hit] * canvas.opaque.shape[1]).astype(int)
        solid = canvas.opaque[texels] > 0
        at = rows[hit][solid] + top, columns[hit][solid] + left
        nearest[at], ids[at] = inverse[hit][solid], k + FIRST_QUAD
        colours[at] = canvas.colours[texels][solid] * brightness[k]
    return TracedView(camera, xs, ys, ids, colours, planes)


def _surfaces(world: World, t: float, camera: Camera) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`TracedView.planes`; the quads' corners at `t` for the camera, [n, 4, 3]; the light on the quads, [n]."""
    origin, u, v, velocity = world.geometry
    normal = np.cross(u, v)[1:]
    facing = np.abs(normal @ world.look.sun) / np.linalg.norm(normal, axis=1)
    brightness = 1 - world.look.sunlight * (0.6 - 0.8 * facing)
    turn = camera.rotation.T
    origin, u, v = (origin + t * velocity - camera.position) @ turn, u @ turn, v @ turn
    normal = np.cross(u, v)
    distance = np.einsum("ij,ij->i", normal, origin)[:, None]
    distance = np.where(np.abs(distance) < 1e-9, 1e-9, distance)  # seen exactly from its edge
    (cx, cy), f = camera.centre, camera.focal
    to_image = np.array([[1, 0, -cx], [0, 1, -cy], [0, 0, f]]) / f
    planes = np.stack([normal, np.cross(v, origin), np.cross(origin, u)], 1) / distance[..., None] @ to_image
    corners = np.stack([origin, origin + u, origin + u + v, origin + v], 1)[1:]
    return np.concatenate([np.zeros((1, 3, 3)), planes]), corners, brightness


def flow_and_visibility(
    world: World, t: float, steps: int, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow [H, W, 2] as (x, y) in pixels from frame `t` to t + steps, and whether each point is visible there, [H, W].

    steps: may be negative, back in time. A point that gets behind the camera has flow 0 and is not visible.
    """
    now, later = trace(world, t, height, width), trace(world, t + steps, height, width)
    x, y = np.meshgrid(now.xs, now.ys)
    inverse = now.places(now.ids, x, y)[0]
    # Directions over depth: for the sky, whose inverse depth is 0, the camera's and its own way vanish.
    velocities = world.geometry[3][np.maximum(now.ids, GROUND_ID) - GROUND_ID]
    shift = now.camera.position - later.camera.position + steps * velocities
    target = (now.camera.rays(x, y) + inverse[..., None] * shift) @ later.camera.rotation.T
    in_front = target[..., 2] > np.maximum(NEAR * inverse, 1e-6)
    points = later.camera.project(np.where(in_front[..., None], target, [0.0, 0.0, 1.0]))
    flow = np.where(in_front[..., None], points - np.stack([x, y], -1), 0.0)
    column, row = np.round(points[..., 0]), np.round(points[..., 1])
    inside = in_front & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = later.ids[np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)]
    found = later.places(seen, points[..., 0], points[..., 1])[0]
    same = np.abs(found * target[..., 2] - inverse) <= DEPTH_TOLERANCE * inverse
    return flow.astype(np.float32), inside & same


def draw(world: World, t: float, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image [H, W, 3] RGB, and labels [H, W]: CamVid's train ids, 11 for void, exact at the pixel centres."""
    view = trace(world, t, height, width, per_pixel=2)
    y, x = (grid.astype(np.float32) for grid in np.meshgrid(view.ys, view.xs, indexing="ij"))
    inverse = view.places(view.ids, x, y)[0]
    labels = np.array([SKY, ROAD, *(quad.canvas.label for quad in world.quads)], np.uint8)[view.ids]
    colours = view.colours
    at = np.nonzero(view.ids == GROUND_ID)
    _, right, back = view.places(view.ids[at], x[at], y[at]) / inverse[at]
    labels[at], colours[at] = paint_ground(world, t, right, -back, inverse[at])
    at = np.nonzero(view.ids == SKY_ID)
    colours[at] = paint_sky(world, view.camera.rays(x[at], y[at]))
    rows = colours[0:-2:2] + 2 * colours[1::2] + colours[2::2]
    image = (rows[:, 0:-2:2] + 2 * rows[:, 1::2] + rows[:, 2::2]) / 16
    return develop(world, image, t), np.ascontiguousarray(labels[1::2, 1::2])


def paint_ground(world: World, t: float, x: FloatArray, z: FloatArray, inverse: FloatArray) -> tuple[NDArray, NDArray]:
    """Classes [n] and colours [n, 3] of ground points at depth 1 / `inverse`."""
    ground = world.ground
    kerb = np.abs(x) - ground.half_width  # metres outside the kerb
    labels = np.where(kerb < 0, ROAD, np.where(kerb < ground.sidewalk, SIDEWALK, TREE if ground.lawn else SIDEWALK))
    road, paved = labels == ROAD, labels == SIDEWALK
    colours = np.where(road[:, None], ground.asphalt, np.where(paved[:, None], ground.paving, GRASS))
    grain = 0.12 * grain_at(x / 6, z / 6) + 0.08 * grain_at(x, z)
    joints = paved & ((np.mod(x, 0.7) < 0.04) | (np.mod(z, 0.7) < 0.04))
    gain = (1 + grain) * np.where(joints, 0.8, 1) * np.where((kerb > -0.12) & road, 0.6, 1)
    gain *= np.where((kerb >= 0) & (kerb < 0.2), 1.15, 1)
    line = (np.abs(x) < 0.08) & (np.mod(z, 6) < 6 * ground.dash)
    for crossing in ground.crossings:
        line = np.where(np.abs(z - crossing) < 1.4, np.mod(x, 1.0) < 0.5, line)
    colours[line & road] = (226, 224, 216)
    gain *= sunshine(world, t, x, z)
    return labels, colours * gain[:, None]


def sunshine(world: World, t: float, x: FloatArray, z: FloatArray) -> FloatArray:
    """Light [n] on ground points: the shadow of each quad is its outline, moved along the rays of the sun."""
    sun, (origin, u, v, velocity) = world.look.sun, world.geometry
    origin = origin + t * velocity
    corners = np.stack([origin, origin + u, origin + u + v, origin + v], 1)[1:]
    outlines = (corners - corners[..., 1:2] / sun[1] * sun)[..., [0, 2]]
    first = np.array([-SHADOW_REACH, world.pose(t)[0][2] - 5])
    shadow = np.zeros((int(SHADOW_LENGTH * SHADOW_DENSITY), int(2 * SHADOW_REACH * SHADOW_DENSITY)), np.float32)
    for outline in np.round((outlines - first) * SHADOW_DENSITY).astype(np.int32):
        cv2.fillConvexPoly(shadow, outline, 1.0)
    shadow = np.asarray(cv2.blur(shadow, (3, 3)), np.float32)
    columns, rows = ((np.stack([x, z], -1) - first) * SHADOW_DENSITY).T.astype(int)
    level = shadow[np.clip(rows, 0, shadow.shape[0] - 1), np.clip(columns, 0, shadow.shape[1] - 1)]
    return 1 - (0.15 + world.look.sunlight) * level


def grain_at(x: FloatArray, z: FloatArray) -> FloatArray:
    """Random values about 0, the same at the same place."""
    return NOISE[np.mod(z * 12, 256).astype(int) % 256, np.mod(x * 12, 256).astype(int) % 256]


def paint_sky(world: World, rays: FloatArray) -> FloatArray:
    """Colours [n, 3] of the sky in the directions `rays` [n, 3]."""
    look, rays = world.look, rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    up = np.clip(rays[:, 1:2], 0, 1)
    colours = HORIZON + (look.sky - HORIZON) * (1 - np.exp(-3 * up))
    clouds = grain_at(rays[:, 0] / (up[:, 0] + 0.15) * 4, rays[:, 2] / (up[:, 0] + 0.15) * 4)
    cover = np.clip(clouds + 2 * look.clouds - 1, 0, 1) * np.clip(5 * up[:, 0], 0, 1)
    return colours + cover[:, None] * (235 - colours)


def develop(world: World, image: FloatArray, t: float) -> NDArray[np.uint8]:
    """The camera's own effects: blur, exposure and grain."""
    image = cv2.GaussianBlur(image, (0, 0), 0.4 * image.shape[0] / 240) * world.look.exposure
    rng = np.random.default_rng([*world.seed, 2, round(t * 1000)])
    noise = rng.standard_normal((*image.shape[:2], 1), np.float32) + 0.4 * rng.standard_normal(image.shape, np.float32)
    return np.clip(image + 3 * noise + 0.5, 0, 255).astype(np.uint8)
