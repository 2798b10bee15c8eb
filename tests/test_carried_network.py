"""The network in pretrained_models/, on a real street photo."""

import re

import numpy as np
import pytest
import torch

from inference import load_model
from inference.settings import SNAPSHOT
from network.deepv3 import build_network
from network.weights import find_imagenet_weights, load_trunk_weights
from tests.conftest import ROOT
from tests.test_efficientnet_lite import published_file
from utils.images import read_image

PHOTO = ROOT / "docs/photos/highway.jpg"


@pytest.fixture(scope="module")
def seen():
    """What the README's lines of Python give for the photo."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {"image": read_image(PHOTO)}
    exec(code, names)
    return names


def test_the_readmes_lines_give_labels_and_a_picture(seen):
    height, width = seen["image"].shape[:2]
    assert seen["prediction"].shape == (height, width)
    assert seen["picture"].shape == (height, width, 3)
    assert seen["picture"].dtype == np.uint8


@pytest.mark.parametrize(("row", "column", "name"), [
    (0.05, 0.70, "Sky"), (0.30, 0.22, "Tree"), (0.75, 0.60, "Road"), (0.62, 0.855, "Car"), (0.63, 0.69, "Car"),
])  # fmt: skip
def test_the_photo_is_segmented_right(seen, row, column, name):
    prediction = seen["prediction"].cpu().numpy()
    around = prediction[int(row * prediction.shape[0]) - 4 :, int(column * prediction.shape[1]) - 4 :][:9, :9]
    names = [seen["model"].classes[train_id].name for train_id in np.unique(around)]
    assert names == [name]


def test_its_file_is_small_and_tells_what_it_is():
    assert (ROOT / SNAPSHOT).stat().st_size <= 12e6
    model = load_model()
    assert model.checkpoint.dataset == "camvid"
    assert model.checkpoint.config["data"]["train_split"] == "train"


def test_the_carried_trunk_fills_its_architecture():
    path = find_imagenet_weights("DeepEffLite2V3PlusD_m1")
    assert path.stat().st_size <= 12e6
    carried, published = (build_network("DeepEffLite2V3PlusD_m1", 2) for _ in range(2))
    assert load_trunk_weights(carried, path).complete
    load_trunk_weights(published, published_file(2))
    for key, value in carried.state_dict().items():
        if carried.is_trunk_key(key):
            assert torch.allclose(value, published.state_dict()[key], rtol=1e-3, atol=1e-6), key
