"""Segment one picture: python demo.py --demo-image IMAGE --snapshot CHECKPOINT --save-dir FOLDER."""

from __future__ import annotations

from config import DemoConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(DemoConfig)  # before PyTorch is imported, so that --help answers at once

from functools import partial
from pathlib import Path

from inference.build import demo_predictor, load_model
from inference.legend import shares_table
from inference.writers import result_paths, write_results
from utils.command import run_command
from utils.device import resolve_device
from utils.files import writable_folder
from utils.images import read_image


def main(config: DemoConfig) -> int:
    """Predict the picture, write its colour mask, overlay and label ids, and print the class shares."""
    device = resolve_device(config.device.device)
    source = Path(config.input.demo_image)
    image = read_image(source)
    model = load_model(config.model)
    predictor = demo_predictor(model, config.output, device)
    folder = writable_folder(Path(config.output.save_dir), "--save-dir")

    labels = predictor.labels(image).cpu().numpy()
    paths = result_paths(folder, source.stem, source)
    shares = write_results(paths, image, labels, model.classes, source)

    print(shares_table(shares))
    for path in paths.all():
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(partial(main, CONFIG), debug=CONFIG.device.debug)
