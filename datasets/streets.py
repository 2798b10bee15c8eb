"""Streets: scenes that this project draws itself (`datasets/synthetic`), with CamVid's classes and SegNet's folders."""

from dataclasses import replace

from datasets import camvid
from datasets.spec import BY_FRAME_NUMBER, Frames

SPEC = replace(
    camvid.SPEC,
    name="streets",
    title="Streets, drawn by this project",
    layouts=(camvid.SEGNET,),
    video=Frames((camvid.VIDEO, camvid.SEGNET), BY_FRAME_NUMBER),
    name_ranges={},
    num_images={},
)
