"""Street scenes drawn from a seed: a small embedded data set with exact labels, depth, flow and visibility.

`write_streets` puts such a set on disk in the folder form of CamVid; `build_scene` and `render_frame` give
single frames. Nothing here imports torch.
"""

from datasets.synthetic.motion import render_frame
from datasets.synthetic.render import Frame
from datasets.synthetic.scene import Scene, build_scene
from datasets.synthetic.write import write_streets

__all__ = ["Frame", "Scene", "build_scene", "render_frame", "write_streets"]
