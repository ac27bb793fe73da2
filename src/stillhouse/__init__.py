"""Run a vision teacher once, distil any number of students from the stored features."""

__version__ = "0.1.0"
