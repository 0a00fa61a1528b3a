"""Exports to the formats of other programs: meshes, points, splats, volumes, images, video."""
