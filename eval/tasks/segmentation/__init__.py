"""Semantic segmentation: every pixel's class from an encoder's maps, by the published protocols."""
