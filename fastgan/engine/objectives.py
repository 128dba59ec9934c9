"""What a run minimises: the configuration of each objective, and the step that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import nn

from fastgan.checks import check_choice, check_int
from fastgan.data.conditions import ConditionName
from fastgan.engine.autoencoding import VAEGANStep, VAEStep, autoencoder_step
from fastgan.engine.config import MAX_STEPS, TrainConfig, check_number
from fastgan.engine.cycling import CycleStep
from fastgan.engine.gan import UpdateRule
from fastgan.engine.language import language_step
from fastgan.engine.latents import takes_no_noise
from fastgan.engine.records import RecordError, build
from fastgan.engine.step import Step, gan_step
from fastgan.engine.styling import StyleObjective
from fastgan.engine.translating import TranslationStep
from fastgan.engine.vocoding import VocoderStep
from fastgan.nn.mel import LogMel

# Of an image buffer: whole ones are copied into each checkpoint.
MAX_IMAGES = 10_000
_BatchNorm = nn.modules.batchnorm._BatchNorm
# Losses whose slope on a fake's logit is nowhere zero in the discriminator's loss.
_ONE_STAGE_LOSSES = ("non_saturating", "saturating", "wasserstein")


@dataclass(frozen=True)
class GANObjective:
    """A generator against a discriminator."""

    objective: Literal["gan"] = "gan"
    """What the recipe's networks are trained for."""
    update_rule: UpdateRule = "alternating"
    """alternating; simultaneous, both gradients at the same weights; one_stage, the same from one
    backward pass, for discriminators without batch norm."""
    reconstruction_weight: float = 0.0
    """Weight of the discriminator's reconstruction of real images in its loss, of a discriminator
    that has decoders (few_shot_discriminator)."""

    def __post_init__(self) -> None:
        check_choice("update_rule", self.update_rule, get_args(UpdateRule))
        check_number("reconstruction_weight", self.reconstruction_weight)

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return gan_step

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if discriminator is None:
            raise ValueError("objective gan needs a discriminator, got None")
        if takes_no_noise(generator) and not config.conditional:
            raise ValueError(
                f"{type(generator).__name__} takes conditions alone: objective translation makes "
                "them, or conditional takes the data's"
            )
        if self.reconstruction_weight:
            if not hasattr(discriminator, "forward_with_reconstruction"):
                raise ValueError(
                    "reconstruction_weight needs a discriminator with decoders, such as "
                    f"few_shot_discriminator, got {type(discriminator).__name__}"
                )
            if config.conditional or config.joint_batch:
                raise ValueError("reconstruction_weight takes no conditional or joint_batch")
        if self.update_rule != "alternating" and not config.share_fakes:
            raise ValueError(f"update_rule {self.update_rule} shares the fakes: share_fakes is off")
        if self.update_rule != "one_stage":
            return
        if any(isinstance(layer, _BatchNorm) for layer in discriminator.modules()):
            raise ValueError(
                "update_rule one_stage needs a discriminator that treats images apart: "
                "this one has batch norm (simultaneous works with any)"
            )
        if config.loss not in _ONE_STAGE_LOSSES or config.smooth_fake:
            raise ValueError(
                f"update_rule one_stage works with the losses {', '.join(_ONE_STAGE_LOSSES)} "
                f"without smooth_fake, got {config.loss}"
            )


@dataclass(frozen=True)
class AutoencoderObjective:
    """Encoder and decoder, by the squared error of reconstructions."""

    objective: Literal["autoencoder"] = "autoencoder"
    """What the recipe's networks are trained for."""
    encodes: ClassVar[str] = "encode"

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return autoencoder_step

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if not hasattr(generator, self.encodes):
            raise ValueError(
                f"objective {self.objective} needs a generator with an encoder, such as "
                f"fastgan.models.Autoencoder, got {type(generator).__name__}"
            )


@dataclass(frozen=True)
class VAEObjective(AutoencoderObjective):
    """A variational autoencoder: minus the evidence lower bound."""

    objective: Literal["vae"] = "vae"  # type: ignore[assignment]
    """What the recipe's networks are trained for."""
    kl_weight: float = 1.0
    """β, the weight of the KL divergence."""
    kl_warmup: int = 0
    """Updates over which that weight rises from 0."""
    binarize: bool = False
    """Draw every pixel of the images anew in each step, black or white by its brightness."""
    encodes: ClassVar[str] = "posterior"

    def __post_init__(self) -> None:
        check_number("kl_weight", self.kl_weight)
        check_int("kl_warmup", self.kl_warmup, 0, MAX_STEPS)

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return VAEStep(self.kl_weight, self.kl_warmup, self.binarize)


@dataclass(frozen=True)
class VAEGANObjective(AutoencoderObjective):
    """A variational autoencoder whose reconstructions a discriminator compares."""

    objective: Literal["vae_gan"] = "vae_gan"  # type: ignore[assignment]
    """What the recipe's networks are trained for."""
    kl_weight: float = 1.0
    """β, the weight of the KL divergence."""
    kl_warmup: int = 0
    """Updates over which that weight rises from 0."""
    feature_weight: float = 1e-3
    """The reconstruction's weight in the decoder's loss."""
    encodes: ClassVar[str] = "posterior"

    def __post_init__(self) -> None:
        check_number("kl_weight", self.kl_weight)
        check_number("feature_weight", self.feature_weight)
        check_int("kl_warmup", self.kl_warmup, 0, MAX_STEPS)

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return VAEGANStep(self.kl_weight, self.kl_warmup, self.feature_weight)

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if discriminator is None:
            raise ValueError("objective vae_gan needs a discriminator, got None")
        super().check(config, generator, discriminator)
        if not hasattr(discriminator, "features"):
            raise ValueError(
                "objective vae_gan needs a discriminator with features, such as "
                f"dcgan_discriminator, got {type(discriminator).__name__}"
            )
        given = {"accumulate": 1, "regularizer": "none", "augment": "none"}
        for name, none in given.items():
            if getattr(config, name) != none:
                raise ValueError(
                    f"objective vae_gan takes no {name}: it must be {none}, got "
                    f"{getattr(config, name)}"
                )


@dataclass(frozen=True)
class TranslationObjective:
    """A generator that is given something of each image and is to make the image of it."""

    objective: Literal["translation"] = "translation"
    """What the recipe's networks are trained for."""
    condition: ConditionName = "grey"
    """What the generator is given: pairs, the other halves of data in pairs (with conditional); or,
    made of each image: its luma, its edges, the image at a half or a quarter of its sides, or with
    a hole of a box or of strokes."""
    content_weight: float = 100.0
    """Weight of the mean absolute error in the generator's loss."""
    feature_weight: float = 0.0
    """Weight of the mean absolute error of the discriminator's features."""
    adversarial_weight: float = 1.0
    """Weight of the adversarial loss; 0 trains the generator alone."""

    def __post_init__(self) -> None:
        check_choice("condition", self.condition, get_args(ConditionName))
        for name in ("content_weight", "feature_weight", "adversarial_weight"):
            check_number(name, getattr(self, name))

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return TranslationStep(
            self.condition, self.content_weight, self.feature_weight, self.adversarial_weight
        )

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if not takes_no_noise(generator):
            raise ValueError(
                "objective translation needs a generator that takes conditions alone (latent_dim "
                f"0), such as unet, got {type(generator).__name__}"
            )
        if (self.condition == "pairs") != config.conditional:
            raise ValueError(
                "condition pairs is of data in pairs, which conditional gives to the networks: set "
                f"both or neither, got condition {self.condition}, conditional {config.conditional}"
            )
        if bool(self.adversarial_weight) != (discriminator is not None):
            raise ValueError(
                "adversarial_weight must be 0 without a discriminator, and above 0 with one, got "
                f"{self.adversarial_weight} and {type(discriminator).__name__}"
            )
        if self.feature_weight and not hasattr(discriminator, "features"):
            raise ValueError(
                "feature_weight needs a discriminator with features, such as "
                f"patch_discriminator, got {type(discriminator).__name__}"
            )
        if config.augment != "none":
            raise ValueError(
                "objective translation takes no augment: images would no longer be those of their "
                "conditions"
            )


@dataclass(frozen=True)
class VocoderObjective:
    """A generator that is given the log-mel spectrogram of each sound and is to make the sound."""

    objective: Literal["vocoder"] = "vocoder"
    """What the recipe's networks are trained for."""
    mel_weight: float = 45.0
    """Weight of the mean absolute error of log-mel spectrograms in the generator's loss."""
    feature_weight: float = 2.0
    """Weight of the error of the discriminator's feature maps: the sum of the mean absolute errors
    of all of them."""
    adversarial_weight: float = 16.0
    """Weight of the adversarial loss, a mean over all logits: 16 makes of the mean over
    eight discriminators, with the half that lsgan has, their sum. 0 trains the generator by
    spectrograms alone."""

    def __post_init__(self) -> None:
        for name in ("mel_weight", "feature_weight", "adversarial_weight"):
            check_number(name, getattr(self, name))

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        mel: Any = generator.mel
        return VocoderStep(mel, self.mel_weight, self.feature_weight, self.adversarial_weight)

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if not isinstance(getattr(generator, "mel", None), LogMel):
            raise ValueError(
                "objective vocoder needs a generator that takes log-mel spectrograms, such as "
                f"hifigan_generator, got {type(generator).__name__}"
            )
        if not hasattr(discriminator, "forward_with_features"):
            raise ValueError(
                "objective vocoder needs a discriminator that gives its feature maps, such as "
                f"hifigan_discriminator, got {type(discriminator).__name__}"
            )
        if config.conditional or config.augment != "none":
            raise ValueError("objective vocoder takes no conditional or augment")


@dataclass(frozen=True)
class CycleObjective:
    """Two generators between two domains without pairs, each the other's way back."""

    objective: Literal["cycle"] = "cycle"
    """What the recipe's networks are trained for."""
    cycle_weight: float = 5.0
    """Weight of the mean absolute error of images that went both ways: the paper's 10, for the loss
    against the discriminators is half of its."""
    identity_weight: float = 2.5
    """Weight of the mean absolute error between images and what is made of them as if they were of
    the other domain, which keeps colours; 0 leaves it out."""
    image_buffer: int = 50
    """Generated images of earlier steps that are kept: half of what the discriminators are shown;
    0 shows them those of the step."""

    def __post_init__(self) -> None:
        for name in ("cycle_weight", "identity_weight"):
            check_number(name, getattr(self, name))
        check_int("image_buffer", self.image_buffer, 0, MAX_IMAGES)

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return CycleStep(item, self.cycle_weight, self.identity_weight, self.image_buffer)

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if not hasattr(generator, "forth") or discriminator is None:
            raise ValueError(
                "objective cycle needs a generator of both ways and a discriminator, such as "
                "cycle_generator and cycle_discriminator, got "
                f"{type(generator).__name__} and {type(discriminator).__name__}"
            )
        if config.conditional or config.augment != "none":
            raise ValueError("objective cycle takes no conditional and no augment")


@dataclass(frozen=True)
class LanguageObjective:
    """A language model, by the likelihood of each character."""

    objective: Literal["language"] = "language"
    """What the recipe's networks are trained for."""

    def step(self, generator: nn.Module, item: Sequence[int]) -> Step:
        return language_step

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        if not hasattr(generator, "logits") or not hasattr(generator, "characters"):
            raise ValueError(
                "objective language needs a language model, such as fastgan.models.TextRNN, got "
                f"{type(generator).__name__}"
            )


Objective = (
    GANObjective
    | AutoencoderObjective
    | VAEObjective
    | VAEGANObjective
    | TranslationObjective
    | VocoderObjective
    | CycleObjective
    | StyleObjective
    | LanguageObjective
)
OBJECTIVES: dict[str, type[Objective]] = {
    "gan": GANObjective,
    "autoencoder": AutoencoderObjective,
    "vae": VAEObjective,
    "vae_gan": VAEGANObjective,
    "translation": TranslationObjective,
    "vocoder": VocoderObjective,
    "cycle": CycleObjective,
    "style": StyleObjective,
    "language": LanguageObjective,
}


def objective_of(facts: Mapping[str, Any]) -> Objective:
    """The objective of the run that ``facts`` describe.

    Raises:
        RecordError: they name none, or one with a setting that is not its own.
    """
    # A configuration of before objectives had their own held all of them.
    values = facts.get("objective", facts.get("config", {}))
    name = values.get("objective", "gan")
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise RecordError(
            f"field objective must be one of {', '.join(OBJECTIVES)}, got {name!r:.80}"
        )
    return build(OBJECTIVES[name], values, "objective")


def changed_objective(saved: Mapping[str, Any], now: Objective) -> list[str]:
    """What ``now`` would change in the run that ``saved`` describes, an entry a setting."""
    theirs, ours = dataclasses.asdict(objective_of(saved)), dataclasses.asdict(now)
    return [
        f"{name}: {theirs.get(name)!r} in the checkpoint, {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
