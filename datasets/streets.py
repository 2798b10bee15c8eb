"""Streets: scenes that this project draws itself (`datasets/synthetic`), with CamVid's classes and folders."""

from dataclasses import replace

from datasets import camvid

SPEC = replace(camvid.SPEC, name="streets", title="Streets, drawn by this project")
