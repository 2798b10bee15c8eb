"""Place objects: fill a street with houses, trees, poles, signs, fences, cars and people."""

from __future__ import annotations

import numpy as np

from datasets.synthetic import facades, sprites
from datasets.synthetic.camera import CameraPath
from datasets.synthetic.ground import Ground
from datasets.synthetic.light import Footprint, Light
from datasets.synthetic.materials import FloatArray, Texture, jitter
from datasets.synthetic.surfaces import Surfaces
from datasets.synthetic.vehicles import Vehicle, vehicle

STILL = np.zeros(3)
START = -8.0  # z of the first objects
HOUSE_DEPTH, CORNER_DEPTH = 11.0, 26.0  # metres, of a house, and of a corner house including its rear building
POST_WIDTH = 0.2  # metres
BOLLARD_WIDTH = 0.25  # metres
GABLE_RISE = 0.38  # ratio of a gable's height to its width


class Placer:
    """Adds painted objects to `surfaces`; holds what every placement needs."""

    def __init__(self, rng: np.random.Generator, ground: Ground, light: Light, path: CameraPath, end: float,
                 detail_end: float) -> None:
        self.rng, self.ground, self.light, self.path, self.end = rng, ground, light, path, end
        self.detail_end = detail_end  # small objects are placed only up to here
        self.surfaces = Surfaces()
        self.city = not ground.lawn
        self.setback = 0.0 if self.city else float(rng.uniform(3.0, 6.0))

    def point(self, side: int, beyond_kerb: float, z: float, y: float = 0.0) -> FloatArray:
        """The world point `beyond_kerb` metres outside the kerb on `side` (-1 left, 1 right)."""
        return np.array([float(self.ground.curve.x(z)) + side * (self.ground.half_width + beyond_kerb), y, z])

    def in_junction(self, side: int, z0: float, z1: float, margin: float = 0.0) -> bool:
        """Whether a side street on `side` overlaps z0..z1."""
        for j in self.ground.junctions:
            gap = j.half_width + margin
            if (j.right if side > 0 else j.left) and z1 > j.z - gap and z0 < j.z + gap:
                return True
        return False

    def wall(self, start: FloatArray, stop: FloatArray, height: float, texture: Texture,
             two_sided: bool = False, base: float = 0.0) -> None:  # fmt: skip
        """An upright wall; `start` is its left end seen from the front."""
        u = np.array([stop[0] - start[0], 0.0, stop[2] - start[2]])
        normal = np.array([u[2], 0.0, -u[0]]) / max(1e-6, float(np.hypot(u[0], u[2])))
        tint = self.light.on(normal)
        top = np.array([start[0], base + height, start[2]])
        self.surfaces.add(top, u, np.array([0.0, -height, 0.0]), texture, tint, two_sided=two_sided)

    def billboard(self, at: FloatArray, width: float, height: float, texture: Texture, turn: float = 0.0,
                  velocity: FloatArray = STILL, anchor: float = 0.5, gain: float = 1.0) -> None:  # fmt: skip
        """An upright image at `at` that faces the camera's start, rotated by `turn`; `anchor` is its foot."""
        u = width * np.array([np.cos(turn), 0.0, np.sin(turn)])
        top = at - anchor * u + np.array([0.0, height, 0.0])
        # Rounded objects catch light from a wide range of directions.
        tint = 0.45 + 0.55 * self.light.on(np.array([0.0, 0.35, -0.94]))
        self.surfaces.add(top, u, np.array([0.0, -height, 0.0]), texture, tint * gain, velocity, True)

    def footprint(self, at: FloatArray, half_x: float, half_z: float, height: float, velocity: FloatArray = STILL,
                  contact: float = 0.5, lifted: float = 0.0) -> None:  # fmt: skip
        """An oval that casts a shadow."""
        a = np.arange(10) * np.pi / 5
        outline = np.stack([at[0] + half_x * np.cos(a), at[2] + half_z * np.sin(a)], -1)
        self.surfaces.footprints.append(Footprint(outline, height, velocity, contact, lifted))

    def houses(self, side: int) -> None:
        """A row of houses along one side, with gaps at side streets and an occasional green gap."""
        rng = self.rng
        fronts = [self._front() for _ in range(5)]
        self.flanks = [self._flank(*front) for front in fronts]
        z = START - rng.uniform(0, 6)
        while z < self.end:
            style = int(rng.integers(len(fronts)))
            texture, width, height, pitched = fronts[style]
            if self.in_junction(side, z, z + width, self.ground.walk):
                z += 1.0
                continue
            if rng.random() < (0.06 if self.city else 0.16):
                self._green_gap(side, z, z + 10)
                z += 10
                continue
            self._house(side, z, width, height, pitched, texture, self.flanks[style])
            z += width + (0.0 if self.city else rng.uniform(1.5, 4.0))

    def _front(self) -> tuple[Texture, float, float, bool]:
        rng = self.rng
        if self.city:
            floors, tall, width = int(rng.integers(3, 6)), rng.uniform(3.1, 3.5), rng.uniform(8, 16)
            front = facades.facade(rng, width, floors, tall, rng.random() < 0.7)
            return front, width, floors * tall, rng.random() < 0.4
        floors, tall, width = int(rng.integers(2, 4)), rng.uniform(2.8, 3.2), rng.uniform(7, 13)
        return facades.facade(rng, width, floors, tall, False), width, floors * tall, rng.random() < 0.85

    def _flank(self, texture: Texture, width: float, height: float, pitched: bool) -> tuple[Texture, Texture]:
        """Side walls in the front's colour: that of the house, and that of the rear building at street corners."""
        rng = self.rng
        base = jitter(rng, tuple(texture.mips[0][-8:, :20].reshape(-1, 3).mean(0)), 0.1)
        gable = facades.side_wall(rng, HOUSE_DEPTH, height, HOUSE_DEPTH * GABLE_RISE if pitched else 0.0, base)
        return gable, facades.side_wall(rng, CORNER_DEPTH - HOUSE_DEPTH, height * 0.9, 0.0, jitter(rng, base, 0.2))

    def _house(self, side: int, z: float, width: float, height: float, pitched: bool, texture: Texture,
               flank: tuple[Texture, Texture]) -> None:  # fmt: skip
        rng, back = self.rng, self.ground.walk + self.setback
        near, far = self.point(side, back, z), self.point(side, back, z + width)
        left, right = (far, near) if side > 0 else (near, far)
        self.wall(left, right, height, texture)
        depth = CORNER_DEPTH if self.in_junction(side, z - 4, z + width + 4, self.ground.walk) else HOUSE_DEPTH
        rise = HOUSE_DEPTH * GABLE_RISE if pitched else 0.0
        gable, behind = flank
        out = near + np.array([side * HOUSE_DEPTH, 0, 0])
        left, right = (near, out) if side > 0 else (out, near)
        self.wall(left, right, height + rise, gable)
        if depth > HOUSE_DEPTH:
            end = near + np.array([side * depth, 0, 0])
            left, right = (out, end) if side > 0 else (end, out)
            self.wall(left, right, height * 0.9, behind)
        if pitched:
            slope = facades.roof(rng, width, float(np.hypot(rise, HOUSE_DEPTH / 2)))
            up = np.array([side * HOUSE_DEPTH / 2, rise, 0.0])
            left, right = (far, near) if side > 0 else (near, far)
            eaves = np.array([0.0, height, 0.0]) - 0.06 * up
            tint = self.light.on(np.array([-side * rise, HOUSE_DEPTH / 2, 0.0]) / np.hypot(rise, HOUSE_DEPTH / 2))
            self.surfaces.add(left + eaves + up * 1.06, right - left, -up * 1.06, slope, tint)
        (x0, z0), (x1, z1) = near[[0, 2]], far[[0, 2]]
        corners = np.array([[x0, z0], [x1, z1], [x1 + side * depth, z1], [x0 + side * depth, z0]])
        self.surfaces.footprints.append(Footprint(corners, height + rise * 0.5, STILL, 0.5))

    def _green_gap(self, side: int, z0: float, z1: float) -> None:
        for z in np.arange(z0 + 1.5, z1, 3.0):
            self.tree(self.point(side, self.ground.walk + self.rng.uniform(2, 7), float(z)), self.rng.uniform(5, 9))
        self.fence_run(side, self.ground.walk + 0.1, z0, z1, int(self.rng.integers(3)))

    def backdrop(self) -> None:
        """Distant houses and trees, which close the view at the end of the street, in gaps and along side streets."""
        rng = self.rng
        for side in (-1, 1):
            texture = facades.facade(rng, 24.0, 3, 3.1, False)
            for z in np.arange(START, self.end + 20, 24.0):
                near, far = self.point(side, 38, float(z)), self.point(side, 38, float(z) + 24)
                left, right = (far, near) if side > 0 else (near, far)
                self.wall(left, right, rng.uniform(7, 12), texture)
        texture = facades.facade(rng, 26.0, 4, 3.2, False)
        middle = float(self.ground.curve.x(self.end))
        for k in range(-3, 3):
            start = np.array([middle + 26.0 * k, 0, self.end + 14])
            self.wall(start, start + np.array([26.0, 0, 0]), rng.uniform(9, 16), texture)
        for _ in range(9):
            self.tree(np.array([middle + rng.uniform(-26, 26), 0, self.end + rng.uniform(4, 12)]), rng.uniform(6, 11))

    def prepare(self) -> None:
        """Paint the crowns, fences and signs that objects on this street share."""
        rng = self.rng
        self.fences = [facades.fence(rng, 4.0, kind) for kind in range(4)]
        self.signs = [sprites.sign(rng, kind) for kind in (0, 1, 2, 3, 4, 5)]
        leaf = jitter(rng, ((86, 112, 44), (70, 104, 50), (110, 118, 46), (128, 104, 40))[rng.integers(4)], 0.2)
        self.leaf = leaf
        self.tapered = rng.random() < 0.2
        ratio = 1.5 if self.tapered else 1.0
        self.crowns = [sprites.crown(rng, 5.0, 5.0 * ratio, jitter(rng, leaf, 0.15), self.tapered) for _ in range(4)]
        self.trunks = [sprites.trunk(rng, 0.36, 3.4) for _ in range(2)]

    def tree(self, at: FloatArray, height: float) -> None:
        """A trunk and three layers of leaves."""
        rng = self.rng
        foot = height * (0.12 if self.tapered else rng.uniform(0.26, 0.34))
        width = (height - foot) * (0.6 if self.tapered else rng.uniform(0.8, 1.05))
        thick = 0.05 * height
        self.billboard(at, thick * 3, foot + 0.3 * (height - foot), self.trunks[rng.integers(2)])
        for depth, size in ((-0.24, 0.8), (0.04, 1.0), (0.3, 0.85)):
            place = at + np.array([rng.uniform(-0.08, 0.08) * width, foot, depth * width])
            crown = self.crowns[rng.integers(len(self.crowns))]
            self.billboard(place, width * size, (height - foot) * size, crown, gain=1.02 + 0.15 * depth)
        self.footprint(at, width * 0.4, width * 0.4, height * 0.9, contact=0.0, lifted=foot + 0.1 * height)
        self.footprint(at, thick * 0.6, thick * 0.6, foot + 0.5, contact=0.5)

    def trees(self) -> None:
        """Street trees along the kerb and trees in gardens."""
        rng = self.rng
        for side in (-1, 1):
            if rng.random() < 0.6:
                spacing, z = rng.uniform(8, 16), rng.uniform(6, 14)
                while z < self.end:
                    if not self.in_junction(side, z - 2, z + 2, 3):
                        self.tree(self.point(side, 0.9, z), rng.uniform(4.8, 7.5))
                    z += spacing * rng.uniform(0.9, 1.2)
            if not self.city:
                for z in np.arange(rng.uniform(4, 10), self.end, rng.uniform(7, 14)):
                    if not self.in_junction(side, float(z) - 2, float(z) + 2, 3):
                        self.tree(self.point(side, self.ground.walk + 1.6, float(z)), rng.uniform(3.5, 7))

    def fence_run(self, side: int, beyond_kerb: float, z0: float, z1: float, kind: int) -> None:
        """Panels of 4 m from z0 to z1."""
        texture, height = self.fences[kind]
        z = z0
        while z + 4 <= z1 + 0.01:
            if not self.in_junction(side, z, z + 4, self.ground.walk * 0.5):
                near, far = self.point(side, beyond_kerb, z), self.point(side, beyond_kerb, z + 4)
                left, right = (far, near) if side > 0 else (near, far)
                self.wall(left, right, height, texture, two_sided=True)
                (x0, z0), (x1, z1) = near[[0, 2]], far[[0, 2]]
                outline = np.array([[x0, z0], [x1, z1], [x1 + 0.08, z1], [x0 + 0.08, z0]])
                self.surfaces.footprints.append(Footprint(outline, height, STILL, 0.3))
            z += 4

    def hedge_run(self, side: int, beyond_kerb: float, z0: float, z1: float) -> None:
        """A hedge along the sidewalk."""
        height = self.rng.uniform(0.9, 1.6)
        texture = sprites.hedge(self.rng, 4.0, height, self.leaf)
        for z in np.arange(z0, z1 - 3.9, 4.0):
            if not self.in_junction(side, float(z), float(z) + 4, self.ground.walk):
                near, far = self.point(side, beyond_kerb, float(z)), self.point(side, beyond_kerb, float(z) + 4)
                left, right = (far, near) if side > 0 else (near, far)
                self.wall(left, right, height, texture)
                out = near + np.array([side * 0.8, 0, 0])
                left, right = (near, out) if side > 0 else (out, near)
                self.wall(left, right, height, texture)

    def borders(self) -> None:
        """Fences and hedges along the sidewalks; every street has a fence near its start."""
        rng = self.rng
        sure = 1 if rng.random() < 0.5 else -1
        for side in (-1, 1):
            z = rng.uniform(3, 5) if side == sure else rng.uniform(4, 8)
            while z < self.detail_end:
                length = 4 * rng.integers(3, 7)
                roll = rng.random()
                if self.city:
                    kind, beyond = (3, rng.uniform(0.7, 1.2)) if roll < 0.35 else (1, 0.35)
                    self.fence_run(side, beyond, z, z + length, kind)
                    z += length + rng.uniform(2, 6)
                elif roll < 0.75 or (side == sure and z < 12):
                    self.fence_run(side, self.ground.walk + 0.15, z, z + length, int(rng.integers(3)))
                    z += length + rng.uniform(0, 10)
                else:
                    self.hedge_run(side, self.ground.walk + 0.3, z, z + length)
                    z += length + rng.uniform(0, 8)

    def poles_and_signs(self) -> None:
        """Lamps, posts, traffic signs and lights along both kerbs."""
        rng = self.rng
        arm = rng.uniform(1.2, 1.9) if rng.random() < 0.6 else 0.0
        tall = rng.uniform(6.0, 8.0) if arm else rng.uniform(3.8, 4.8)
        lamp, lamp_width = sprites.lamp(rng, tall, arm)
        post = sprites.post(rng, 3.3, POST_WIDTH, (140, 144, 146))
        mast = sprites.post(rng, 7.5, 0.26, (112, 84, 58))
        paint = ((60, 62, 64), (150, 152, 152), (40, 66, 52))[rng.integers(3)]
        bollard = sprites.post(rng, 1.0, BOLLARD_WIDTH, paint, True)
        for side in (-1, 1):
            for z in np.arange(rng.uniform(5, 11), self.detail_end, rng.uniform(16, 26)):
                at = self.point(side, 0.55, float(z))
                anchor = 0.2 / lamp_width if arm else 0.5
                self.billboard(at, lamp_width * (-side if arm else 1), tall, lamp, anchor=anchor)
                self.footprint(at, 0.12, 0.12, tall, contact=0.3)
            if rng.random() < 0.5:
                for z in np.arange(rng.uniform(9, 22), self.detail_end, rng.uniform(22, 34)):
                    at = self.point(side, self.ground.walk - 0.3, float(z))
                    self.billboard(at, 0.26, 7.5, mast)
                    self.footprint(at, 0.13, 0.13, 7.5, contact=0.3)
            for z in np.arange(rng.uniform(4.5, 7), self.detail_end, rng.uniform(6, 9)):
                if not self.in_junction(side, float(z), float(z), 1):
                    self.sign_post(self.point(side, rng.uniform(0.5, 0.9), float(z)), post)
            if rng.random() < 0.5:
                first = rng.uniform(5, 14)
                for z in np.arange(first, first + rng.uniform(12, 30), 1.8):
                    if not self.in_junction(side, float(z), float(z), 0):
                        self.billboard(self.point(side, 0.4, float(z)), BOLLARD_WIDTH, 1.0, bollard)
            for junction in self.ground.junctions:
                if rng.random() < 0.6:
                    self.traffic_light(self.point(side, 0.5, junction.z - junction.half_width - 2.2), post)

    def sign_post(self, at: FloatArray, post: Texture) -> None:
        """A post with one or two plates."""
        rng = self.rng
        kind = int(rng.integers(6))
        texture, width, height = self.signs[kind]
        foot = rng.uniform(1.9, 2.3)
        plate = at + np.array([0.0, foot, -0.08])
        if kind == 5:
            self.billboard(at - np.array([0.6, 0, 0]), POST_WIDTH, foot + height, post)
            self.billboard(at + np.array([0.6, 0, 0]), POST_WIDTH, foot + height, post)
        else:
            self.billboard(at, POST_WIDTH, foot + height, post)
            if rng.random() < 0.35:
                second, w2, h2 = self.signs[rng.integers(5)]
                self.billboard(plate - np.array([0, h2 + 0.03, 0]), w2, h2, second, turn=0.0)
        self.billboard(plate, width, height, texture)
        self.footprint(at, 0.09, 0.09, foot + height, contact=0.3)

    def traffic_light(self, at: FloatArray, post: Texture) -> None:
        """A post with a traffic light."""
        texture, width, height = sprites.traffic_light(self.rng)
        self.billboard(at, POST_WIDTH, 3.3, post)
        self.billboard(at + np.array([0.0, 2.3, -0.1]), width, height, texture)
        self.footprint(at, 0.09, 0.09, 3.3, contact=0.3)

    def car(self, model: Vehicle, at: FloatArray, heading: float, velocity: FloatArray = STILL) -> None:
        """A vehicle with the middle of its rear at `at`, pointing along `heading` (0: +z)."""
        right = np.array([np.cos(heading), 0.0, -np.sin(heading)])
        forward = np.array([np.sin(heading), 0.0, np.cos(heading)])
        axes = np.stack([right, [0.0, 1.0, 0.0], forward])
        for face in model.faces:
            corner, u, v = face.top_left, face.top_right - face.top_left, face.bottom_left - face.top_left
            u, v = u @ axes, v @ axes
            normal = np.cross(u, v)
            tint = self.light.on(normal / np.linalg.norm(normal))
            self.surfaces.add(at + corner @ axes, u, v, face.texture, tint, velocity)
        local = np.array([[-1, 0], [1, 0], [1, 1], [-1, 1]]) * [model.width / 2, model.length]
        outline = at[[0, 2]] + local @ np.stack([right[[0, 2]], forward[[0, 2]]])
        self.surfaces.footprints.append(Footprint(outline, model.height * 0.85, velocity, 1.0))

    def cars(self) -> None:
        """Parked cars on both sides, one car ahead, oncoming traffic."""
        rng, ground = self.rng, self.ground
        models = [vehicle(rng) for _ in range(6)]
        for side in (-1, 1):
            fill = rng.uniform(0.25, 0.8) if ground.parking else rng.uniform(0.1, 0.45)
            if not ground.parking and side == np.sign(self.path.lane):
                fill = 0.0  # the camera's own lane stays free
            z = rng.uniform(1, 8)
            while z < self.end - 6:
                if rng.random() < fill and not self.in_junction(side, z, z + 6, 3):
                    model = models[rng.integers(len(models))]
                    self.parked(model, side, z)
                z += 5.8
        own = float(np.sign(self.path.lane)) or 1.0
        lane = (ground.half_width - ground.parking) / 2
        ahead = rng.uniform(11, 26)
        if rng.random() < 0.6:
            speed = self.path.speed * rng.uniform(0.9, 1.15)
            self.driving(models[rng.integers(6)], own * lane, ahead, speed)
        z = rng.uniform(12, 30)
        while z < self.end - 10:
            self.driving(models[rng.integers(6)], -own * lane, z, -rng.uniform(0.3, 0.7))
            z += rng.uniform(18, 60)

    def parked(self, model: Vehicle, side: int, z: float) -> None:
        """A car at the kerb."""
        ahead = side > 0 if self.rng.random() < 0.85 else side < 0
        slope = np.arctan(self.ground.curve.slope(z + 2.5))
        at = self.point(side, -1.1 + self.rng.uniform(-0.1, 0.1), z if ahead else z + model.length)
        self.car(model, at, float(slope if ahead else slope + np.pi))

    def driving(self, model: Vehicle, offset: float, z: float, speed: float) -> None:
        """A car in its lane; with negative speed it comes towards the camera."""
        slope = np.arctan(self.ground.curve.slope(z))
        along = np.array([np.sin(slope), 0.0, np.cos(slope)])
        at = np.array([float(self.ground.curve.x(z)) + offset, 0.0, z])
        self.car(model, at, float(slope if speed >= 0 else slope + np.pi), along * speed)

    def person(self, at: FloatArray, velocity: FloatArray, kind: int) -> None:
        """One of this street's pedestrians."""
        texture, width, height = self.people[kind]
        turn = self.rng.uniform(-0.5, 0.5)
        width = width if self.rng.random() < 0.5 else -width
        self.billboard(at, width, height, texture, turn, velocity)
        self.footprint(at, 0.25, 0.2, height * 0.95, velocity, 0.6)

    def rider(self, at: FloatArray, velocity: FloatArray, kind: int) -> None:
        """One of this street's cyclists; side views are at an angle to the street."""
        texture, width, height = self.riders[kind % len(self.riders)]
        side_view = width > 1
        turn = self.rng.uniform(0.35, 0.75) if side_view else self.rng.uniform(-0.3, 0.3)
        if side_view and velocity[2] < 0:
            width, turn = -width, -turn
        self.billboard(at, width, height, texture, turn, velocity)
        self.footprint(at, 0.25, 0.7, height * 0.9, velocity, 0.6)

    def people_and_riders(self) -> None:
        """Pedestrians on sidewalks and crossings, cyclists near the kerb; some of each close to the start."""
        rng, ground = self.rng, self.ground
        self.people = [sprites.pedestrian(rng) for _ in range(7)]
        self.riders = [sprites.cyclist(rng, side_view) for side_view in (True, True, False, True)]
        reach = self.path.speed * 6
        for side in (-1, 1):
            further = np.arange(rng.uniform(7, 9), self.detail_end, rng.uniform(2.5, 5))
            places = [rng.uniform(4.5, 7) + reach / 2, *further]
            for z in places:
                for k in range(1 + int(rng.random() < 0.3)):
                    at = self.point(side, rng.uniform(0.6, ground.walk - 0.4), float(z) + 0.5 * k)
                    self.person(at, np.array([0, 0, rng.uniform(-0.09, 0.09)]), int(rng.integers(7)))
        for _ in range(int(rng.integers(1, 4))):  # there is always someone stepping onto the road
            at = self.point(int(rng.choice([-1, 1])), rng.uniform(-1.8, 0.2), rng.uniform(6, 12) + reach)
            self.person(at, np.array([rng.choice([-1, 1]) * rng.uniform(0.02, 0.05), 0, 0]), int(rng.integers(7)))
        for crossing in ground.crossings:
            for _ in range(int(rng.integers(1, 4))):
                x = float(ground.curve.x(crossing)) + rng.uniform(-1, 1) * ground.half_width
                at = np.array([x, 0, crossing + rng.uniform(-1, 1)])
                self.person(at, np.array([rng.choice([-1, 1]) * rng.uniform(0.05, 0.09), 0, 0]), int(rng.integers(7)))
        inner = -0.7 - ground.parking
        own = int(np.sign(self.path.lane)) or 1
        places = [rng.uniform(5, 7) + reach / 2, *np.arange(rng.uniform(7, 9), self.detail_end, rng.uniform(2.5, 4))]
        for z in places:
            side = own if rng.random() < 0.55 else -own
            beyond = inner + rng.uniform(-0.3, 0.1) if rng.random() < 0.7 else rng.uniform(0.7, 1.6)
            along = rng.uniform(0.2, 0.35) if side == own else -rng.uniform(0.2, 0.35)
            self.rider(self.point(side, beyond, float(z)), np.array([0, 0, along]), int(rng.integers(4)))

    def odds_and_ends(self) -> None:
        """Litter bins, letter boxes and dogs, of class void."""
        rng = self.rng
        for side in (-1, 1):
            for z in np.arange(rng.uniform(6, 14), self.detail_end, rng.uniform(9, 18)):
                texture, width, height = sprites.odd_thing(rng)
                at = self.point(side, rng.uniform(0.6, 1.4), float(z))
                self.billboard(at, width, height, texture)
                self.footprint(at, width * 0.4, 0.25, height, contact=0.6)


def furnish(
    rng: np.random.Generator, ground: Ground, light: Light, path: CameraPath, end: float, detail_end: float
) -> Surfaces:
    """All surfaces of a street that extends to z = `end`; people, poles, signs and fences extend to `detail_end`."""
    placer = Placer(rng, ground, light, path, end, detail_end)
    placer.prepare()
    for side in (-1, 1):
        placer.houses(side)
    placer.backdrop()
    placer.trees()
    placer.borders()
    placer.poles_and_signs()
    placer.cars()
    placer.people_and_riders()
    placer.odds_and_ends()
    return placer.surfaces
