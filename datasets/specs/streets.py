"""Streets: scenes that this project draws itself, with CamVid's classes and SegNet's folders.

This file only declares the set. `world` builds a street from a seed, `render` draws its frames with exact labels and
motion, `write` writes them to disk.
"""

from __future__ import annotations

from dataclasses import replace

from datasets.specs import camvid
from datasets.specs.spec import BY_FRAME_NUMBER, Frames

SPEC = replace(
    camvid.SPEC,
    name="streets",
    title="Streets, drawn by this project",
    layouts=(camvid.SEGNET,),
    video=Frames((camvid.VIDEO, camvid.SEGNET), BY_FRAME_NUMBER),
    name_ranges={},
    num_images={},
)
