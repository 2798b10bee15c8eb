"""KITTI semantics (Abu Alhaija et al., IJCV 2018): 200 labelled frames, Cityscapes' classes and label ids."""

from __future__ import annotations

from datasets.specs import cityscapes
from datasets.specs.spec import BY_FRAME_NUMBER, DatasetSpec, Frames, Layout

SPEC = DatasetSpec(
    name="kitti",
    title="KITTI semantics",
    classes=cityscapes.CLASSES,
    layouts=(
        Layout("{folder}/image_2", "{folder}/semantic"),
        Layout("data_semantics/{folder}/image_2", "data_semantics/{folder}/semantic"),
    ),
    # KITTI has no validation split: a fold is cut from training.
    splits={"trainval": ("training",), "test": ("testing",)},
    unlabelled=("test",),
    ignored_ids=cityscapes.IGNORED_IDS,
    ignored_colors=cityscapes.IGNORED_COLORS,
    val_folds=(
        (1, 5, 11, 29, 35, 49, 57, 68, 72, 82, 93, 115, 119, 130, 145, 154, 156, 167, 169, 189, 198),
        (0, 12, 24, 31, 42, 50, 63, 71, 84, 96, 101, 112, 121, 133, 141, 155, 164, 171, 187, 191, 197),
        (3, 6, 13, 21, 41, 54, 61, 73, 88, 91, 110, 121, 126, 131, 142, 149, 150, 163, 173, 183, 199),
    ),
    default_fold=0,
    num_images={"train": 179, "val": 21, "trainval": 200, "test": 200},
    # The multi-view extension of scene flow 2015 has the same 200 scenes: frames 00 to 20 around the labelled 10.
    video=Frames((Layout("scene_flow/{folder}/image_2"),), BY_FRAME_NUMBER),
    propagated=Frames((Layout("propagated/{folder}/image_2", "propagated/{folder}/semantic"),), BY_FRAME_NUMBER),
    scene_flow=Frames((Layout("scene_flow/{folder}/image_2", "scene_flow/{folder}/semantic"),), BY_FRAME_NUMBER),
)
