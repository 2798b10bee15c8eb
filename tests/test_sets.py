"""What relaxation allows: sets small enough to read off."""

import pytest
import torch

from loss.relaxation import relaxed_sets


def sets_of(labels, num_classes=3, **options):
    """The class set of each pixel of a label map [H, W], as a map of strings such as '01'; '-' where ignored."""
    labels = torch.tensor(labels).unsqueeze(0)
    classes = labels.where(labels != 255, num_classes)
    text = ["-" if c == num_classes else str(c) for c in classes.flatten().tolist()]
    sets = relaxed_sets(classes, num_classes, options.pop("border", 1), **options)
    for pixel, members in zip(sets.pixels.tolist(), sets.members.T.tolist(), strict=True):
        assert str(members[0]) == text[pixel], "a pixel's own class comes first"
        text[pixel] = "".join(str(c) for c in sorted(members) if c != num_classes)
    width = labels.shape[2]
    return [" ".join(text[i : i + width]) for i in range(0, len(text), width)]


def test_both_sides_of_a_boundary_are_relaxed():
    assert sets_of([[0, 0, 1, 1]] * 2) == ["0 01 01 1"] * 2


def test_a_wider_border_relaxes_more_pixels():
    assert sets_of([[0, 0, 0, 1, 1, 1]], border=2) == ["0 01 01 01 01 1"]


def test_a_border_wider_than_the_image_allows_every_class_in_it():
    assert sets_of([[0, 0, 0, 1], [2, 2, 2, 2]], border=9) == ["012 012 012 012"] * 2


def test_a_pole_one_pixel_wide_may_be_its_surroundings():
    assert sets_of([[0, 0, 1, 2, 2]] * 3) == ["0 01 012 12 2"] * 3


def test_diagonal_neighbours_count():
    assert sets_of([[0, 0, 0], [0, 0, 0], [0, 0, 1]]) == ["0 0 0", "0 01 01", "0 01 01"]


def test_the_edge_of_the_image_is_no_boundary():
    assert sets_of([[1, 1], [1, 1]]) == ["1 1", "1 1"]


def test_void_is_neither_relaxed_nor_a_neighbour():
    assert sets_of([[0, 0, 255, 1, 1]]) == ["0 0 - 1 1"]


def test_relaxation_reaches_across_a_void_narrower_than_the_border():
    assert sets_of([[0, 0, 255, 1, 1]], border=2) == ["0 01 - 01 1"]


def test_strict_pixels_keep_their_class_and_still_relax_their_neighbours():
    assert sets_of([[0, 0, 1, 1]], strict_classes=(1,)) == ["0 01 1 1"]


@pytest.mark.parametrize("num_classes", [19, 62, 63, 65, 124, 130])
def test_sets_are_right_up_to_the_last_class_whatever_their_number(num_classes):
    last = num_classes - 1
    assert sets_of([[0, 0, last, last]], num_classes=num_classes) == [f"0 0{last} 0{last} {last}"]
