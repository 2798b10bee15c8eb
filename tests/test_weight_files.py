"""Files that hold weights are read; of a file that does not, it is said what it is and what to do."""

import argparse
import gzip
import json
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from network.checkpoint import load_checkpoint


def write_zip(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")


def write_tar(path):
    torch.save({"a": torch.ones(1)}, path.with_name("inside.pth"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_name("inside.pth"), "inside.pth")


def write_saved_model(path):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")


def write_program(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


INDEX = {"metadata": {}, "weight_map": {"a": "part-1.bin"}}
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x10" + bytes(64)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
OF_MODULE = "torch.save(torch.load(FILE, weights_only=False).state_dict(), OTHER_FILE)"
OF_ENTRY = "torch.save(torch.load(FILE, weights_only=False)['state_dict'], OTHER_FILE)"


@pytest.mark.parametrize(("write", "told"), [
    (lambda p: torch.jit.script(nn.Linear(2, 2)).save(str(p)), "a TorchScript network"),
    (write_program, "a .pt2 program. Convert it: torch.save(torch.export.load(FILE).state_dict, OTHER_FILE)"),
    (lambda p: torch.save(nn.Linear(2, 2), p), "a whole pickled object (torch.nn.modules.linear.Linear), which could"),
    (lambda p: torch.save(nn.Linear(2, 2), p), OF_MODULE),
    (lambda p: torch.save(nn.Linear(2, 2), p, _use_new_zipfile_serialization=False), OF_MODULE),
    (lambda p: torch.save({"state_dict": {}, "flags": argparse.Namespace(a=1)}, p), OF_ENTRY),
    (lambda p: p.write_bytes(pickle.dumps(nn.Linear(2, 2), protocol=4)), "a Python pickle that torch.save did not"),
    (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "an HDF5 file (.h5)"),
    (lambda p: write_zip(p, "metadata.json", "config.json", "model.weights.h5"), "a Keras network"),
    (lambda p: p.write_bytes(ONNX), "an ONNX network. Use the PyTorch checkpoint"),
    (write_saved_model, "a TensorFlow SavedModel"),
    (lambda p: p.write_bytes(POINTER), "a git-lfs pointer, not the file that it points to. Fetch that: git lfs pull"),
    (lambda p: p.write_text("\n<!DOCTYPE html>\n<html>"), "a web page. Download the file itself"),
    (lambda p: p.write_text('<?xml version="1.0"?><Error/>'), "XML text, as a server sends"),
    (lambda p: p.write_text('{"error": "not found"}'), "JSON text. Download the file itself"),
    (lambda p: p.write_text(json.dumps(INDEX, indent=1)), "the index of weights in several files"),
    (lambda p: p.write_bytes(gzip.compress(b"a")), "a packed archive. Unpack it"),
    (write_tar, "a packed archive. Unpack it"),
    (lambda p: write_zip(p, "best.pth"), "a zip archive with best.pth. Unpack it"),
    (lambda p: np.savez(p.open("wb"), a=np.zeros(2)), "a NumPy archive (.npz)"),
    (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "a picture"),
    (lambda p: p.write_bytes(b""), "the file is empty"),
    (lambda p: p.write_bytes(bytes(1000)), "truncated or damaged"),
    (lambda p: torch.save([torch.zeros(1)], p), "it holds a list"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_file_of_another_kind_is_called_what_it_is(write, told, tmp_path):
    path = tmp_path / "best.pth"
    write(path)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert ("damaged" in str(error.value)) == (told == "truncated or damaged")


@pytest.mark.parametrize(("names", "told"), [
    (["data.pkl", "version"], "unpacked like a zip archive"),
    ([".metadata", "__0_0.distcp"], "a distributed checkpoint. Merge it"),
    (["config.json", "last.pth"], "is a folder; name a file in it, such as last.pth"),
    (["notes.txt"], "is a folder; expected a checkpoint file"),
])  # fmt: skip
def test_a_folder_is_called_what_it_is(names, told, tmp_path):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=told):
        load_checkpoint(tmp_path)


def test_weights_are_found_in_the_only_entry_that_holds_tensors_alone(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "one.pth")
    assert list(load_checkpoint(tmp_path / "one.pth").state_dict) == ["a"]
    torch.save({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"several networks: model, ema. Keep one: torch.save\(torch.load"):
        load_checkpoint(tmp_path / "two.pth")


@pytest.mark.parametrize("content", [
    {"model": {"state_dict": {"a": torch.ones(1)}}, "epoch": 1},
    {"state": {"net": {"a": torch.ones(1)}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}},
    {"state_dict": {"net": {"a": torch.ones(1)}, "epoch": 3}},
    {"format": "pt", "state_dict": {"a": torch.ones(1)}},
    {"n_averaged": torch.tensor(3), "module.a": torch.ones(1)},  # torch.optim.swa_utils.AveragedModel
])  # fmt: skip
def test_weights_are_found_where_other_programs_keep_them(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert (list(checkpoint.state_dict), checkpoint.arch) == (["a"], None)


def test_of_nested_networks_each_is_named_by_its_place(tmp_path):
    torch.save({"state": {"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}}, tmp_path / "a.pth")
    told = r"networks: state.model, state.ema. Keep one: torch.save\(torch.load\(FILE\)\['state'\]\['model'\], OTHER"
    with pytest.raises(ValueError, match=told):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore")  # quantized tensors are deprecated, but files of them exist
@pytest.mark.parametrize(("make", "kind"), [
    (lambda: torch.eye(2).to_sparse(), "torch.sparse_coo"),
    (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8), "quantized"),
    (lambda: torch.empty(2, device="meta"), "empty"),
])  # fmt: skip
def test_a_tensor_of_another_kind_is_named(make, kind, tmp_path):
    torch.save({"a": torch.ones(1), "b": make()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a.pth: b is {kind}.*, not a plain tensor"):
        load_checkpoint(tmp_path / "a.pth")
