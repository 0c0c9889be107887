"""RepBlend and LoRS on pixels with all settings of their scripts, but encoded once every eight steps.

They are the rows of collapse.yaml, which measures modality collapse as RepBlend's Figure 2 does. A step uses the
features of the last encoding, and pixels move by the sum of the gradients of eight steps.
"""

from raydd.distill.methods import Method, find_method
from raydd.presets import PRESETS


def _on_pixels(name: str) -> Method:
    preset = PRESETS[name]
    settings = {setting: value for setting, value in preset.settings.items() if setting.startswith("distill.")}
    return Method(paper=find_method(preset.method).paper, settings={**settings, "distill.steps_per_encoding": 8})


REPBLEND, LORS = map(_on_pixels, ("repblend-flickr30k-100", "lors-flickr30k-100"))
