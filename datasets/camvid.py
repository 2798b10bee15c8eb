"""CamVid in the 11-class, 360x480 form of the SegNet authors (Brostow et al., ECCV 2008; PRL 2009)."""

from datasets.spec import DatasetSpec, Layout, SegClass

CLASSES = (
    SegClass("Sky", (128, 128, 128)),
    SegClass("Building", (128, 0, 0)),
    SegClass("Pole", (192, 192, 128)),
    SegClass("Road", (128, 64, 128)),
    SegClass("Sidewalk", (0, 0, 192)),
    SegClass("Tree", (128, 128, 0)),
    SegClass("SignSymbol", (192, 128, 128)),
    SegClass("Fence", (64, 64, 128)),
    SegClass("Car", (64, 0, 128)),
    SegClass("Pedestrian", (64, 64, 0)),
    SegClass("Bicyclist", (0, 128, 192)),
)

LAYOUT = Layout("{folder}", "{folder}annot")

SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

VOID_ID = 11

SPEC = DatasetSpec(
    name="camvid",
    title="CamVid, 11 classes",
    classes=CLASSES,
    layouts=(LAYOUT,),
    splits=SPLITS,
    ignored_ids=(VOID_ID,),
)
