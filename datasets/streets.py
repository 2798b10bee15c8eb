"""Streets: scenes that this project draws itself (`datasets/synthetic`), with CamVid's classes and SegNet's folders."""

from dataclasses import replace

from datasets import camvid

SPEC = replace(
    camvid.SPEC,
    name="streets",
    title="Streets, drawn by this project",
    layouts=(camvid.SEGNET,),
    name_ranges={},
    num_images={},
)
