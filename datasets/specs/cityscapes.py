"""Cityscapes (Cordts et al., CVPR 2016): 19 classes, 50 cities, 2048x1024; fine and coarse labels, video.

`kitti`: KITTI semantics (Abu Alhaija et al., IJCV 2018), 200 labelled frames with Cityscapes' classes and label ids.
"""

from __future__ import annotations

from datasets.specs.spec import DatasetSpec, Frames, Layout, SegClass

CITYSCAPES_CLASSES = (
    SegClass("road", (128, 64, 128), (7,)),
    SegClass("sidewalk", (244, 35, 232), (8,)),
    SegClass("building", (70, 70, 70), (11,)),
    SegClass("wall", (102, 102, 156), (12,)),
    SegClass("fence", (190, 153, 153), (13,)),
    SegClass("pole", (153, 153, 153), (17,)),
    SegClass("traffic light", (250, 170, 30), (19,)),
    SegClass("traffic sign", (220, 220, 0), (20,)),
    SegClass("vegetation", (107, 142, 35), (21,)),
    SegClass("terrain", (152, 251, 152), (22,)),
    SegClass("sky", (70, 130, 180), (23,)),
    SegClass("person", (220, 20, 60), (24,)),
    SegClass("rider", (255, 0, 0), (25,)),
    SegClass("car", (0, 0, 142), (26,)),
    SegClass("truck", (0, 0, 70), (27,)),
    SegClass("bus", (0, 60, 100), (28,)),
    SegClass("train", (0, 80, 100), (31,)),
    SegClass("motorcycle", (0, 0, 230), (32,)),
    SegClass("bicycle", (119, 11, 32), (33,)),
)

# Licence plates (-1 in the label table) are written as 255, which every data set ignores.
IGNORED_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
IGNORED_COLORS = (
    (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
    (150, 120, 90), (0, 0, 90), (0, 0, 110),
)  # fmt: skip

FRAME_SUFFIXES = ("_leftImg8bit.png",)


def _layouts(kind: str, prefixes: tuple[tuple[str, str], ...]) -> tuple[Layout, ...]:
    return tuple(
        Layout(
            f"{images}leftImg8bit/{{folder}}",
            f"{labels}{kind}/{{folder}}",
            image_suffixes=FRAME_SUFFIXES,
            label_suffixes=(f"_{kind}_labelIds.png",),
            train_id_suffixes=(f"_{kind}_labelTrainIds.png",),
        )
        for images, labels in prefixes
    )


# As the archives unpack, and as the published code expects it.
FINE = _layouts("gtFine", (("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")))
EXTRA = _layouts("gtCoarse", (("", ""), ("leftImg8bit_trainextra/", "gtCoarse/")))
COARSE = _layouts("gtCoarse", (("", ""), ("leftImg8bit_trainvaltest/", "gtCoarse/")))
SEQUENCE = (Layout("leftImg8bit_sequence/{folder}", image_suffixes=FRAME_SUFFIXES),)
SEQUENCE_SPLITS = ("train_sequence", "val_sequence", "test_sequence")

CITYSCAPES = DatasetSpec(
    name="cityscapes",
    title="Cityscapes",
    classes=CITYSCAPES_CLASSES,
    layouts=FINE,
    splits={
        "train": ("train",),
        "val": ("val",),
        "trainval": ("train", "val"),
        "test": ("test",),
        "train_extra": ("train_extra",),
        "train_coarse": ("train",),
        "val_coarse": ("val",),
        "train_sequence": ("train",),
        "val_sequence": ("val",),
        "test_sequence": ("test",),
    },
    split_layouts={
        "train_extra": EXTRA,
        **dict.fromkeys(("train_coarse", "val_coarse"), COARSE),
        **dict.fromkeys(SEQUENCE_SPLITS, SEQUENCE),
    },
    unlabelled=("test", *SEQUENCE_SPLITS),
    ignored_ids=IGNORED_IDS,
    ignored_colors=IGNORED_COLORS,
    # The 21 labelled cities, val first, then train, each sorted by name; fold k starts at city k * 21 // 3.
    val_folds=(
        ("frankfurt", "lindau", "munster"),
        ("darmstadt", "dusseldorf", "erfurt"),
        ("monchengladbach", "strasbourg", "stuttgart"),
    ),
    coarse_split="train_extra",
    num_images={"train": 2975, "val": 500, "trainval": 3475, "test": 1525, "train_extra": 19998},
    video=Frames(SEQUENCE),
    # Next to the tree of the labelled frames and named like them, by the frame number: labelled frames are 30 apart.
    propagated=Frames(_layouts("gtFine", (("propagated/", "propagated/"),))),
)

KITTI = DatasetSpec(
    name="kitti",
    title="KITTI semantics",
    classes=CITYSCAPES_CLASSES,
    layouts=(
        Layout("{folder}/image_2", "{folder}/semantic"),
        Layout("data_semantics/{folder}/image_2", "data_semantics/{folder}/semantic"),
    ),
    # KITTI has no validation split: a fold is cut from training.
    splits={"trainval": ("training",), "test": ("testing",)},
    unlabelled=("test",),
    ignored_ids=IGNORED_IDS,
    ignored_colors=IGNORED_COLORS,
    val_folds=(
        (1, 5, 11, 29, 35, 49, 57, 68, 72, 82, 93, 115, 119, 130, 145, 154, 156, 167, 169, 189, 198),
        (0, 12, 24, 31, 42, 50, 63, 71, 84, 96, 101, 112, 121, 133, 141, 155, 164, 171, 187, 191, 197),
        (3, 6, 13, 21, 41, 54, 61, 73, 88, 91, 110, 121, 126, 131, 142, 149, 150, 163, 173, 183, 199),
    ),
    default_fold=0,
    num_images={"train": 179, "val": 21, "trainval": 200, "test": 200},
    # The multi-view extension of scene flow 2015 has the same 200 scenes: frames 00 to 20 around the labelled 10.
    video=Frames((Layout("scene_flow/{folder}/image_2"),)),
    propagated=Frames((Layout("propagated/{folder}/image_2", "propagated/{folder}/semantic"),)),
    scene_flow=Frames((Layout("scene_flow/{folder}/image_2", "scene_flow/{folder}/semantic"),)),
)
