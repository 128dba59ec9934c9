"""The filter bank and its gains."""

from __future__ import annotations

import torch

from fastgan.augment._bands import POWER, filter_bands, keep_power, make_bank

BANK = make_bank()


def test_the_bands_add_up_to_the_image() -> None:
    pulse = torch.zeros(BANK.shape[1], dtype=torch.float64)
    pulse[BANK.shape[1] // 2] = 1
    torch.testing.assert_close(BANK.sum(0), pulse)
    torch.testing.assert_close(BANK, BANK.flip(1))


def test_every_band_has_its_octave() -> None:
    response = torch.fft.rfft(BANK, 512).abs()  # 257 frequencies up to the highest
    frequency = torch.arange(257) / 256
    for band, (low, high) in enumerate([(0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1)]):
        centre = response[:, int((low + high) * 128)]
        assert centre.argmax() == band
        inside = (frequency >= low) & (frequency <= high)
        power = response[band].square()
        assert power[inside].sum() > 0.7 * power.sum()
    # A constant is of the lowest band alone, the highest frequency of the highest.
    torch.testing.assert_close(BANK.sum(1), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    alternating = (-1.0) ** (torch.arange(BANK.shape[1]) - BANK.shape[1] // 2)
    expected = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    torch.testing.assert_close((BANK * alternating).sum(1), expected)


def test_gains_act_on_each_image_and_both_directions() -> None:
    gains = torch.tensor([[2.0, 5, 5, 0.5], [3.0, 7, 7, 0.25], [1.5, 1.5, 1.5, 1.5]]).double()
    images = torch.ones(3, 2, 8, 6, dtype=torch.float64)
    images[2] = torch.randn(2, 8, 6)
    filtered = filter_bands(images, gains, BANK)
    for i in range(2):
        torch.testing.assert_close(filtered[i], images[i] * gains[i, 0] ** 2)
    torch.testing.assert_close(filtered[2], images[2] * 1.5**2)


def test_gains_are_rescaled_after_each_change() -> None:
    gains = torch.randn(5, 4).exp2()
    expected = torch.ones(5, 4)
    for band in range(4):
        change = torch.ones(5, 4)
        change[:, band] = gains[:, band]
        expected *= change / (POWER * change.square()).sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(keep_power(gains, POWER), expected)
