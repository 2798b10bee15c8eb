"""Confidence: counts that one can check in the head, and a temperature that is found again."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference import Predictor, load_model
from inference.confidence import TemperatureFit, count_confidence, plot_reliability, soften, summarise
from inference.exported import Deployed
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from tests.networks import tiny_network


def test_mean_twentieth_and_calibration_error_of_four_pixels():
    confidence = np.array([[255, 255, 255, 51]], np.uint8)  # three times sure, once at a fifth
    prediction, labels = np.array([[1, 1, 1, 2]], np.uint8), np.array([[1, 1, 0, 255]], np.uint8)
    counts = count_confidence(confidence, prediction, labels)
    assert counts.sum(1).tolist() == [4, 3, 2]
    found = summarise(counts)
    assert found.mean == pytest.approx((1 + 1 + 1 + 0.2) / 4)
    assert found.low == pytest.approx(0.2)
    assert found.calibration_error == pytest.approx(1 / 3), "sure of three, two of them right; the last is unknown"


def test_what_is_as_often_right_as_it_is_sure_has_no_calibration_error():
    counts = np.zeros((3, 256), np.int64)
    counts[0, 51], counts[1, 51], counts[2, 51] = 50, 50, 10
    counts[0, 204], counts[1, 204], counts[2, 204] = 100, 100, 80
    assert summarise(counts).calibration_error == pytest.approx(0)
    assert summarise(counts).low == pytest.approx(0.2)


def test_without_labels_or_pixels_what_is_unknown_is_nan():
    unknown = np.full((2, 2), 255, np.uint8)
    found = summarise(count_confidence(unknown, np.zeros_like(unknown), unknown))
    assert (found.mean, found.low) == (1, 1)
    assert np.isnan(found.calibration_error)
    assert np.isnan(summarise(np.zeros((3, 256), np.int64))).all()


@given(st.integers(0, 1000), st.floats(0.2, 5))
def test_softening_is_dividing_the_logits(seed, temperature):
    logits = 6 * torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed))
    softened = soften(logits.softmax(0), temperature)
    assert torch.allclose(softened, (logits / temperature).softmax(0), atol=1e-5)
    assert (softened.argmax(0) == logits.argmax(0)).all()


def test_a_certain_class_stays_certain():
    certain = torch.eye(3)[:, :, None]
    assert (soften(certain, 2.0) == certain).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(6, 100, 100, generator=generator)
    drawn = torch.multinomial((logits / temperature).softmax(0).flatten(1).T, 1, generator=generator)
    labels = drawn.reshape(100, 100).to(torch.uint8)
    labels[:5] = 255
    fit = TemperatureFit()
    fit.add(logits[:, :50].softmax(0), labels[:50])
    fit.add(logits[:, 50:].softmax(0), labels[50:])
    factor, before, after = fit.best()
    assert factor == pytest.approx(temperature, rel=0.05)
    assert after >= before


def test_without_labels_no_temperature_is_better():
    fit = TemperatureFit()
    fit.add(torch.full((2, 4, 4), 0.5), torch.full((4, 4), 255, dtype=torch.uint8))
    assert fit.best() == pytest.approx((1, 0, 0))


@pytest.mark.parametrize("how", [{}, {"scales": (0.5, 1.0), "flip": True}, {"tile": 32, "max_memory": 0.002}])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_confidence_is_the_largest_probability_and_labels_stay(how, temperature):
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    mean_and_std = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "device": "cpu"}
    predictor = Predictor(tiny_network(5), 5, **mean_and_std, temperature=temperature, **how)
    alone, predictor.confidence = predictor.predict(image), True
    prediction, confidence = predictor.predict(image)
    assert (prediction == alone).all()
    with_memory = Predictor(tiny_network(5), 5, **mean_and_std, temperature=temperature, **{**how, "max_memory": 1})
    exact = 255 * with_memory.probabilities(image).amax(0)
    assert (confidence.float() - exact).abs().max() <= 0.51


def test_an_exported_network_softens_its_probabilities_too():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 64, 48, 3), np.uint8))
    how = {"input": "uint8", "output": "probabilities", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    plain, soft = (Deployed(tiny_network(5), temperature=t, **how)(image)[0][0] for t in (1.0, 2.0))
    assert torch.allclose(soften(plain, 2.0), soft, atol=1e-5)


def test_the_diagram_shows_both_axes(tmp_path):
    counts = np.zeros((3, 256), np.int64)
    counts[:, 128:] = 10
    plot_reliability(tmp_path / "reliability.png", counts)
    assert cv2.imread(str(tmp_path / "reliability.png")).std() > 10


def test_the_carried_networks_temperature_is_used():
    model = load_model()
    assert model.predictor("cpu").temperature == model.checkpoint.temperature > 1
    image = np.full((64, 64, 3), 128, np.uint8)
    probabilities = model.predictor("cpu").probabilities(image)
    assert torch.allclose(probabilities.sum(0), torch.ones(64, 64), atol=1e-5)
