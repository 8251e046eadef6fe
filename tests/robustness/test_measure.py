import numpy as np
import pytest

from bebert_ray.data.tasks import TASKS
from bebert_ray.robustness.measure import area, figures


def test_figures_of_a_classification_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.45, 0.55], [0.7, 0.3]])
    labels = np.array([0, 1, 1, 0, 0])
    found = figures(TASKS["sst2"], p, labels)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.45, 0.7]).mean())
    # Each is alone in its bin: the gaps are 0.1, 0.2, 0.6, 0.55 and 0.3.
    assert found["ece"] == pytest.approx(np.mean([0.1, 0.2, 0.6, 0.55, 0.3]))
    assert found["selective"] == pytest.approx(3 / 4)  # without the 0.55


def test_a_model_that_knows_how_certain_it_is_has_no_calibration_error():
    p = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert figures(TASKS["sst2"], p, labels)["ece"] == pytest.approx(0)


def test_certainty_of_one_and_a_wrong_label_is_finite():
    assert np.isfinite(figures(TASKS["sst2"], np.array([[1.0, 0.0]]), np.array([1]))["nll"])


def test_regression_has_its_metrics_alone():
    found = figures(TASKS["stsb"], np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 2.0, 3.0]))
    assert set(found) == {"pearson", "spearman"}


def test_the_area_is_a_mean_score():
    assert area([0.1, 0.4], [0.8, 0.8], 0.8) == pytest.approx(0.8)
    assert area([1.0, 3.0], [0.5, 0.3], 0.9) == pytest.approx((0.7 + 2 * 0.4) / 3)
