"""People, cyclists, trees, poles, signs and small objects, each painted on one upright plane."""

from __future__ import annotations

import cv2
import numpy as np

from datasets.synthetic.materials import (
    BICYCLIST,
    HOLE,
    PEDESTRIAN,
    POLE,
    SIGN,
    TREE,
    VOID,
    Canvas,
    Colour,
    Point,
    Texture,
    jitter,
    make_texture,
    noise,
    scaled,
)

CLOTHES: tuple[Colour, ...] = (
    (40, 52, 88), (150, 34, 38), (32, 32, 36), (200, 196, 188), (64, 96, 64), (186, 140, 60), (92, 60, 96),
    (60, 110, 150), (120, 84, 60), (214, 120, 50),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = ((40, 46, 66), (30, 30, 32), (92, 82, 68), (70, 74, 82), (54, 66, 100))
SKIN: tuple[Colour, ...] = ((224, 178, 150), (196, 142, 108), (140, 94, 68), (96, 64, 48))
HAIR: tuple[Colour, ...] = ((40, 28, 22), (92, 62, 36), (190, 160, 100), (120, 118, 116), (24, 22, 22))
SIGN_RED: Colour = (196, 28, 34)
SIGN_BLUE: Colour = (26, 70, 156)
WHITE: Colour = (238, 238, 234)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.2) -> Colour:
    return jitter(rng, colours[rng.integers(len(colours))], spread)


def pedestrian(rng: np.random.Generator) -> tuple[Texture, float, float]:
    """A walking or standing person: texture, width and height in metres."""
    height = rng.uniform(1.55, 1.88) if rng.random() < 0.88 else rng.uniform(1.1, 1.3)
    canvas = Canvas(1.0, 1.9, 72.0)
    coat, legs, skin, hair = _pick(rng, CLOTHES), _pick(rng, TROUSERS), _pick(rng, SKIN, 0.1), _pick(rng, HAIR)
    stride, build, mid = rng.uniform(0.02, 0.26), rng.uniform(0.9, 1.15), 0.5
    for sign, gain in ((-1, 0.8), (1, 1.0)):
        hip, foot = (mid + sign * 0.085, 0.92), (mid + sign * (0.09 + stride), 0.06)
        knee = ((hip[0] + foot[0]) / 2 + 0.03, 0.5)
        canvas.line([hip, knee], 0.19 * build, scaled(legs, gain), PEDESTRIAN)
        canvas.line([knee, foot], 0.135 * build, scaled(legs, gain), PEDESTRIAN)
        canvas.line([foot, (foot[0] + 0.09, 0.045)], 0.09, (38, 32, 30), PEDESTRIAN)
    if rng.random() < 0.3:
        canvas.polygon([(mid - 0.17, 1.0), (mid + 0.17, 1.0), (mid + 0.27, 0.5), (mid - 0.27, 0.5)],
                       scaled(coat, 0.85), PEDESTRIAN)  # fmt: skip
    shoulder, waist, hem = 0.235 * build, 0.18 * build, rng.uniform(0.72, 0.92)
    canvas.polygon([(mid - shoulder, 1.42), (mid - 0.1, 1.52), (mid + 0.1, 1.52), (mid + shoulder, 1.42),
                    (mid + waist, 1.1), (mid + waist * 1.15, hem), (mid - waist * 1.15, hem), (mid - waist, 1.1)],
                   coat, PEDESTRIAN)  # fmt: skip
    swing = rng.uniform(-0.05, 0.18)
    for sign, gain in ((-1, 0.82), (1, 1.12)):
        top, hand = (mid + sign * (shoulder - 0.02), 1.41), (mid + sign * (shoulder + 0.04 + swing * sign), 0.86)
        elbow = (mid + sign * (shoulder + 0.06), 1.12)
        canvas.line([top, elbow, hand], 0.11 * build, scaled(coat, gain), PEDESTRIAN)
        canvas.ellipse(*hand, 0.05, 0.06, skin, PEDESTRIAN)
    bag = rng.random()
    if bag < 0.25:
        canvas.ellipse(mid, 1.2, 0.17, 0.25, _pick(rng, CLOTHES), PEDESTRIAN)
    elif bag < 0.45:
        canvas.box(mid + shoulder - 0.02, 0.6, mid + shoulder + 0.22, 0.88, _pick(rng, CLOTHES), PEDESTRIAN)
    canvas.box(mid - 0.05, 1.48, mid + 0.05, 1.6, scaled(skin, 0.85), PEDESTRIAN)
    canvas.ellipse(mid, 1.68, 0.105, 0.14, skin, PEDESTRIAN)
    canvas.ellipse(mid - 0.015, 1.735, 0.112, 0.1, hair, PEDESTRIAN)
    if rng.random() < 0.4:
        canvas.ellipse(mid, 1.66, 0.118, 0.16, hair, PEDESTRIAN)
    canvas.round_off(0.22)
    canvas.grain(rng, 0.1, 7)
    scale = height / 1.83
    return canvas.texture(), 1.0 * scale, 1.9 * scale


def cyclist(rng: np.random.Generator, side_view: bool) -> tuple[Texture, float, float]:
    """A person on a bicycle, seen from the side (riding to the right) or from behind."""
    coat, legs, skin = _pick(rng, CLOTHES), _pick(rng, TROUSERS), _pick(rng, SKIN, 0.1)
    steel = _pick(rng, CLOTHES, 0.3)
    helmet = _pick(rng, CLOTHES, 0.3) if rng.random() < 0.7 else _pick(rng, HAIR)
    if not side_view:
        return _cyclist_behind(rng, coat, legs, helmet), 0.8, 1.8
    canvas = Canvas(1.8, 1.8, 72.0)
    tyre: Colour = (28, 28, 30)
    rear, front, crank, seat, head = (0.38, 0.35), (1.42, 0.35), (0.86, 0.32), (0.72, 0.93), (1.27, 0.86)
    for hub in (rear, front):
        canvas.ellipse(*hub, 0.31, 0.31, (104, 106, 108), BICYCLIST)  # labelled without holes, as a person would do
        canvas.ring(*hub, 0.31, 0.075, tyre, BICYCLIST)
        for angle in np.arange(5) * np.pi / 5 + 0.3:
            dx, dy = 0.3 * float(np.cos(angle)), 0.3 * float(np.sin(angle))
            canvas.line([(hub[0] - dx, hub[1] - dy), (hub[0] + dx, hub[1] + dy)], 0.022, (150, 150, 152), BICYCLIST)
    for tube in ([rear, crank, head], [rear, (0.74, 0.8), head], [(0.74, 0.8), crank], [head, front]):
        canvas.line(tube, 0.055, steel, BICYCLIST)
    canvas.line([(1.25, 0.98), (1.37, 1.02)], 0.05, tyre, BICYCLIST)
    canvas.line([(0.6, 0.95), (0.84, 0.95)], 0.07, tyre, BICYCLIST)
    for knee, foot, gain in (((1.1, 0.76), (0.96, 0.44), 0.75), ((1.06, 0.63), (0.8, 0.22), 1.0)):
        canvas.line([(seat[0], 0.98), knee], 0.17, scaled(legs, gain), BICYCLIST)
        canvas.line([knee, foot], 0.125, scaled(legs, gain), BICYCLIST)
        canvas.line([foot, (foot[0] + 0.13, foot[1] - 0.02)], 0.075, (36, 32, 32), BICYCLIST)
    canvas.polygon([(0.58, 0.95), (0.84, 0.93), (1.2, 1.36), (1.08, 1.5), (0.92, 1.46)], coat, BICYCLIST)
    canvas.line([(1.1, 1.4), (1.16, 1.14), (1.33, 1.03)], 0.105, scaled(coat, 0.82), BICYCLIST)
    if rng.random() < 0.3:
        canvas.ellipse(0.82, 1.36, 0.16, 0.22, _pick(rng, CLOTHES), BICYCLIST)
    canvas.line([(1.12, 1.44), (1.18, 1.55)], 0.1, skin, BICYCLIST)
    canvas.ellipse(1.21, 1.6, 0.1, 0.13, skin, BICYCLIST)
    canvas.ellipse(1.195, 1.665, 0.13, 0.095, helmet, BICYCLIST)
    canvas.grain(rng, 0.1, 7)
    return canvas.texture(), 1.8, 1.8


def _cyclist_behind(rng: np.random.Generator, coat: Colour, legs: Colour, helmet: Colour) -> Texture:
    canvas = Canvas(0.8, 1.8, 72.0)
    tyre: Colour = (28, 28, 30)
    canvas.line([(0.4, 0.06), (0.4, 0.66)], 0.075, tyre, BICYCLIST)
    canvas.line([(0.12, 1.0), (0.68, 1.0)], 0.05, tyre, BICYCLIST)
    for sign, knee, foot in ((-1, 0.62, 0.24), (1, 0.72, 0.42)):
        canvas.line([(0.4 + sign * 0.09, 0.95), (0.4 + sign * 0.15, knee)], 0.16, legs, BICYCLIST)
        canvas.line([(0.4 + sign * 0.15, knee), (0.4 + sign * 0.12, foot)], 0.12, scaled(legs, 0.85), BICYCLIST)
        canvas.line([(0.4 + sign * 0.12, foot), (0.4 + sign * 0.13, foot - 0.03)], 0.1, (36, 32, 32), BICYCLIST)
        canvas.line([(0.4 + sign * 0.19, 1.38), (0.4 + sign * 0.29, 1.18), (0.4 + sign * 0.25, 1.02)], 0.1,
                    scaled(coat, 0.85), BICYCLIST)  # fmt: skip
    canvas.ellipse(0.4, 0.96, 0.18, 0.13, legs, BICYCLIST)
    canvas.polygon([(0.22, 0.98), (0.18, 1.38), (0.3, 1.48), (0.5, 1.48), (0.62, 1.38), (0.58, 0.98)], coat, BICYCLIST)
    canvas.ellipse(0.4, 0.7, 0.04, 0.03, (220, 30, 26), BICYCLIST)
    canvas.ellipse(0.4, 1.6, 0.1, 0.13, (190, 140, 112), BICYCLIST)
    canvas.ellipse(0.4, 1.66, 0.125, 0.11, helmet, BICYCLIST)
    canvas.round_off(0.2)
    canvas.grain(rng, 0.1, 7)
    return canvas.texture()


def crown(rng: np.random.Generator, width: float, height: float, leaf: Colour, tapered: bool) -> Texture:
    """The leaves of a tree: lit clumps with a ragged edge."""
    density = min(44.0, 220.0 / max(width, height))
    rows, columns = round(height * density), round(width * density)
    picture = np.full((rows, columns), 0.45, np.float32)
    opaque = np.zeros((rows, columns), np.uint8)
    for _ in range(70):
        y = rng.random()
        reach = (1 - 0.9 * y if tapered else float(np.sqrt(max(0.05, 1 - (2 * y - 1) ** 2)))) * 0.78
        x = 0.5 + 0.5 * reach * rng.uniform(-1, 1)
        radius = int(columns * rng.uniform(0.05, 0.13))
        centre = (int(x * columns), int((0.06 + 0.88 * (1 - y)) * rows))
        light = 0.55 + 0.5 * y + 0.2 * rng.uniform(-1, 1) + 0.15 * (0.5 - x)
        cv2.circle(picture, centre, radius, light, -1)
        cv2.circle(opaque, centre, int(radius * 1.05), 1, -1)
    soft = np.asarray(cv2.GaussianBlur(picture, (0, 0), density * 0.07))
    clumps = noise(rng, rows, columns, density * 0.14)
    leaves = noise(rng, rows, columns, max(1.5, density * 0.05))
    edge = cv2.GaussianBlur(opaque.astype(np.float32), (0, 0), density * 0.16)
    across, up = np.linspace(-1, 1, columns)[None, :], np.linspace(-1, 1, rows)[:, None]
    rim = np.clip(across**2 + (0 if tapered else 1) * up**2 - 0.7, 0, None)  # the image's edge cuts off no clump
    solid = edge + 0.3 * leaves + 0.18 * clumps > 0.52 + 1.5 * rim + 3 * np.clip(np.abs(up) - 0.93, 0, None)
    gain = np.clip(soft + 0.2 * clumps + 0.22 * leaves, 0.15, 1.6)
    colours = np.array(leaf, np.float32) * gain[..., None]
    colours[..., 2] *= np.clip(1.25 - 0.4 * gain, 0.6, 1.2)
    return make_texture(colours, np.where(solid, TREE, HOLE).astype(np.uint8))


def trunk(rng: np.random.Generator, width: float, height: float) -> Texture:
    """A trunk with two boughs; a tree's trunk belongs to the tree."""
    canvas = Canvas(width * 3, height, 40.0)
    bark = jitter(rng, (92, 76, 60), 0.25)
    mid = 1.5 * width
    canvas.polygon([(mid - width * 0.6, 0), (mid - width * 0.38, height), (mid + width * 0.38, height),
                    (mid + width * 0.6, 0)], bark, TREE)  # fmt: skip
    canvas.line([(mid, height * 0.7), (width * 0.3, height)], width * 0.4, bark, TREE)
    canvas.line([(mid, height * 0.65), (width * 2.7, height)], width * 0.4, bark, TREE)
    canvas.round_off(0.4)
    canvas.grain(rng, 0.2, 3)
    return canvas.texture()


def hedge(rng: np.random.Generator, length: float, height: float, leaf: Colour) -> Texture:
    """A clipped hedge face."""
    density = 40.0
    rows, columns = round(height * density), round(length * density)
    up = np.linspace(1.1, 0.6, rows)[:, None]
    gain = up + 0.2 * noise(rng, rows, columns, 6) + 0.2 * noise(rng, rows, columns, 2)
    labels = np.full((rows, columns), TREE, np.uint8)
    ragged = (3 * (1 + noise(rng, 4, columns, 5)[0])).astype(int)
    labels[np.arange(rows)[:, None] < ragged[None, :]] = HOLE
    return make_texture(np.array(leaf) * gain[..., None], labels)


def lamp(rng: np.random.Generator, height: float, arm: float) -> tuple[Texture, float]:
    """A street lamp with an arm to the right (`arm` 0: a lantern on top); returns texture and width."""
    width = max(0.7, arm + 0.4)
    canvas = Canvas(width, height, 56.0)
    steel = jitter(rng, ((70, 76, 78), (120, 124, 124), (44, 62, 54))[rng.integers(3)], 0.2)
    x = 0.2 if arm > 0 else width / 2
    canvas.polygon([(x - 0.1, 0), (x - 0.07, height - 0.2), (x + 0.07, height - 0.2), (x + 0.1, 0)], steel, POLE)
    canvas.box(x - 0.13, 0, x + 0.13, 0.9, scaled(steel, 0.85), POLE)
    if arm > 0:
        canvas.line([(x, height - 0.3), (x + 0.3 * arm, height - 0.1), (x + arm, height - 0.08)], 0.12, steel, POLE)
        canvas.box(x + arm - 0.5, height - 0.2, x + arm + 0.15, height - 0.02, (206, 204, 190), POLE)
    else:
        low, brim = height - 0.65, height - 0.12
        outline: list[Point] = [(x - 0.15, low), (x - 0.28, brim), (x, height), (x + 0.28, brim), (x + 0.15, low)]
        canvas.polygon(outline, (226, 220, 196), POLE)
    cylinder(canvas, x, 0.13)
    return canvas.texture(), width


def cylinder(canvas: Canvas, x: float, radius: float) -> None:
    """Shade the strip around `x` as a standing cylinder."""
    columns = (np.arange(canvas.labels.shape[1]) + 0.5) / canvas.density
    across = np.clip((columns - x) / radius, -1, 1)
    canvas.shade((1.1 - 0.5 * (across + 0.3) ** 2 * (np.abs(columns - x) <= radius))[None, :, None])


def post(rng: np.random.Generator, height: float, width: float, colour: Colour, bands: bool = False) -> Texture:
    """A plain round post, with red and white bands if `bands`."""
    canvas = Canvas(width, height, 72.0, POLE, jitter(rng, colour, 0.12))
    if bands:
        canvas.box(0, height * 0.72, width, height * 0.9, (226, 226, 222))
        canvas.box(0, height * 0.78, width, height * 0.84, (190, 40, 36))
    cylinder(canvas, width / 2, width / 2)
    canvas.grain(rng, 0.08, 5)
    return canvas.texture()


def _arrow(canvas: Canvas, x: float, y: float, size: float, colour: Colour) -> None:
    canvas.line([(x, y - size), (x, y + size * 0.4)], size * 0.32, colour)
    canvas.polygon([(x - size * 0.6, y + size * 0.3), (x, y + size), (x + size * 0.6, y + size * 0.3)], colour)


def sign(rng: np.random.Generator, kind: int) -> tuple[Texture, float, float]:
    """A traffic sign with its width and height: warning, speed limit, stop, mandatory, square, board."""
    density = 96.0
    if kind == 0:
        canvas = Canvas(1.0, 0.88, density)
        canvas.polygon([(0, 0), (0.5, 0.88), (1, 0)], SIGN_RED, SIGN)
        canvas.polygon([(0.19, 0.11), (0.5, 0.66), (0.81, 0.11)], WHITE)
        canvas.line([(0.5, 0.27), (0.5, 0.46)], 0.09, (24, 24, 24))
        canvas.ellipse(0.5, 0.17, 0.05, 0.05, (24, 24, 24))
    elif kind == 1:
        canvas = Canvas(0.86, 0.86, density)
        canvas.ellipse(0.43, 0.43, 0.43, 0.43, SIGN_RED, SIGN)
        canvas.ellipse(0.43, 0.43, 0.32, 0.32, WHITE)
        canvas.text(("30", "50", "20", "40")[rng.integers(4)], 0.17, 0.3, 0.27, (20, 20, 20))
    elif kind == 2:
        canvas = Canvas(0.86, 0.86, density)
        angles = np.arange(8) * np.pi / 4 + np.pi / 8
        corners = [(0.43 + 0.46 * float(np.cos(a)), 0.43 + 0.46 * float(np.sin(a))) for a in angles]
        canvas.polygon(corners, SIGN_RED, SIGN)
        canvas.text("STOP", 0.1, 0.34, 0.19, WHITE)
    elif kind == 3:
        canvas = Canvas(0.84, 0.84, density)
        canvas.ellipse(0.42, 0.42, 0.42, 0.42, WHITE, SIGN)
        canvas.ellipse(0.42, 0.42, 0.39, 0.39, SIGN_BLUE)
        _arrow(canvas, 0.42, 0.4, 0.25, WHITE)
    elif kind == 4:
        canvas = Canvas(0.8, 0.8, density, SIGN, WHITE)
        canvas.box(0.03, 0.03, 0.77, 0.77, SIGN_BLUE)
        if rng.random() < 0.5:
            canvas.text("P", 0.2, 0.17, 0.45, WHITE)
        else:
            canvas.polygon([(0.12, 0.12), (0.4, 0.68), (0.68, 0.12)], WHITE)
            canvas.line([(0.4, 0.5), (0.36, 0.3), (0.3, 0.16)], 0.06, (24, 24, 24))
    else:
        canvas = Canvas(1.7, 1.0, density, SIGN, WHITE)
        canvas.box(0.04, 0.04, 1.66, 0.96, ((20, 96, 62), SIGN_BLUE, (222, 190, 40))[rng.integers(3)])
        ink: Colour = WHITE
        canvas.text(("Centre", "Harbour", "Station", "Museum")[rng.integers(4)], 0.42, 0.6, 0.22, ink)
        canvas.text(("Park", "Hill", "Bridge", "Airport")[rng.integers(4)], 0.42, 0.2, 0.22, ink)
        _arrow(canvas, 0.22, 0.5, 0.26, ink)
    canvas.grain(rng, 0.05, 9)
    return canvas.texture(), canvas.width, canvas.height


def traffic_light(rng: np.random.Generator) -> tuple[Texture, float, float]:
    """A traffic light with three lamps."""
    canvas = Canvas(0.42, 1.1, 96.0, SIGN, (30, 34, 32))
    lit = int(rng.integers(3))
    for k, colour in enumerate(((235, 50, 40), (240, 180, 40), (60, 225, 120))):
        canvas.ellipse(0.21, 0.9 - 0.35 * k, 0.14, 0.14, scaled(colour, 1.0 if k == lit else 0.28))
    return canvas.texture(), 0.42, 1.1


def odd_thing(rng: np.random.Generator) -> tuple[Texture, float, float]:
    """Something outside the eleven classes: a litter bin, a letter box or a dog."""
    kind = int(rng.integers(3))
    if kind == 0:
        canvas = Canvas(0.6, 1.0, 64.0)
        body = jitter(rng, (50, 78, 60), 0.3)
        canvas.polygon([(0.06, 0), (0.02, 0.86), (0.58, 0.86), (0.54, 0)], body, VOID)
        canvas.ellipse(0.3, 0.86, 0.29, 0.12, scaled(body, 0.6), VOID)
    elif kind == 1:
        canvas = Canvas(0.6, 1.2, 64.0)
        canvas.box(0.24, 0, 0.36, 0.6, (60, 60, 62), VOID)
        canvas.box(0.02, 0.5, 0.58, 1.18, jitter(rng, (206, 160, 36), 0.15), VOID)
        canvas.box(0.1, 0.95, 0.5, 1.02, (40, 36, 30), VOID)
    else:
        canvas = Canvas(0.95, 0.75, 64.0)
        fur = jitter(rng, (140, 104, 66), 0.4)
        for x in (0.22, 0.3, 0.6, 0.68):
            canvas.line([(x, 0.35), (x, 0.04)], 0.07, scaled(fur, 0.85), VOID)
        canvas.line([(0.22, 0.42), (0.68, 0.42)], 0.22, fur, VOID)
        canvas.line([(0.7, 0.46), (0.78, 0.62), (0.88, 0.6)], 0.13, fur, VOID)
        canvas.line([(0.16, 0.46), (0.05, 0.64)], 0.05, fur, VOID)
    canvas.round_off(0.25)
    canvas.grain(rng, 0.08, 5)
    return canvas.texture(), canvas.width, canvas.height
