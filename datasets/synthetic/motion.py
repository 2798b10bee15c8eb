"""Exact optical flow and visibility, from the geometry alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.camera import FloatArray, Lens, Pose
from datasets.synthetic.render import GROUND_ID, NEAR, SKY_ID, Frame, Planes, View, draw, planes_at, trace
from datasets.synthetic.scene import Scene

# A point is visible again if the surface at the pixel it moves to has the same 1/z, at exactly that place, up to this
# relative tolerance.
DEPTH_TOLERANCE = 0.01


def render_frame(scene: Scene, t: float, height: int, width: int) -> Frame:
    """Draw frame `t` of `scene` with labels, depth, flow to frame t + 1 and visibility; see `Frame`."""
    image, view, planes = draw(scene, t, height, width)
    flow, visible = flow_and_visibility(scene, t, view, planes)
    depth = np.where(view.ids == SKY_ID, np.inf, 1 / view.inverse_depth).astype(np.float32)
    return Frame(image, np.ascontiguousarray(view.labels), depth, flow, visible)


def flow_and_visibility(
    scene: Scene, t: float, view: View, planes: Planes, steps: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Flow [H, W, 2] and visibility [H, W] from the view at the pixel centres of frame `t` to frame t + steps.

    A point that moves behind the camera has flow 0 and is not visible. `steps` may be negative: back in time.
    """
    height, width = view.ids.shape
    lens, now, later = Lens.for_size(height, width), scene.path.pose(t), scene.path.pose(t + steps)
    x, y = np.meshgrid(view.xs, view.ys)
    target, z_later = _move(scene, planes, view.ids, x, y, lens, now, later, steps)
    in_front = z_later >= NEAR
    image_points = lens.project(np.where(in_front[..., None], target, [0.0, 0.0, 1.0]))
    flow = np.where(in_front[..., None], image_points - np.stack([x, y], -1), 0.0)

    planes_later = planes_at(scene, t + steps, later, lens, height, width)
    view_later = trace(scene, planes_later, view.xs, view.ys)
    column, row = np.round(image_points[..., 0]), np.round(image_points[..., 1])
    inside = in_front & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = np.where(inside, column, 0).astype(np.intp), np.where(inside, row, 0).astype(np.intp)
    seen = view_later.ids[row, column]
    plane = planes_later.inverse_depth[np.maximum(seen, 0)]
    seen_inverse = plane[..., 0] * image_points[..., 0] + plane[..., 1] * image_points[..., 1] + plane[..., 2]
    expected = 1 / np.where(in_front, z_later, 1.0)
    same = np.abs(seen_inverse - expected) <= DEPTH_TOLERANCE * expected
    is_sky = view.ids == SKY_ID
    visible = inside & np.where(is_sky, seen == SKY_ID, same & (seen != SKY_ID))
    return flow.astype(np.float32), visible


def _move(scene: Scene, planes: Planes, ids: NDArray[np.int16], x: FloatArray, y: FloatArray, lens: Lens, now: Pose,
          later: Pose, steps: int) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Camera points [H, W, 3] at t + steps of the points seen at (x, y) at t, and their depth; the sky only rotates."""
    rays = lens.rays(x, y)
    plane = planes.inverse_depth[np.maximum(ids, GROUND_ID)]
    inverse = plane[..., 0] * x + plane[..., 1] * y + plane[..., 2]
    is_sky = ids == SKY_ID
    world = (rays / np.where(is_sky, 1.0, inverse)[..., None]) @ now.rotation()
    velocities = np.concatenate([np.zeros((2, 3)), scene.velocities])[ids + 1]
    shift = np.where(is_sky[..., None], 0.0, now.position - later.position + steps * velocities)
    target = (world + shift) @ later.rotation().T
    return target, target[..., 2]
