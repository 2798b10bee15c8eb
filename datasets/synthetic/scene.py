"""The world: a street with everything in it, consisting of flat painted surfaces and built from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.camera import CameraPath, Curve
from datasets.synthetic.ground import Ground, Junction, asphalt_tile, grass_tile, slab_tile
from datasets.synthetic.light import Footprint, Light, ShadowMap, make_light, static_shadows
from datasets.synthetic.materials import FloatArray, Texture, jitter
from datasets.synthetic.placing import furnish

VIEW_LENGTH = 130.0  # metres of street beyond the last camera position
# Metres beyond it with small objects. Further away they are a pixel wide at the size of the embedded set, and nobody
# could recognise them.
DETAIL_LENGTH = 12.0


@dataclass(frozen=True)
class Scene:
    """A street at all times. Surface k covers origins[k] + a * us[k] + b * vs[k] + t * velocities[k], 0 <= a, b < 1.

    origins, us, vs, velocities, tints: [n, 3]; metres, metres per frame, light. two_sided: [n].
    """

    origins: FloatArray
    us: FloatArray
    vs: FloatArray
    velocities: FloatArray
    textures: tuple[Texture, ...]
    tints: FloatArray
    two_sided: NDArray[np.bool_]
    footprints: list[Footprint]
    ground: Ground
    light: Light
    shadows: ShadowMap
    path: CameraPath
    seed: tuple[int, ...]


def build_scene(seed: int | tuple[int, ...], num_frames: int = 1, path: CameraPath | None = None) -> Scene:
    """The street of `seed`, long enough for `num_frames` frames.

    path: the drive; if None, it is drawn from the seed. The same arguments give the same street.
    """
    seed = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng([*seed, 1])
    light = make_light(rng)
    ground = _draw_ground(rng)
    path = path or _draw_path(rng, ground)
    end = path.speed * num_frames + VIEW_LENGTH
    surfaces = furnish(rng, ground, light, path, end, end - VIEW_LENGTH + DETAIL_LENGTH)
    return Scene(
        origins=np.array(surfaces.origins).reshape(-1, 3),
        us=np.array(surfaces.us).reshape(-1, 3),
        vs=np.array(surfaces.vs).reshape(-1, 3),
        velocities=np.array(surfaces.velocities).reshape(-1, 3),
        textures=tuple(surfaces.textures),
        tints=np.array(surfaces.tints).reshape(-1, 3),
        two_sided=np.array(surfaces.two_sided, bool),
        footprints=surfaces.footprints,
        ground=ground,
        light=light,
        shadows=static_shadows(light, surfaces.footprints, -20.0, end + 10),
        path=path,
        seed=seed,
    )


def _draw_ground(rng: np.random.Generator) -> Ground:
    lane = rng.uniform(2.9, 3.6)
    parking = 2.2 if rng.random() < 0.45 else 0.0
    junctions: list[Junction] = []
    z = rng.uniform(14, 40)
    while z < 400:
        left, right = ((True, True), (True, False), (False, True))[rng.integers(3)]
        junctions.append(Junction(float(z), float(rng.uniform(2.8, 4.2)), left, right))
        z += rng.uniform(38, 75)
    crossings = [j.z - j.half_width - 5.5 for j in junctions if rng.random() < 0.5]
    crossings += [float(rng.uniform(10, 20))] if rng.random() < 0.25 else []
    gray = rng.uniform(82, 124)
    asphalt = asphalt_tile(rng, jitter(rng, (gray, gray, gray * 1.01), 0.05))
    slab_colour = ((176, 170, 160), (160, 160, 160), (186, 158, 138), (168, 162, 142))[rng.integers(4)]
    return Ground(
        curve=Curve(rng.uniform(0, 7) if rng.random() < 0.6 else 0.0, rng.uniform(140, 300), rng.uniform(0, 2 * np.pi)),
        half_width=float(lane + parking),
        walk=float(rng.uniform(2.2, 4.2)),
        parking=parking,
        junctions=tuple(junctions),
        crossings=tuple(crossings),
        centre_line=("dashed", "dashed", "double", "solid", "none")[rng.integers(5)],
        edge_line=("solid", "dashed", "none", "none")[rng.integers(4)],
        lawn=bool(rng.random() < 0.5),
        line_colour=(226, 186, 70) if rng.random() < 0.2 else (232, 230, 224),
        asphalt=asphalt,
        slabs=slab_tile(rng, jitter(rng, slab_colour, 0.1), rng.uniform(0.45, 0.8)),
        grass=grass_tile(rng, jitter(rng, (98, 122, 56), 0.2)),
    )


def _draw_path(rng: np.random.Generator, ground: Ground) -> CameraPath:
    lane = (ground.half_width - ground.parking) / 2
    return CameraPath(
        curve=ground.curve,
        speed=float(rng.uniform(0.3, 0.7)),
        lane=float(lane + rng.uniform(-0.3, 0.3)) * (1 if rng.random() < 0.8 else -1),
        height=float(rng.uniform(1.35, 1.75)),
        pitch=float(rng.uniform(-0.02, 0.05)),
        yaw=float(rng.uniform(-0.08, 0.08)),
        yaw_sway=float(rng.uniform(0, 0.03)),
        lane_sway=float(rng.uniform(0, 0.4)),
        sway_period=float(rng.uniform(25, 60)),
    )
