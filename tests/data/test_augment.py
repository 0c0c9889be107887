import threading

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.data.augment import open_pixels, transform_of, views_of
from raydd.data.images import FileImage


def photograph(seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((70, 50), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("augment", ["published", "mild"])
def test_a_view_depends_on_seed_view_and_image_alone(augment) -> None:
    transform, image = transform_of(augment, 32), photograph()
    views = views_of(image, transform, 6, seed=3, index=11)
    assert (views.shape, views.dtype) == ((6, 3, 32, 32), torch.uint8)
    torch.manual_seed(123)
    torch.rand(17)
    assert torch.equal(views_of(image, transform, 4, seed=3, index=11), views[:4])
    assert len({tuple(view.flatten().tolist()) for view in views}) == 6
    assert not torch.equal(views_of(image, transform, 1, seed=4, index=11), views[:1])
    assert not torch.equal(views_of(image, transform, 1, seed=3, index=12), views[:1])


def test_the_random_state_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    views_of(photograph(), transform_of("published", 16), 3, seed=0, index=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_process_draws_the_same_views() -> None:
    images = [photograph(seed) for seed in range(4)]

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> torch.Tensor:
            return views_of(images[index], transform_of("published", 16), 2, seed=5, index=index)

    here = list(torch.utils.data.DataLoader(Views(), batch_size=None))
    there = list(torch.utils.data.DataLoader(Views(), batch_size=None, num_workers=2))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert threading.active_count() < 50  # workers are gone


def test_mild_is_a_crop_of_at_least_half_and_a_flip() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 250, dtype=np.uint8), (250, 1))).convert("RGB")
    views = views_of(ramp, transform_of("mild", 32), 40, seed=0, index=0).float()
    rows = views[:, 0, 16]
    spans = (rows[:, -1] - rows[:, 0]).abs()
    assert spans.min() > 0.5 * 0.75**0.5 * 225  # half the area at the widest aspect ratio, less the border pixels
    assert 5 < int((rows[:, -1] < rows[:, 0]).sum()) < 35


def test_none_is_the_plain_bicubic_resize() -> None:
    image = photograph()
    want = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    (view,) = views_of(image, transform_of("none", 24), 1, seed=0, index=0)
    assert np.array_equal(view.permute(1, 2, 0).numpy(), want)


def test_pixels_of_files(tmp_path) -> None:
    for seed in range(2):
        photograph(seed).save(tmp_path / f"{seed}.png")
    pixels = open_pixels([FileImage(str(seed), str(tmp_path / f"{seed}.png")) for seed in range(2)], 24)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 24, 24), torch.uint8)
    assert np.array_equal(pixels[1].permute(1, 2, 0).numpy(), np.asarray(photograph(1).resize((24, 24), 3)))
