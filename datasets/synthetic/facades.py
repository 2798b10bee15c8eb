"""Building fronts, side walls, roofs and fences, painted from a random generator."""

from __future__ import annotations

import numpy as np

from datasets.synthetic.materials import (
    BUILDING,
    FENCE,
    HOLE,
    Canvas,
    Colour,
    Texture,
    jitter,
    noise,
    scaled,
)

WALL_DENSITY = 36.0  # texels per metre
WALLS: tuple[Colour, ...] = (
    (156, 82, 62), (134, 70, 56), (176, 104, 78),  # brick
    (214, 198, 160), (226, 214, 190), (200, 172, 128), (188, 190, 186), (170, 150, 140), (222, 186, 150),  # plaster
    (160, 158, 150), (142, 146, 152),  # stone, concrete
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((122, 62, 48), (84, 74, 72), (70, 76, 84), (140, 84, 62))
SHOPS = ("CAFE", "BOOKS", "BAKERY", "HOTEL", "BANK", "PIZZA", "FLOWERS", "OPTICS", "BIKES", "TEA", "SHOES", "PHARMACY")


def wall_canvas(rng: np.random.Generator, width: float, height: float, base: Colour, brick: bool) -> Canvas:
    """A bare wall with brick courses or stained plaster."""
    canvas = Canvas(width, height, WALL_DENSITY, BUILDING, base)
    rows, columns = canvas.labels.shape
    gain = 1 + 0.06 * noise(rng, rows, columns, 60) + 0.035 * noise(rng, rows, columns, 3)
    if brick:
        course = np.arange(rows) // 3
        joint = np.where(np.arange(rows) % 3 == 0, 0.86, 1.0)[:, None]
        stones = noise(rng, course[-1] + 1, columns // 8 + 2, 1.0)
        column = (np.arange(columns)[None, :] + 4 * (course[:, None] % 2)) // 8
        gain = gain * joint * (1 + 0.09 * stones[course[:, None], column])
    foot = np.clip((np.arange(rows)[::-1] / WALL_DENSITY) / 0.9, 0, 1)[:, None]
    canvas.shade((gain * (0.78 + 0.22 * foot))[..., None])
    return canvas


def paint_window(rng: np.random.Generator, canvas: Canvas, x: float, y: float, width: float, height: float,
                 frame: Colour, sill: Colour) -> None:  # fmt: skip
    """One window with frame, sill, reflection and sometimes a curtain or a light."""
    canvas.box(x - 0.1, y - 0.14, x + width + 0.1, y, sill)
    canvas.box(x - 0.06, y + height, x + width + 0.06, y + height + 0.1, scaled(sill, 0.8))
    canvas.box(x, y, x + width, y + height, frame)
    glass = jitter(rng, (58, 70, 84), 0.3)
    border, middle = 0.07, x + width / 2
    canvas.box(x + border, y + border, x + width - border, y + height - border, glass)
    canvas.box(x + border, y + height * 0.62, x + width - border, y + height - border, scaled(glass, 1.35))
    kind = rng.random()
    if kind < 0.25:
        canvas.box(x + border, y + border, x + width * 0.32, y + height - border, (206, 200, 188))
        canvas.box(x + width * 0.7, y + border, x + width - border, y + height - border, (196, 190, 178))
    elif kind < 0.4:
        canvas.box(x + border, y + height * rng.uniform(0.4, 0.75), x + width - border, y + height - border,
                   jitter(rng, (190, 184, 170), 0.15))  # fmt: skip
    elif kind < 0.48:
        canvas.box(x + border, y + border, x + width - border, y + height - border, jitter(rng, (220, 186, 120), 0.15))
    canvas.box(middle - 0.03, y, middle + 0.03, y + height, frame)
    if height > 1.2:
        canvas.box(x, y + height * 0.62 - 0.03, x + width, y + height * 0.62 + 0.03, frame)


def paint_shop(rng: np.random.Generator, canvas: Canvas, x: float, width: float) -> None:
    """A shop front, 3.2 m high, starting at `x`: sign band, window with goods, door, sometimes an awning."""
    trim = jitter(rng, ((60, 40, 34), (30, 60, 52), (120, 30, 34), (40, 46, 80), (200, 196, 186))[rng.integers(5)], 0.2)
    canvas.box(x, 0, x + width, 3.3, trim)
    canvas.box(x + 0.15, 0.5, x + width - 1.25, 2.5, jitter(rng, (74, 82, 86), 0.25))
    for _ in range(int(width * 4)):
        gx = x + 0.2 + rng.random() * max(0.1, width - 1.7)
        goods = jitter(rng, (170, 120, 90), 0.6)
        canvas.box(gx, 0.5, gx + rng.uniform(0.1, 0.3), 0.55 + rng.uniform(0.2, 0.9), goods)
    canvas.box(x + 0.15, 1.9, x + width - 1.25, 2.5, (126, 140, 150))
    canvas.box(x + width - 1.1, 0.05, x + width - 0.15, 2.4, scaled(trim, 0.7))
    canvas.box(x + width - 1.0, 0.3, x + width - 0.25, 2.25, (64, 72, 78))
    canvas.box(x, 2.65, x + width, 3.25, scaled(trim, 1.3))
    words = SHOPS[rng.integers(len(SHOPS))]
    size = min(0.36, width / (len(words) * 1.0))
    canvas.text(words, x + 0.3, 2.78, size, (240, 232, 200) if sum(trim) < 330 else (40, 40, 50))
    if rng.random() < 0.45:
        stripe = jitter(rng, ((170, 40, 40), (40, 90, 60), (50, 70, 130))[rng.integers(3)], 0.2)
        for k in range(int(width / 0.4)):
            colour = stripe if k % 2 else (228, 224, 214)
            canvas.box(x + 0.4 * k, 2.05, x + 0.4 * (k + 1), 2.65, scaled(colour, 0.95))


def facade(rng: np.random.Generator, width: float, num_floors: int, floor_height: float, shop: bool) -> Texture:
    """The street front of a house, `num_floors` x `floor_height` metres high."""
    height = num_floors * floor_height
    choice = int(rng.integers(len(WALLS)))
    base = jitter(rng, WALLS[choice], 0.15)
    if not shop and rng.random() < 0.18 and num_floors >= 4:
        return office(rng, width, num_floors, floor_height)
    canvas = wall_canvas(rng, width, height, base, brick=choice < 3)
    frame = (232, 230, 224) if rng.random() < 0.65 else jitter(rng, (80, 64, 52), 0.4)
    sill = jitter(rng, (206, 200, 188), 0.12) if rng.random() < 0.7 else scaled(base, 0.75)
    spacing = rng.uniform(1.9, 3.0)
    num = max(1, int((width - 0.6) / spacing))
    left = (width - num * spacing) / 2
    wide, tall = spacing * rng.uniform(0.45, 0.62), floor_height * rng.uniform(0.48, 0.62)
    for floor in range(1 if shop else 0, num_floors):
        if floor and rng.random() < 0.3:
            canvas.box(0, floor * floor_height - 0.1, width, floor * floor_height + 0.08, scaled(base, 1.14))
        for column in range(num):
            x = left + column * spacing + (spacing - wide) / 2
            paint_window(rng, canvas, x, floor * floor_height + 0.95, wide, tall, frame, sill)
    if shop:
        num_shops = max(1, round(width / 6))
        for k in range(num_shops):
            paint_shop(rng, canvas, k * width / num_shops + 0.15, width / num_shops - 0.3)
    else:
        x = left + spacing * int(rng.integers(num)) + 0.3
        door = jitter(rng, ((110, 40, 36), (40, 66, 56), (84, 58, 40), (40, 48, 76))[rng.integers(4)], 0.25)
        canvas.box(x - 0.22, 0, x + 1.42, 2.75, scaled(sill, 0.95))
        canvas.box(x, 0.1, x + 1.2, 2.5, door)
        canvas.box(x + 0.15, 1.3, x + 1.05, 2.3, scaled(door, 0.55))
    canvas.box(0, height - 0.45, width, height - 0.1, scaled(base, 1.16))
    canvas.box(0, height - 0.55, width, height - 0.45, scaled(base, 0.6))
    return canvas.texture()


def office(rng: np.random.Generator, width: float, num_floors: int, floor_height: float) -> Texture:
    """An office front with bands of glass."""
    base = jitter(rng, (156, 160, 164), 0.25)
    canvas = wall_canvas(rng, width, num_floors * floor_height, base, brick=False)
    glass = jitter(rng, (84, 112, 132), 0.3)
    for floor in range(num_floors):
        y = floor * floor_height
        for k in range(max(1, int(width / 1.5))):
            pane = jitter(rng, glass, 0.14)
            canvas.box(0.2 + 1.5 * k, y + 0.7, 0.2 + 1.5 * k + 1.38, y + floor_height - 0.3, pane)
            canvas.box(0.2 + 1.5 * k, y + 1.9, 0.2 + 1.5 * k + 1.38, y + floor_height - 0.3, scaled(pane, 1.22))
    return canvas.texture()


def side_wall(rng: np.random.Generator, depth: float, height: float, gable: float, base: Colour) -> Texture:
    """The side wall of a house, with a gable `gable` metres high (0: flat roof) and few windows."""
    canvas = wall_canvas(rng, depth, height + gable, base, brick=rng.random() < 0.5)
    for floor in range(1, int(height / 3)):
        for x in (depth * 0.25, depth * 0.65):
            if rng.random() < 0.4:
                paint_window(rng, canvas, x, floor * 3 + 0.9, 1.0, 1.4, (226, 224, 218), scaled(base, 0.8))
    if gable > 0:
        y = height + gable
        canvas.polygon([(0, height), (0, y + 1), (depth / 2, y)], base, HOLE)
        canvas.polygon([(depth, height), (depth, y + 1), (depth / 2, y)], base, HOLE)
    return canvas.texture()


def roof(rng: np.random.Generator, width: float, length: float) -> Texture:
    """A slope of tiles, `width` along the street, `length` up the slope."""
    canvas = Canvas(width, length, 20.0, BUILDING, jitter(rng, ROOFS[rng.integers(len(ROOFS))], 0.15))
    rows, columns = canvas.labels.shape
    ridge = 1 - 0.22 * (np.arange(rows) % 6 < 2)[:, None]
    canvas.shade((ridge * (1 + 0.1 * noise(rng, rows, columns, 4) + 0.08 * noise(rng, rows, columns, 40)))[..., None])
    return canvas.texture()


def fence(rng: np.random.Generator, length: float, kind: int) -> tuple[Texture, float]:
    """A fence panel and its height: 0 planks, 1 railing, 2 pickets, 3 building-site barrier."""
    height = (1.8, 1.4, 1.3, 1.2)[kind]
    canvas = Canvas(length, height, 48.0)
    if kind == 0:
        wood = jitter(rng, (134, 98, 64), 0.3)
        for k in range(int(length / 0.16)):
            top = height - rng.uniform(0, 0.05)
            canvas.box(0.16 * k, 0.04, 0.16 * k + 0.15, top, jitter(rng, wood, 0.1), FENCE)
        canvas.box(0, 0.35, length, 0.45, scaled(wood, 0.75), FENCE)
        canvas.box(0, height - 0.4, length, height - 0.3, scaled(wood, 0.75), FENCE)
    elif kind == 1:
        iron = jitter(rng, ((44, 50, 52), (40, 70, 56), (150, 156, 160))[rng.integers(3)], 0.2)
        canvas.box(0, 0.04, length, height - 0.03, scaled(iron, 0.55), FENCE)  # a sheet behind: no see-through labels
        for k in range(int(length / 0.16) + 1):
            canvas.box(0.16 * k, 0, 0.16 * k + 0.075, height, scaled(iron, 1.1), FENCE)
        for y in (0.08, height * 0.52, height - 0.09):
            canvas.box(0, y, length, y + 0.09, iron, FENCE)
    elif kind == 2:
        paint = jitter(rng, (222, 220, 210), 0.08)
        canvas.box(0, 0.06, length, height - 0.12, scaled(paint, 0.5), FENCE)
        for k in range(int(length / 0.17)):
            x = 0.17 * k
            outline = [(x, 0.03), (x, height - 0.1), (x + 0.065, height), (x + 0.13, height - 0.1), (x + 0.13, 0.03)]
            canvas.polygon(outline, jitter(rng, paint, 0.06), FENCE)
        for y in (0.25, height - 0.4):
            canvas.box(0, y, length, y + 0.1, scaled(paint, 0.85), FENCE)
    else:
        canvas.box(0, 0.12, length, height, (226, 226, 222), FENCE)
        for k in range(int(length / 0.9) + 1):
            for low in (0.2, 0.68):
                x = 0.9 * k
                stripe = [(x, low), (x + 0.45, low), (x + 0.75, low + 0.36), (x + 0.3, low + 0.36)]
                canvas.polygon(stripe, (204, 44, 34), FENCE)
        for x in np.arange(0.2, length, 2.0):
            canvas.box(float(x), 0, float(x) + 0.12, height, (70, 70, 72), FENCE)
    canvas.grain(rng, 0.06, 6)
    return canvas.texture(), height
