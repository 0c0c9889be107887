"""Code that Ray runs: experts by Ray Train, distillations by Ray Tune, features by Ray Data.

Each module is thin: it unpacks its input, calls raydd's stages, and reports.
"""
