"""What Ray runs: experts by Ray Train, distillations by Ray Tune. Thin: each unpacks, calls raydd's stages, reports."""
