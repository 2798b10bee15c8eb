"""What an exported file costs beside PyTorch: the labels of a 1024x512 photo, from its bytes.

    python -m benchmarks.export                                           # the network that this project carries
    python -m benchmarks.export --calibration data/camvid/train --camvid data/camvid    # and val mIoU, also in 8 bits

Times are medians of alternating rounds (smallest to largest), and their ratios to the plain call: eager, float32,
layers as they are trained. Files are made by `export.py` itself, which checks their labels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import torch

from benchmarks.common import describe_machine, seconds
from inference.load import load_model
from inference.predictor import Predictor
from inference.settings import PHOTO, SNAPSHOT
from utils.images import read_image

CPU = torch.device("cpu")
WAYS = {"export.py": [], "export.py --int8": ["--int8"]}


def scored(file: Path | str, camvid: Path) -> float:
    """mIoU on CamVid's val images, whole, at the scale that the carried network is for."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "eval.py", "--snapshot", file, "--dataset", "camvid", "--dataset_dir", camvid, "--device",
             "cpu", "--inference_mode", "pooling", "--scales", "1.5", "--no_flip", "--ckpt_path", folder,
             "--exp_name", "scored"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return float(json.loads((Path(folder) / "scored" / "metrics.json").read_text())["mean_iou"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot", default=SNAPSHOT)
    parser.add_argument("--calibration", type=Path, default=Path(PHOTO), help="images that --int8 is calibrated on")
    parser.add_argument("--camvid", type=Path, help="CamVid's folder, to score the files")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    photo = cv2.resize(read_image(PHOTO), (1024, 512), interpolation=cv2.INTER_AREA)
    model = load_model(arguments.snapshot)
    about = {"mean": model.checkpoint.mean, "std": model.checkpoint.std}
    plain = Predictor(model.net.eval(), len(model.classes), device=CPU, **about)
    predictors = {
        "plain call": plain,
        "predictor": model.predictor(CPU),
        "predictor, bf16": model.predictor(CPU, bf16=True),
    }
    files: dict[str, Path | str] = {"plain call": arguments.snapshot}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, flags) in enumerate(WAYS.items()):
            files[name] = Path(folder) / f"{number}.onnx"
            subprocess.run(
                [sys.executable, "export.py", "--snapshot", arguments.snapshot, "--out", files[name], *flags,
                 "--calibration", arguments.calibration],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            predictors[name] = load_model(files[name]).predictor(CPU)
        times: dict[str, list[float]] = {name: [] for name in predictors}
        for round_ in range(-1, arguments.rounds):  # the first one also allocates
            for name, predictor in predictors.items():
                took = seconds(lambda predictor=predictor: predictor.predict(photo), CPU)  # type: ignore[misc]
                times[name] += [took] if round_ >= 0 else []
        print(f"{describe_machine()}, {torch.get_num_threads()} threads\n")
        print("| | MB | ms | times as fast as the plain call | CamVid val mIoU |\n|---|---|---|---|---|")
        for name, own in times.items():
            ratios = [plain / other for plain, other in zip(times["plain call"], own, strict=True)]
            file = files.get(name)
            size = f"{Path(file).stat().st_size / 1e6:.1f}" if file else ""
            score = f"{100 * scored(file, arguments.camvid):.1f}" if file and arguments.camvid else ""
            told = [f"{statistics.median(of):.{d}f} ({min(of):.{d}f} to {max(of):.{d}f})" for of, d in (
                ([1e3 * time for time in own], 0), (ratios, 2))]  # fmt: skip
            print(f"| {name} | {size} | {' | '.join(told)} | {score} |", flush=True)


if __name__ == "__main__":
    main()
