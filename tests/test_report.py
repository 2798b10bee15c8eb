"""report.html in a real headless Chromium: it opens, sorts, searches, slides and stays quick, and asks no network.

Needs a Chromium (Debian: apt-get install chromium) and Playwright's Python package; is skipped where one is missing.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.specs.registry import dataset_spec
from inference.confidence import plot_reliability, summarise
from inference.evaluation import ImageResult, evaluate_image, picture_paths, write_pictures
from inference.report import page_data, write_page
from utils.metrics import scores

CAMVID = dataset_spec("camvid")
SIZE = (60, 80)
# One that must not be taken for markup, and one that must be escaped in a path.
NAMES = ("city/first", "city/second", "</script><b>bold", "50% #1?", "portrait")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Opened:
    """A page in the browser, and what went wrong in it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Of the images, as they are shown."""
        return self.page.locator(".card .name").all_text_contents()  # those out of sight too

    def colors_at(self, selector: str, *places: tuple[float, float]) -> list[tuple[int, ...]]:
        """RGB on the screen at places (x, y) within an element, given as shares of its size."""
        picture = Image.open(io.BytesIO(self.page.locator(selector).first.screenshot())).convert("RGB")
        return [picture.getpixel((int(x * picture.width), int(y * picture.height))) for x, y in places]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=binary, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser) -> Iterator[Any]:
    """Open a file; in the end nothing may have gone wrong, and nothing been asked of a network."""
    everything: list[Opened] = []

    def open_it(path: Path, width: int = 1200, height: int = 900) -> Opened:
        page = browser.new_page(viewport={"width": width, "height": height})
        opened = Opened(page)
        everything.append(opened)
        page.on("console", lambda message: opened.problems.append(message.text))
        page.on("pageerror", lambda error: opened.problems.append(str(error)))
        page.on("request", lambda request: opened.asked.append(request.url))
        page.goto(path.as_uri())
        return opened

    yield open_it
    for opened in everything:
        opened.page.close()
        assert opened.problems == []
        assert {url.split(":")[0] for url in opened.asked} <= {"file", "data"}


def truth_and_prediction(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky above, road below, a void stripe at the bottom; the more of the road's left is missed the higher the number.

    The last image is a portrait.
    """
    height, width = SIZE if number < 4 else SIZE[::-1]
    truth = np.full((height, width), 3, np.uint8)
    truth[: height // 2] = 0
    truth[-4:] = 255
    labels = np.where(truth == 255, np.uint8(3), truth)
    labels[height // 2 :, : width * (2 + number) // 10] = 8
    return truth, labels


def write_report(folder: Path, names: tuple[str, ...] = NAMES, *, labelled: bool = True, pictures: bool = True) -> Path:
    """A report of made-up predictions, photos being white."""
    results: list[ImageResult] = []
    for i, name in enumerate(names):
        truth, prediction = truth_and_prediction(min(i, 4))
        photo = np.full((*prediction.shape, 3), 255, np.uint8)
        confidence = np.where(prediction == 3, np.uint8(100 + min(i, 4)), np.uint8(255))  # less sure of the road
        known = truth if labelled else np.full_like(truth, 255)
        results.append(evaluate_image(photo, known, prediction, 11, confidence))
        if pictures:
            write_pictures(picture_paths(folder, name), photo, truth, prediction, CAMVID.classes, confidence)
    counts = [torch.from_numpy(result.counts) for result in results]
    every = [scores(one, CAMVID.class_names) for one in (sum(counts), *counts)]
    facts = {"settings": {"model": {"arch": "x"}}, "speed": {"network_share": 0.876}}
    if labelled:
        plot_reliability(folder / "reliability.png", results[0].confidence)
    data = page_data(
        "CamVid: test", "a network", CAMVID.classes, names, results, overall=every[0] if labelled else None,
        per_image=every[1:] if labelled else (), pictures=pictures, facts=facts,
        confidence=[summarise(result.confidence) for result in results],
        reliability=folder / "reliability.png" if labelled else None,
    )  # fmt: skip
    write_page(folder / "report.html", data)
    return folder / "report.html"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_report(tmp_path)


def test_the_page_is_one_file_and_holds_what_it_shows(report):
    text = report.read_text(encoding="utf-8")
    assert 'src="http' not in text
    assert "<link" not in text
    assert "{{" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [image["name"] for image in data["images"]] == list(NAMES)
    photo = Image.open(io.BytesIO(base64.b64decode(data["images"][0]["photo"].split(",")[1])))
    assert photo.size == (80, 60)


def test_of_very_many_images_the_worst_alone_have_their_picture_in_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("inference.report.MOST_PICTURES", 2)
    text = write_report(tmp_path, pictures=False).read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [image["name"] for image in data["images"] if image["photo"]] == list(NAMES)[-2:]
    assert "small versions of 2 images" in data["about"]


def test_it_opens_with_scores_classes_and_confusions(report, open_page):
    page = open_page(report).page
    assert page.title() == "CamVid: test"
    assert "pixel accuracy" in page.locator(".tiles").inner_text()
    assert "88 %" in page.locator(".tiles").inner_text()
    assert page.locator("tbody tr").count() == 11
    assert "Building" in page.locator("#absent").inner_text()
    assert page.locator(".heat i").count() == 121
    assert "of the true Road was taken for Car" in page.locator(".notes ol li").first.inner_text()
    page.locator(".heat i").nth(3 * 11 + 8).hover()
    assert "of the true Road was taken for Car" in page.locator("#told").inner_text()


def test_classes_are_sorted_by_what_is_clicked(report, open_page):
    page = open_page(report).page

    def first() -> str:
        return page.locator("tbody td").first.inner_text()

    assert first() == "Road", "lowest IoU first; the absent come last"
    page.get_by_role("button", name="share").click()
    assert first() == "Building", "there is none"
    page.get_by_role("button", name="share").click()
    assert first() == "Sky"
    page.get_by_role("button", name="class", exact=True).click()
    assert first() == "Sky"


def test_images_are_sorted_worst_first_and_otherwise_when_asked(report, open_page):
    opened = open_page(report)
    assert opened.names() == list(NAMES)[::-1]
    opened.page.locator("#sort").select_option("best mIoU first")
    assert opened.names() == list(NAMES)
    opened.page.locator("#sort").select_option("worst Road first")
    assert opened.names()[0] == "portrait"


def test_images_are_found_by_a_part_of_their_name(report, open_page):
    opened = open_page(report)
    opened.page.locator("#search").fill("CITY/")
    assert sorted(opened.names()) == ["city/first", "city/second"]
    assert opened.page.locator("#count").inner_text() == "2 of 5 images"
    opened.page.locator("#search").fill("")
    assert len(opened.names()) == 5


def open_image(opened: Opened, name: str) -> None:
    opened.page.locator(".card", has_text=name).click()
    # Decoding fails where the small picture gives way to the full one meanwhile; then the full one is decoded.
    decoded = "photos.map((photo) => photo.decode().catch(() => photo.decode()))"
    opened.page.locator("#stage .photo").evaluate_all(f"photos => Promise.all({decoded})")


def test_the_slider_moves_where_left_and_right_meet(report, open_page):
    opened = open_page(report, 1000, 800)
    open_image(opened, "city/first")
    page = opened.page
    page.locator("#right").get_by_role("radio", name="prediction").click()
    page.locator("#strength").fill("1")
    sky, white = CAMVID.palette[0], (255, 255, 255)
    assert opened.colors_at("#stage", (0.25, 0.25), (0.75, 0.25)) == [white, sky]
    page.locator("#wipe").fill("10")
    assert opened.colors_at("#stage", (0.25, 0.25), (0.75, 0.25)) == [sky, sky]
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    assert opened.colors_at("#stage", (0.25, 0.25), (0.75, 0.25)) == [white, white]


def test_prediction_truth_and_difference_have_their_colors_and_classes_can_be_turned_off(report, open_page):
    opened = open_page(report, 1000, 800)
    open_image(opened, "city/first")
    page = opened.page
    page.locator("#wipe").fill("0")
    page.locator("#strength").fill("1")
    road, car, white = CAMVID.palette[3], CAMVID.palette[8], (255, 255, 255)
    missed, found, void = (0.1, 0.7), (0.6, 0.7), (0.6, 0.985)

    def shown(layer: str) -> list[tuple[int, ...]]:
        page.locator("#right").get_by_role("radio", name=layer).click()
        return opened.colors_at("#stage", missed, found, void)

    assert shown("prediction") == [car, road, road]
    assert shown("truth") == [road, road, white], "nothing is known there"
    dark = shown("difference")[1]
    assert max(dark) < 130, "the photo, where nothing is wrong"
    assert shown("difference") == [car, dark, dark]
    page.locator("#legend").get_by_role("button", name="Car").click()
    assert shown("difference") == [dark, dark, dark]
    assert shown("prediction") == [white, road, road]
    page.locator("#none").click()
    assert shown("prediction") == [white, white, white]
    page.locator("#all").click()
    assert shown("prediction") == [car, road, road]


def test_doubt_is_bright_and_orders_the_images(report, open_page):
    opened = open_page(report, 1000, 800)
    opened.page.locator("#sort").select_option("least confident first")
    assert opened.names()[0] == "city/first"
    assert opened.page.locator("#reliability img").is_visible()
    open_image(opened, "city/first")
    opened.page.locator("#wipe").fill("0")
    opened.page.locator("#strength").fill("1")
    opened.page.locator("#right").get_by_role("radio", name="confidence").click()
    sky, road = opened.colors_at("#stage", (0.6, 0.2), (0.6, 0.7))
    assert sum(road) > 2 * sum(sky)


def test_full_pictures_are_loaded_when_asked_for_whatever_they_are_called(report, open_page):
    opened = open_page(report)
    assert not [url for url in opened.asked if url.endswith(".png")], "not before"
    for name in NAMES:
        open_image(opened, name)
        for kind in ("photo", "map"):  # by selector: a function asked twice wants eval, which the page bars
            opened.page.wait_for_selector(f"#stage .{kind}[src]:not([src^='data:'])", state="attached")
        assert opened.page.locator("#state").inner_text() == ""
        opened.page.keyboard.press("Escape")


def test_arrow_keys_lead_through_the_images_in_the_order_shown(report, open_page):
    opened = open_page(report)
    open_image(opened, "portrait")
    seen = []
    for _ in NAMES:
        seen.append(opened.page.locator("#name").inner_text().split(": mIoU")[0])
        opened.page.keyboard.press("ArrowRight")
    assert seen == list(NAMES)[::-1]


def test_without_full_pictures_the_small_ones_are_shown_and_it_is_said_how_to_get_them(tmp_path, open_page):
    opened = open_page(write_report(tmp_path, pictures=False))
    open_image(opened, "portrait")
    assert "--dump_images" in opened.page.locator("#state").inner_text()
    assert opened.page.locator("#stage .photo").first.get_attribute("src").startswith("data:")


def test_a_split_without_labels_is_shown_without_scores(tmp_path, open_page):
    opened = open_page(write_report(tmp_path, labelled=False))
    assert opened.names() == list(NAMES)
    assert not opened.page.locator("#scored").is_visible()
    open_image(opened, "city/first")
    assert opened.page.locator("#right button").all_inner_texts() == ["picture", "prediction", "confidence"]


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_sticks_out_of_the_window(report, open_page, width):
    opened = open_page(report, width, 760)
    inside = "document.documentElement.scrollWidth <= window.innerWidth"
    assert opened.page.evaluate(inside)
    open_image(opened, "city/first")
    for selector in ("#stage", "#close", "#wipe", "#legend"):
        box = opened.page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width + 1
        assert box["y"] + box["height"] <= 761


def test_of_500_images_only_those_near_the_window_are_decoded(tmp_path, open_page):
    names = tuple(f"image{i:03}" for i in range(500))
    opened = open_page(write_report(tmp_path, names, pictures=False))
    assert opened.page.locator(".card").count() == 500
    opened.page.locator("#grid").scroll_into_view_if_needed()
    opened.page.wait_for_selector(".card .photo")
    assert opened.page.locator(".card .photo").count() < 120
    opened.page.locator("#sort").select_option("name")
    assert opened.names()[0] == "image000"
