"""Label files and the pictures beside them: what is read, and what is an error that names the file."""

import numpy as np
import pytest
from PIL import Image

from datasets.files import Sample
from datasets.segmentation import load_labels, load_sample
from datasets.specs.registry import dataset_spec
from inference.submission import image_size
from utils.images import read_image, read_label_ids, write_image


def test_a_label_value_that_no_class_claims_is_an_error_with_file_value_and_place(tmp_path):
    ids = np.zeros((3, 4), np.uint8)
    ids[1, 2] = 77
    write_image(tmp_path / "a.png", ids)
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: label values 77 are not among camvid's \(first at row 1, column 2\)"):
        load_labels(sample, dataset_spec("camvid"))


def test_a_sixteen_bit_label_file_is_read_and_a_large_value_in_it_named(tmp_path):
    write_image(tmp_path / "a.png", np.full((2, 2), 3, np.uint16))
    write_image(tmp_path / "b.png", np.full((2, 2), 3000, np.uint16))
    spec = dataset_spec("camvid")
    assert (load_labels(Sample("a", tmp_path / "a.png", tmp_path / "a.png"), spec) == 3).all()
    with pytest.raises(ValueError, match="label values 3000 are not among camvid's"):
        load_labels(Sample("b", tmp_path / "b.png", tmp_path / "b.png"), spec)


def test_a_picture_larger_than_pillow_allows_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=Image.Exif().tobytes())  # so that Pillow is asked
    Image.new("P", (8, 4)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.jpg").shape == (4, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_label_ids(tmp_path / "a.png").shape == (4, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert image_size(tmp_path / "a.jpg") == (8, 4)


def test_image_and_labels_of_different_sizes_are_an_error_that_names_both(tmp_path):
    write_image(tmp_path / "image.png", np.zeros((4, 6, 3), np.uint8))
    write_image(tmp_path / "labels.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"image.png is 6x4, its labels .*labels.png are 5x4"):
        load_sample(Sample("x", tmp_path / "image.png", tmp_path / "labels.png"), dataset_spec("camvid"))
