"""Street scenes drawn from a seed: a small embedded data set with exact labels, depth, flow and visibility.

`write.write_streets` puts such a set on disk in the folder form of CamVid; `scene.build_scene` and
`motion.render_frame` give single frames. Nothing here imports torch.
"""
