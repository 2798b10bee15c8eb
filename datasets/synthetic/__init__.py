"""Street scenes drawn from a seed: a small embedded data set with exact labels, depth, flow and visibility.

`write.write_streets` writes such a set to disk in CamVid's folder layout; `scene.build_scene` and
`motion.render_frame` give single frames. Nothing here imports torch.
"""
