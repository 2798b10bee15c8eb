"""Comparing trainings: run folders written by hand, with means that can be checked in one's head."""

import csv
import json
import subprocess

import pytest

from config import TrainConfig, as_dict
from datasets.files import Sample
from datasets.specs.registry import dataset_spec
from tests.tiny import run as train
from training.run_log import commit, data_fingerprint
from utils.flags import parse_command_line

START = {"commit": "abc1234", "data": "d0", "processes": 1, "numbers": "float32", "versions": {"torch": "2"}}


def write_run(folder, seed, iou, *flags, start=START, epochs=2, steps=20, **of_class):
    """A run with these flags whose last mIoU is `iou`, after one of 0.1."""
    words = ["--dataset", "camvid", "--seed", str(seed), "--max_epoch", "2", "--exp", folder.name, *flags]
    config = as_dict(parse_command_line(TrainConfig, words))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | ({"starts": [start]} if start else {})))
    rows = []
    for epoch, value in list(enumerate((0.1, iou), start=1))[:epochs]:
        rows.append({"kind": "train", "step": epoch * steps // 2 - 1, "epoch": epoch - 0.5, "loss": 1.0 / epoch})
        rows.append({"kind": "val", "epoch": epoch, "mean_iou": value, **{f"iou/{k}": v for k, v in of_class.items()}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_evaluation(run, scales="1.0", **scores):
    folder = run / "eval" / "camvid_test"
    folder.mkdir(parents=True)
    content = {**scores, "classes": {"Sky": {"iou": 0.9, "boundary_f": None}},
               "settings": {"inference": {"scales": scales}}}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def compare(command, tmp_path):
    return lambda *runs: command("training.compare", *runs, "--out", tmp_path / "out")


@pytest.fixture
def table(tmp_path):
    """The lines of the CSV, by group, source, class and score."""

    def read():
        with (tmp_path / "out.csv").open() as file:
            return {(row["group"], row["source"], row["class"], row["score"]): row for row in csv.DictReader(file)}

    return read


def test_runs_that_differ_in_seed_name_and_paths_alone_are_one_group(tmp_path, compare, table):
    for seed, iou in enumerate((0.2, 0.4, 0.6)):
        paths = ("--dataset_dir", f"data/{seed}", "--cache_dir", f"cache/{seed}", "--num_workers", str(seed))
        write_run(tmp_path / f"plain-{seed}", seed, iou, *paths, Sky=iou + 0.1)
        write_run(tmp_path / f"relaxed-{seed}", seed, iou + 0.1, "--jointwtborder", "--rlx_border", "2", Sky=0.9)
    told = compare(*sorted(tmp_path.glob("*-*")))
    assert (told.code, told.err) == (0, "")
    assert "group 1 (3 seeds): --jointwtborder off, --rlx_border 1\n" in told.out
    assert f"  {tmp_path / 'plain-2'}: seed 2; steps 20; data d0\n" in told.out
    assert "group 2 (3 seeds): --jointwtborder on, --rlx_border 2\n" in told.out
    assert "mIoU  40.00 ± 20.00 (20.00 to 60.00)  50.00 ± 20.00 (30.00 to 70.00)" in told.out
    rows = table()
    sky = rows["1", "last validation", "Sky", "iou"]
    assert [round(float(sky[key]), 6) for key in ("mean", "std", "min", "max", "seeds")] == [0.5, 0.2, 0.3, 0.7, 3]
    assert rows["1", "last validation", "", "mean_iou"]["per_seed"] == "0:0.2 1:0.4 2:0.6"


def test_a_single_seed_has_no_deviation(tmp_path, compare, table):
    told = compare(write_run(tmp_path / "a", 0, 0.5))
    assert "group 1 (1 seed): --arch DeepWV3Plus --dataset camvid" in told.out
    assert "50.00 (one seed)" in told.out
    assert table()["1", "last validation", "", "mean_iou"]["std"] == ""


def test_boundary_scores_come_from_the_evaluations_in_the_run_folders(tmp_path, compare, table):
    runs = [write_run(tmp_path / f"r{seed}", seed, 0.5) for seed in range(3)]
    write_evaluation(runs[0], mean_iou=0.4, mean_boundary_iou=0.25, mean_boundary_f=0.5)
    write_evaluation(runs[1], mean_iou=0.6, mean_boundary_iou=0.75, mean_boundary_f=None, scales="0.5,1.0")
    told = compare(*runs)
    assert "mean boundary IoU      50.00 ± 35.36 (25.00 to 75.00), in 2 of 3 runs" in told.out
    assert " 50.00 (one seed), in 1 of 3 runs" in told.out
    assert "warning: eval/camvid_test --scales: not the same in all runs: 1.0; 0.5,1.0" in told.err
    assert float(table()["1", "eval/camvid_test", "Sky", "iou"]["mean"]) == 0.9


def test_other_steps_and_commits_are_told(tmp_path, compare):
    runs = [write_run(tmp_path / "a", 0, 0.5), write_run(tmp_path / "b", 1, 0.5, steps=10),
            write_run(tmp_path / "c", 0, 0.5, "--lr", "1", start=START | {"commit": "def"})]  # fmt: skip
    told = compare(*runs).err
    assert "warning: steps: not the same in all runs: 20; 10\n" in told
    assert "warning: commit: not the same in all runs: abc1234; def\n" in told


def test_the_same_folder_again_counts_once_and_a_seed_too(tmp_path, compare, table):
    a, b = write_run(tmp_path / "a", 0, 0.5), write_run(tmp_path / "b", 0, 0.7)
    told = compare(a, b, a)  # the same folder again counts once
    assert "group 1 (1 seed)" in told.out
    assert table()["1", "last validation", "", "mean_iou"]["seeds"] == "1"


def test_older_runs_lack_facts_classes_and_flags(tmp_path, compare):
    old, new = write_run(tmp_path / "old", 0, 0.5, start=None), write_run(tmp_path / "new", 1, 0.7)
    config = json.loads((old / "config.json").read_text())
    del config["loss"]["published_loss"]
    (old / "config.json").write_text(json.dumps(config))
    told = compare(old, new)
    assert "group 1 (2 seeds)" in told.out  # a flag that did not exist counts as its default
    assert "steps 20; data not recorded\n" in told.out
    assert told.err == ""


def test_names_that_are_no_text_of_one_line_are_escaped(tmp_path, compare, table):
    one = write_run(tmp_path / "a\nb", 0, 0.5, "--trunk_weights", "x\ny")
    other = write_run(tmp_path / "\udcdf", 0, 0.6)
    told = compare(one, other, tmp_path / "no\nrun")
    assert told.code == 0
    assert f"\n  {tmp_path}/a\\nb: seed 0;" in told.out
    assert "--trunk_weights x\\ny\n" in told.out
    assert told.err.startswith(f"left out: {tmp_path}/no\\nrun is no run folder")
    assert {row["flags"] for row in table().values()} == {"--trunk_weights x\\ny", "--trunk_weights none"}


def test_a_run_that_cannot_be_compared_is_one_line(tmp_path, compare):
    good = write_run(tmp_path / "good", 0, 0.5)
    going = write_run(tmp_path / "going", 1, 0.5, epochs=1)
    begun = write_run(tmp_path / "begun", 1, 0.5, epochs=0)
    damaged = write_run(tmp_path / "damaged", 1, 0.5)
    (damaged / "config.json").write_text("{")
    lost = write_run(tmp_path / "lost", 1, 0.5)
    (lost / "metrics.jsonl").unlink()
    sdc = tmp_path / "sdc"
    sdc.mkdir()
    (sdc / "config.json").write_text('{"net": {}}')
    told = compare(good, going, begun, damaged, lost, sdc, tmp_path / "typo")
    assert told.code == 0
    lines = told.err.splitlines()
    assert lines[0].startswith(f"left out: {going} is not finished: its last validation is that of epoch 1.")
    assert lines[1].startswith(f"left out: {begun} is not finished: its last validation is that of epoch 0.")
    assert lines[2].startswith(f"left out: {damaged} is no run folder of train.py, or damaged")
    assert lines[3].startswith(f"left out: {lost} is no run folder of train.py, or damaged")
    assert lines[4] == f"left out: {sdc} is no run of train.py, but of another command."
    assert lines[5].startswith(f"left out: {tmp_path / 'typo'} is no run folder of train.py, or damaged")
    assert len(lines) == 6
    alone = compare(going)
    assert (alone.code, alone.err.count("\n")) == (1, 2)
    assert "error: no finished run is left to compare" in alone.err


@pytest.mark.parametrize(("minutes", "finished"), [(4.9, False), (5.1, True)])
def test_a_run_of_so_many_minutes_is_finished_when_they_have_passed(tmp_path, compare, minutes, finished):
    run = write_run(tmp_path / "a", 0, 0.5, "--max_minutes", "5", epochs=1)
    row = {"kind": "val", "epoch": 1, "mean_iou": 0.5, "minutes": minutes}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert compare(run).code == (0 if finished else 1)


def test_a_training_records_what_a_comparison_needs(tiny_set, tmp_path, command, monkeypatch):
    train(tiny_set, tmp_path, "--test_mode", "--exp", "a")
    folder = tmp_path / "ckpt" / "a_test_mode"
    (start,) = json.loads((folder / "config.json").read_text())["starts"]
    assert (start["processes"], start["numbers"]) == (1, "float32")
    assert {"torch", "python", "numpy"} <= set(start["versions"])
    ended = command("training.compare", folder, "--out", tmp_path)
    assert (tmp_path / "comparison.csv").is_file()
    assert "Bicyclist" in ended.out and f"data {start['data']}" in ended.out
    monkeypatch.setattr("training.run_log.commit", lambda _: "later")
    train(tiny_set, tmp_path, "--test_mode", "--exp", "a", "--resume")
    starts = json.loads((folder / "config.json").read_text())["starts"]
    assert starts == [start, start | {"commit": "later"}]


def test_a_copy_of_the_data_has_the_same_fingerprint_and_another_file_has_not(tmp_path):
    spec, prints = dataset_spec("camvid"), []
    for folder, size in (("a", 3), ("b", 3), ("c", 4)):
        image, labels = tmp_path / folder / "x.png", tmp_path / folder / "x_labels.png"
        image.parent.mkdir()
        image.write_bytes(b"0" * size)
        labels.write_bytes(b"0")
        prints.append(data_fingerprint(spec, [Sample("x", image, labels)], []))
    assert prints[0] == prints[1] != prints[2]


def test_the_commit_says_whether_files_were_changed(tmp_path):
    assert commit(tmp_path) is None
    (tmp_path / "code.py").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = commit(tmp_path)
    assert clean and not clean.endswith("-dirty")
    (tmp_path / "code.py").write_text("2")
    assert commit(tmp_path) == f"{clean}-dirty"
