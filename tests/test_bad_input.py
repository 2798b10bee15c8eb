"""Bad input of which more than one line of a table is to be said; the table is in test_mistakes.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from datasets.specs.registry import dataset_spec
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import ROOT
from utils.command import one_line
from utils.files import UMASK, atomic_path


@pytest.fixture
def refused(command, light_checkpoint):
    """The line that a demo, told this, ends with."""

    def run(module: str, *arguments: object) -> str:
        ended = command(module, *arguments, "--snapshot", light_checkpoint)
        assert ended.code == 1
        return ended.err

    return run


def test_a_folder_without_images_is_told(refused, command, tmp_path):
    assert "no such folder" in refused("demo_folder", "--demo-folder", tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no picture")
    assert "contains no images" in refused("demo_folder", "--demo-folder", tmp_path)
    assert "contains no images" in command("Pixel_percentage", tmp_path).err


def test_the_demo_for_one_picture_names_the_way_for_folders_and_videos(refused, tmp_path):
    (tmp_path / "drive.mp4").touch()
    assert "is a folder" in refused("demo", "--demo-image", tmp_path)
    assert "--demo-video" in refused("demo", "--demo-image", tmp_path / "drive.mp4")
    assert "is a file" in refused("demo_folder", "--demo-folder", tmp_path / "drive.mp4")


def test_a_checkpoint_for_a_data_set_not_known_here(command, light_checkpoint, tmp_path):
    described = load_checkpoint(light_checkpoint)
    classes = dataset_spec("camvid").classes
    save_checkpoint(tmp_path / "moon.pth", Checkpoint(
        state_dict=described.state_dict, arch=described.arch, dataset="moon", classes=classes))  # fmt: skip
    ended = command("eval", "--snapshot", tmp_path / "moon.pth", "--dataset_dir", tmp_path)
    assert ended.code == 1
    assert "'moon'" in ended.err


@pytest.mark.parametrize("told", [(28, "No space left on device"), ("900 requested and 100 written",)])
def test_a_full_disk_is_told_with_the_file_that_has_no_room(tmp_path, told):
    with pytest.raises(OSError, match=told[-1]) as raised, atomic_path(tmp_path / "a.png"):
        raise OSError(*told)  # as write() and NumPy raise it, without a name
    assert one_line(raised.value) == f"{tmp_path / 'a.png'}: {told[-1]}"
    assert not list(tmp_path.iterdir())


def test_who_may_read_a_result_is_found_out_without_touching_what_other_threads_write(tmp_path, monkeypatch):
    monkeypatch.setattr("os.umask", lambda _: pytest.fail("it holds for all threads"))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~UMASK


def test_a_process_ends_with_one_line_and_debug_shows_the_traceback(command, light_checkpoint, tmp_path):
    words = ["--demo-image", str(tmp_path / "none.jpg"), "--snapshot", str(light_checkpoint)]
    ended = subprocess.run([sys.executable, "demo.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "none.jpg" in ended.stderr
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        command("demo", *words, "--debug")
