"""Measures of generated images; docs/metrics.md has them on one page.

FID, KID and the Inception Score need `fastgan[metrics]`.
"""

from .digits import DigitScore, LeNet, digit_accuracy, score_digits, train_lenet
from .domains import domain_classifier
from .evaluate import METRICS, Options, evaluate, real_statistics
from .features import FeatureNetwork, Features, NonFiniteImagesError
from .nearest import Nearest, nearest_real
from .ngrams import jensen_shannon, ngram_counts
from .patterns import pattern_divergence
from .prdc import PRDC, prdc
from .pretrained import get_network
from .reconstruction import Reconstruction, sharpness, video_luma
from .score import LOWER_IS_BETTER, Score, difference, load_scores, save_scores
from .sliced import sliced_distance
from .sokoban import playable
from .two_sample import area_under_curve, two_sample_auc, wasserstein

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "PRDC",
    "DigitScore",
    "FeatureNetwork",
    "Features",
    "LeNet",
    "Nearest",
    "NonFiniteImagesError",
    "Options",
    "Reconstruction",
    "Score",
    "area_under_curve",
    "difference",
    "digit_accuracy",
    "domain_classifier",
    "evaluate",
    "get_network",
    "jensen_shannon",
    "load_scores",
    "nearest_real",
    "ngram_counts",
    "pattern_divergence",
    "playable",
    "prdc",
    "real_statistics",
    "save_scores",
    "score_digits",
    "sharpness",
    "sliced_distance",
    "train_lenet",
    "two_sample_auc",
    "video_luma",
    "wasserstein",
]
