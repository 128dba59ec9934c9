"""Measures of what a generator draws."""

from .digits import DigitScore, LeNet, digit_accuracy, score_digits, train_lenet

__all__ = ["DigitScore", "LeNet", "digit_accuracy", "score_digits", "train_lenet"]
