"""Monocular depth: heads on maps of an encoder, as DINOv2 and Proteus judge it."""
