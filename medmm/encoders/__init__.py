"""Torch encoders, one file per kind of input; each has an integer attribute ``out_features``."""
