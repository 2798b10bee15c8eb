"""What a run writes into its folder."""

import json
import math

import numpy as np

from training.run_log import METRICS, NUM_KEPT, RunLog, draw_curves, write_sample


def test_samples_of_a_long_training_are_few_and_spread_evenly(tmp_path):
    log = RunLog(tmp_path / "run", tmp_path / "tb", active=True)
    for epoch in range(1, 201):
        for number in range(2):
            write_sample(log, epoch, number, np.zeros((4, 4, 3), np.uint8))
    names = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    epochs = [int(name[5:8]) for name in names if name.endswith("_0.png")]
    assert len(names) == 2 * NUM_KEPT
    assert (epochs[0], epochs[-1]) == (1, 200)
    assert max(np.diff(epochs)) <= 3 * 200 / NUM_KEPT


def test_what_is_not_a_number_is_null_in_the_log_and_left_out_of_the_curves(tmp_path):
    log = RunLog(tmp_path / "run", tmp_path / "tb", active=True)
    log.scalars("train", {"epoch": 0.0, "loss": 1.0, "lr": 0.1})
    for epoch, score in ((1, math.nan), (2, math.inf), (3, 0.0), (4, 0.5)):
        log.scalars("val", {"epoch": epoch, "mean_iou": score})
    rows = [json.loads(line, parse_constant=lambda _: 1 / 0) for line in (tmp_path / "run" / METRICS).open()]
    assert [row.get("mean_iou") for row in rows] == [None, None, None, 0.0, 0.5]
    with (tmp_path / "run" / METRICS).open("a") as file:
        file.write('{"kind": "val", "step": 5, "epoch": 5, "mean_iou": NaN}\n')  # as earlier versions wrote it
    draw_curves(tmp_path / "run")
    assert (tmp_path / "run/curves.png").is_file()
