"""raydd: multimodal dataset distillation, from image-caption pairs to a tuned synthetic set.

The engine needs torch and numpy alone: `raydd.stages` composes it, `raydd.settings.load` makes its settings.
"""

__version__ = "0.1.0"
