"""The benchmarks run. What they measure is nobody's test."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.__main__ import slower
from tests.conftest import ROOT
from utils.images import write_image
from utils.video_io import new_video


@pytest.mark.slow
@pytest.mark.parametrize(("script", "flags", "told"), [
    ("loader.py", ("--samples", "2", "--seconds", "0.1", "--batches", "10"), "| whole sample |"),
    ("class_uniform.py", ("--maps", "3"), "| choose pixels |"),
])  # fmt: skip
def test_a_benchmark_of_the_data_pipeline_runs_on_a_set_of_ones_own(tmp_path, script, flags, told):
    for number in range(2):
        write_image(tmp_path / "train" / f"{number}.png", np.zeros((30, 40, 3), np.uint8))
        write_image(tmp_path / "trainannot" / f"{number}.png", np.zeros((30, 40), np.uint8))
    command = [sys.executable, f"benchmarks/{script}", "--dataset", "camvid", "--dataset_dir", str(tmp_path), *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert told in result.stdout


def test_a_video_of_one_frame_has_no_flicker(tmp_path, light_checkpoint):
    with new_video(tmp_path / "one.mp4", 10, (64, 48)) as write_frame:
        write_frame(np.zeros((48, 64, 3), np.uint8))
    command = [sys.executable, "benchmarks/flicker.py", str(tmp_path / "one.mp4"), str(light_checkpoint)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("one.mp4: 1 frame could be read; flicker needs two.")


@pytest.mark.slow
def test_the_benchmark_of_propagation_runs_on_real_video(tmp_path, shared):
    command = [sys.executable, "benchmarks/propagation.py", str(shared / "camvid"), "--every", "60",
               "--curve", str(tmp_path / "curve.png")]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "| ours, label, 67 % |" in result.stdout and (tmp_path / "curve.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--together",)])
def test_the_benchmark_of_inference_runs(flags):
    command = [sys.executable, "benchmarks/inference.py", "--network_only", "--no-compile", "--rounds", "1", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "| and layers folded, bfloat16: labels |" in result.stdout


def write_results(folder, ratio):
    folder.mkdir()
    rows = [{"contender": "Kerbline", "ratio": [1, 1, 1]}, {"contender": "a peer", "ratio": ratio}]
    (folder / "step.json").write_text(json.dumps({"rows": rows}))


@pytest.mark.parametrize(("now", "told"), [([1.2, 1.3, 1.4], 1), ([1.2, 1.5, 1.9], 0), ([2.2, 2.3, 2.4], 0)])
def test_what_got_slower_beside_a_peer_is_told_unless_the_spreads_overlap(now, told, tmp_path):
    write_results(tmp_path / "old", [1.8, 2.0, 2.1])
    write_results(tmp_path / "new", now)
    lines = slower(tmp_path / "new", tmp_path / "old")
    assert len(lines) == told
    assert not told or lines == ["step: 1.30 times as fast as a peer, 2.00 before"]


@pytest.mark.slow
@pytest.mark.parametrize("work", ["decode", "sample", "step", "evaluation"])
def test_work_is_measured_beside_a_plain_baseline(work, tmp_path):
    command = [sys.executable, "-m", "benchmarks", work, "--rounds", "1", "--device", "cpu", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / f"{work}.json").read_text())["rows"]) >= 2


@pytest.mark.slow
def test_the_gpu_session_is_rehearsed_in_miniature_on_a_cpu(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "KERBLINE_COMMIT": "rehearsed"}
    command = ["bash", "benchmarks/gpu_session.sh", "--tiny"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    codes = dict(re.findall(r"== (\w+): \d+ s, exit code (\d+)", result.stdout))
    parts = ("loss", "training", "inference", "loop", "compiled", "more")
    assert codes == dict.fromkeys(("tests", *parts), "0"), result.stdout
    for name in parts:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["commit"] == "rehearsed" and found["rows"]
        assert not [row["error"] for row in found["rows"] if "error" in row]
    assert len(list(tmp_path.iterdir())) <= 8
