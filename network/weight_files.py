"""Read what a file of weights holds, without running code from it; of any other kind of file, say what it is."""

from __future__ import annotations

import contextlib
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import safe_open

SAFETENSORS = ".safetensors"
NOTE = "kerbline"  # what describes the network in such a file's metadata, as JSON
DAMAGED = "truncated or damaged; copy or download it again"

_ORIGINAL = "Use the PyTorch checkpoint that it was made from, or copy its weights into one."
_AGAIN = "Download the file itself, not the page that shows it, and compare its size."
_CONVERT = "Convert it: torch.save({}, OTHER_FILE)."
_UNPACK = "Unpack it and name the file inside."

# How files begin that are taken for weights, what they are, and the way out.
_HEADS = (
    (rb"version https://git-lfs", "a git-lfs pointer, not the file that it points to. Fetch that: git lfs pull."),
    (rb"\s*<(!doctype|html|head)", f"a web page. {_AGAIN}"),
    (rb"\s*<", f"XML text, as a server sends instead of a file. {_AGAIN}"),
    (rb"\s*\{.*\"weight_map\"", "the index of weights in several files. Merge them into one state_dict."),
    (rb"\s*[\{\[]\s*[\"\{\[]", f"JSON text. {_AGAIN}"),
    (rb"\x89HDF", f"an HDF5 file (.h5), as Keras writes it. {_ORIGINAL}"),
    (rb"\x08\x01\x12", f"a TensorFlow SavedModel. {_ORIGINAL}"),
    (rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]", f"an ONNX network. {_ORIGINAL}"),
    (rb".{4}TFL3", f"a TensorFlow Lite network. {_ORIGINAL}"),
    (rb"\x80[\x03-\x05]", f"a Python pickle that torch.save did not write; it could run code. {_ORIGINAL}"),
    (rb"GGUF|\x93NUMPY", f"weights in another format. {_ORIGINAL}"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", f"a packed archive. {_UNPACK}"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF|.{4}ftyp|%PDF", "a picture, a film or a document. Name a file of weights."),
)
_SUFFIXES = {
    ".onnx": "an ONNX network",
    ".pb": "a TensorFlow graph",
    ".index": "part of a TensorFlow checkpoint",
    ".data-00000-of-00001": "part of a TensorFlow checkpoint",
    ".mlmodel": "a Core ML network",
    ".caffemodel": "a Caffe network",
    ".msgpack": "a Flax checkpoint",
    ".pdparams": "a Paddle checkpoint",
    ".engine": "a TensorRT engine",
}
# The same of zip archives, by a name inside.
_MEMBERS = (
    (r"/code/|constants\.pkl$", "a TorchScript network. " + _CONVERT.format("torch.jit.load(FILE).state_dict()")),
    (r"archive_format$|exported_program", "a .pt2 program. " + _CONVERT.format("torch.export.load(FILE).state_dict")),
    (r"\.weights\.h5$", f"a Keras network (.keras). {_ORIGINAL}"),
    (r"\.npy$", f"a NumPy archive (.npz). {_ORIGINAL}"),
)


def read_weights(path: Path) -> dict[str, Any]:
    """What `torch.save` or safetensors wrote to `path`, on the CPU; never runs code from the file.

    From safetensors: the tensors as `state_dict`, and beside it what the file's note says (see NOTE). Raises
    FileNotFoundError, or ValueError if the file is of another kind, unsafe or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if path.is_dir():
        raise ValueError(f"{path} is {_folder_kind(path)}")
    try:
        if _is_safetensors(path):
            return _read_safetensors(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_numbers()):
            warnings.simplefilter("ignore")  # torch warns about a file that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise ValueError(f"{path}: {_problem(path, error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint: it holds a {type(content).__name__}.")
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with the length of a JSON header, 8 bytes, and that header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        note = json.loads((file.metadata() or {}).get(NOTE, "{}"))
        return {**note, "state_dict": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118


def _numpy_numbers() -> list[Any]:
    """What torch needs to read a NumPy number (a score, in published files): plain values, no code."""
    number = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    kinds = [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "?")]
    return [*((number, name) for name in names), np.dtype, *kinds]


def _folder_kind(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if "saved_model.pb" in names:
        return f"a TensorFlow SavedModel. {_ORIGINAL}"
    if "data.pkl" in names:
        return "a checkpoint that was unpacked like a zip archive; download it again without unpacking it."
    if ".metadata" in names:
        return "a distributed checkpoint. Merge it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch."
    files = [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".bin", SAFETENSORS))]
    return f"a folder; name a file in it, such as {files[0]}." if files else "a folder; expected a checkpoint file."


def _problem(path: Path, error: Exception) -> str:
    """What a file that could not be read is, and the way out."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    kind = next((kind for start, kind in _HEADS if re.match(start, head, re.DOTALL | re.IGNORECASE)), None)
    if not head:
        return "the file is empty; copy or download it again."
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        kind = _archive_kind(path)
    elif kind is None and path.suffix in _SUFFIXES:
        kind = f"{_SUFFIXES[path.suffix]}. {_ORIGINAL}"
    if kind is not None:
        return kind
    unsafe = isinstance(error, pickle.UnpicklingError) and "unsupported" in str(error).lower()
    if unsafe and head.startswith((b"PK", b"\x80\x02")):
        return _unsafe_kind(path, str(error))
    return "not a checkpoint, or damaged." if isinstance(error, pickle.UnpicklingError) else f"{DAMAGED}."


def _archive_kind(path: Path) -> str | None:
    """What a zip archive is; None for a file of `torch.save`."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    for pattern, kind in _MEMBERS:
        if any(re.search(pattern, name) for name in names):
            return kind
    if any(name.endswith("data.pkl") for name in names):
        return None
    return f"a zip archive{f' with {names[0]}' if names else ''}. {_UNPACK}"


def _unsafe_kind(path: Path, told: str) -> str:
    """What a pickle is that names more than tensors and plain values. told: what the unpickler said."""
    found = re.search(r"GLOBAL (\S+)", told)
    of_class = f" ({found[1]})" if found else ""
    if _is_object(path):
        kind, weights = f"is a whole pickled object{of_class}", ".state_dict()"
    else:
        kind, weights = f"contains objects{of_class} other than tensors and plain values", "['state_dict']"
    convert = _CONVERT.format(f"torch.load(FILE, weights_only=False){weights}")
    return f"refused, it {kind}, which could run code. If you trust it, c{convert[1:]}"


def _is_object(path: Path) -> bool:
    """Whether `torch.save` pickled an object of a class, and not a dictionary or list."""
    with contextlib.ExitStack() as stack, contextlib.suppress(ValueError, KeyError):
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            file: IO[bytes] = stack.enter_context(archive.open(name))
        else:  # as it wrote formerly: three pickles about the file come first
            file = stack.enter_context(path.open("rb"))
            for _ in range(3):
                list(pickletools.genops(file))
        for operation, argument, _ in pickletools.genops(file):
            if operation.name in ("GLOBAL", "EMPTY_DICT", "EMPTY_LIST"):
                return operation.name == "GLOBAL" and argument != "collections OrderedDict"
    return False
