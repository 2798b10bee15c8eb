"""CamVid (Brostow et al., ECCV 2008; PRL 2009): 11 classes, as in the SegNet split, or the original 32.

Two trees hold the same 701 frames: that of the SegNet authors (360x480, files of ids) and the original one (720x960,
files of colours). `camvid` reads both, and merges the 32 original classes to 11 as published. `camvid32` keeps the
original classes: 31, and Void, which means "no class".

`streets` are scenes that this project draws itself (datasets/streets), with CamVid's classes and SegNet's folders.
"""

from __future__ import annotations

from dataclasses import replace

from datasets.specs.spec import COLORS, DatasetSpec, Frames, Layout, SegClass

CAMVID32_CLASSES = (
    SegClass("Animal", (64, 128, 64)),
    SegClass("Archway", (192, 0, 128)),
    SegClass("Bicyclist", (0, 128, 192)),
    SegClass("Bridge", (0, 128, 64)),
    SegClass("Building", (128, 0, 0)),
    SegClass("Car", (64, 0, 128)),
    SegClass("CartLuggagePram", (64, 0, 192)),
    SegClass("Child", (192, 128, 64)),
    SegClass("Column_Pole", (192, 192, 128)),
    SegClass("Fence", (64, 64, 128)),
    SegClass("LaneMkgsDriv", (128, 0, 192)),
    SegClass("LaneMkgsNonDriv", (192, 0, 64)),
    SegClass("Misc_Text", (128, 128, 64)),
    SegClass("MotorcycleScooter", (192, 0, 192)),
    SegClass("OtherMoving", (128, 64, 64)),
    SegClass("ParkingBlock", (64, 192, 128)),
    SegClass("Pedestrian", (64, 64, 0)),
    SegClass("Road", (128, 64, 128)),
    SegClass("RoadShoulder", (128, 128, 192)),
    SegClass("Sidewalk", (0, 0, 192)),
    SegClass("SignSymbol", (192, 128, 128)),
    SegClass("Sky", (128, 128, 128)),
    SegClass("SUVPickupTruck", (64, 128, 192)),
    SegClass("TrafficCone", (0, 0, 64)),
    SegClass("TrafficLight", (0, 64, 64)),
    SegClass("Train", (192, 64, 128)),
    SegClass("Tree", (128, 128, 0)),
    SegClass("Truck_Bus", (192, 128, 192)),
    SegClass("Tunnel", (64, 0, 64)),
    SegClass("VegetationMisc", (192, 192, 0)),
    SegClass("Wall", (64, 192, 0)),
)


def _merge(name: str, *originals: str) -> SegClass:
    """One of the 11 classes: the `originals` of the 32 that are merged to it, its own colour first."""
    colors = {seg_class.name: seg_class.color for seg_class in CAMVID32_CLASSES}
    return SegClass(name, colors[originals[0]], label_colors=tuple(colors[original] for original in originals))


CAMVID_CLASSES = (
    _merge("Sky", "Sky"),
    _merge("Building", "Building", "Archway", "Bridge", "Tunnel", "Wall"),
    _merge("Pole", "Column_Pole", "TrafficCone"),
    _merge("Road", "Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    _merge("Sidewalk", "Sidewalk", "ParkingBlock", "RoadShoulder"),
    _merge("Tree", "Tree", "VegetationMisc"),
    _merge("SignSymbol", "SignSymbol", "Misc_Text", "TrafficLight"),
    _merge("Fence", "Fence"),
    _merge("Car", "Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    _merge("Pedestrian", "Pedestrian", "Child", "CartLuggagePram", "Animal"),
    _merge("Bicyclist", "Bicyclist", "MotorcycleScooter"),
)

SEGNET = Layout("{folder}", "{folder}annot")
ORIGINAL = Layout("701_StillsRaw_full", "LabeledApproved_full", label_suffixes=("_L.png",), masks=COLORS)
# Frames taken from the videos, named like the labelled ones, which are frames of the same video, mostly 30 apart.
VIDEO = Layout("video/{folder}")

CAMVID = DatasetSpec(
    name="camvid",
    title="CamVid, 11 classes",
    classes=CAMVID_CLASSES,
    layouts=(SEGNET, ORIGINAL),
    splits={"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)},
    # The original tree has one folder for all splits; these runs of frames are the splits of the SegNet authors.
    name_ranges={
        "train": (
            ("0001TP_006690", "0001TP_008520"),
            ("0006R0_f00930", "0006R0_f03930"),
            ("0016E5_00390", "0016E5_07920"),
            ("0016E5_08190", "0016E5_08640"),
        ),
        "val": (("0016E5_07959", "0016E5_08159"),),
        "test": (("0001TP_008550", "0001TP_010380"), ("Seq05VD_f00000", "Seq05VD_f05100")),
    },
    num_images={"train": 367, "val": 101, "trainval": 468, "test": 233},
    ignored_ids=(11,),
    ignored_colors=((0, 0, 0),),
    video=Frames((VIDEO, SEGNET, ORIGINAL)),
    propagated=Frames((Layout("propagated/{folder}", "propagated/{folder}annot"),), by_number=False),
)

CAMVID32 = replace(
    CAMVID,
    name="camvid32",
    title="CamVid, the original 32 classes",
    classes=CAMVID32_CLASSES,
    layouts=(ORIGINAL,),
    ignored_ids=(),
    video=Frames((VIDEO, ORIGINAL)),
    propagated=Frames(
        (Layout("propagated/images", "propagated/labels", label_suffixes=("_L.png",), masks=COLORS),), by_number=False
    ),
)

STREETS = replace(
    CAMVID,
    name="streets",
    title="Streets, drawn by this project",
    layouts=(SEGNET,),
    video=Frames((VIDEO, SEGNET)),
    num_images={},
)
