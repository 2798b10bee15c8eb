"""Trainings of a few steps, on the pictures of the fixture `tiny_set`."""

from __future__ import annotations

import json

import train as train_command
from config import TrainConfig
from network.checkpoint import load_checkpoint
from utils.flags import parse_command_line


def arguments(root, folder, *more):
    return [
        "--dataset", "camvid", "--dataset_dir", str(root), "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", "64",
        "--bs_mult", "4", "--adam", "--lr", "0.003", "--ckpt", str(folder / "ckpt"), "--tb_path", str(folder / "tb"),
        "--index_dir", str(folder / "index"), "--num_workers", "0", "--device", "cpu", "--no-bf16", *more,
    ]  # fmt: skip


def run(root, folder, *more):
    return train_command.main(parse_command_line(TrainConfig, arguments(root, folder, *more)))


def metrics(folder, kind, name="default"):
    lines = (folder / "ckpt" / name / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def weights(folder, name="default"):
    return load_checkpoint(folder / "ckpt" / name / "last.pth").state_dict
