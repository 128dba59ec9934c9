"""One GAN step as plain functions of tensors.

The step reads from top to bottom: :func:`gan_step`, then its phases. Nothing in it waits for the
device or draws on the host's state, so it can be captured in a CUDA graph as it stands. A step of
your own may use the phases or replace them: ``Trainer(..., step=my_step)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.gan import GAN, Batch, Metrics, Penalty
from fastgan.engine.outputs import DiscriminatorOutput
from fastgan.engine.update import frozen
from fastgan.nn import batches_counted_together
from fastgan.ops import packed_weights

Step = Callable[[GAN, Callable[[int], Batch], Sequence[Sequence[bool]]], Metrics]
GeneratorPhase = Callable[[GAN, Batch, Tensor | None], Metrics]
Shown = Callable[[Tensor, DistributedGroup], Tensor]


@packed_weights()
@batches_counted_together()
def gan_step(
    gan: GAN,
    batches: Callable[[int], Batch],
    due: Sequence[Sequence[bool]] = (),
    update_generator: GeneratorPhase | None = None,
    shown: Shown | None = None,
) -> Metrics:
    """``gan.discriminator_steps`` discriminator updates and one generator update.

    Args:
        batches: ``batches(i)`` gives the batch of the i-th discriminator update, and then, with
            ``share_fakes`` off, one more whose noise is the generator's.
        due: ``due[i][j]``: whether the i-th discriminator update applies the j-th penalty; by
            default it applies all.
        update_generator: in place of `generator_phase`, for a generator with further losses.
        shown: of fakes, what the discriminator is updated with; see `discriminator_phase`.

    Returns:
        Scalars that are left on the device: reading one waits for the step to end.
    """
    metrics: Metrics = {}
    with gan.updates_alone():
        for i in range(gan.discriminator_steps):
            last = i == gan.discriminator_steps - 1
            batch = batches(i)
            penalties = [p for j, p in enumerate(gan.penalties) if not due or due[i][j]]
            if last and gan.update_rule != "alternating":
                return metrics | simultaneous_phase(gan, batch, penalties)
            keep = last and gan.share_fakes and gan.accumulate == 1
            fakes, found = discriminator_phase(gan, batch, penalties, keep_graph=keep, shown=shown)
            metrics |= found
        if not gan.share_fakes:
            batch = batches(gan.discriminator_steps)
        return metrics | (update_generator or generator_phase)(gan, batch, fakes if keep else None)


def discriminator_phase(
    gan: GAN,
    batch: Batch,
    penalties: Sequence[Penalty] = (),
    *,
    keep_graph: bool = False,
    shown: Shown | None = None,
) -> tuple[Tensor, Metrics]:
    """One update of the discriminator; returns its fakes, with their graph if asked for.

    With ``shown`` it is updated with what that gives in place of the fakes, by the processes that
    train together: such as some of earlier steps.
    """
    on_logits = [p for p in penalties if getattr(p, "takes", "images") == "logits"]
    on_images = [p for p in penalties if p not in on_logits]
    gan.update_d.start(gan.accumulate * (1 + len(on_images)))
    metrics, seen = [], []
    for part in batch.split(gan.accumulate):
        with gan.autocast(gan.generator, gan.discriminator):
            with torch.set_grad_enabled(keep_graph):
                fakes = gan.generate(part)
            seen_fakes = fakes.detach() if shown is None else shown(fakes.detach(), gan.group)
            real, fake = gan.outputs_of_both(part, seen_fakes)
            loss, found = gan.loss_and_metrics(real.logits, fake.logits)
            loss = with_further(gan, loss, found, real, fake)
            for penalty in on_logits:
                value = penalty.penalty(real.logits, fake.logits)  # type: ignore[attr-defined]
                loss = loss + value * (penalty.weight * penalty.every)
                found[_penalty_name(penalty)] = value.detach()
        gan.update_d.backward(_part(gan, loss))
        metrics.append(found | penalty_phase(gan, part, seen_fakes, on_images))
        seen.append(real.logits.detach())
    gan.update_d.finish()
    gan.observe(seen)
    return fakes, mean_metrics(metrics)


def penalty_phase(gan: GAN, batch: Batch, fakes: Tensor, penalties: Sequence[Penalty]) -> Metrics:
    """Adds the gradients of the penalties that are due to the discriminator's.

    A penalty that is applied on every k-th update weighs k times as much, so that its mean is that
    of one applied always (lazy regularisation, Karras et al. 2020). With float16 it is computed in
    float32: the gradients inside it have no loss scale.
    """
    metrics = {}
    for penalty in penalties:
        # A difference of logits needs the same images in both of its passes, and float32.
        takes_seen = getattr(penalty, "takes", "images") == "augmented"
        real, fake = batch.images, fakes.to(batch.images.dtype)
        if takes_seen:
            real, fake = gan.augmented(real), gan.augmented(fake)
        logits_of = gan.logits_of if takes_seen else gan.discriminate
        float32 = takes_seen or gan.precision == "float16"
        with nullcontext() if float32 else gan.autocast():
            value = penalty(partial(_of_first, logits_of, batch.labels), real, fake)
        gan.update_d.backward(value * (penalty.weight * penalty.every / gan.accumulate))
        metrics[_penalty_name(penalty)] = value.detach()
    return metrics


def _of_first(
    logits_of: Callable[[Tensor, Tensor | None], Tensor], labels: Tensor | None, images: Tensor
) -> Tensor:
    """The logits of the first images of a batch, or of all."""
    return logits_of(images, None if labels is None else labels[: len(images)])


def generator_phase(gan: GAN, batch: Batch, fakes: Tensor | None = None) -> Metrics:
    """One update of the generator through ``fakes``, or through fakes of ``batch`` if None.

    The discriminator's weight gradients are not computed.
    """
    gan.update_g.start(gan.accumulate)
    metrics = []
    with frozen(gan.discriminator):
        for part in batch.split(gan.accumulate):
            with gan.autocast():
                images = gan.generate(part) if fakes is None else fakes
                output = gan.outputs(images, part.labels)
                real_logits = partial(gan.discriminate, part.images, part.labels)
                loss = gan.generator_loss(output.logits, real_logits)
                total = with_further(gan, loss, {}, output)
            gan.update_g.backward(_part(gan, total))
            metrics.append({"loss_g": loss.detach()})
    gan.update_g.finish()
    return mean_metrics(metrics)


def simultaneous_phase(gan: GAN, batch: Batch, penalties: Sequence[Penalty] = ()) -> Metrics:
    """Both networks' updates from gradients at the same weights, with one pass through each.

    one_stage (Shen et al. 2021): where each image has its own logit f, ∂L_G/∂x is ∂L_D/∂x times
    L_G'(f) / L_D'(f), so the discriminator's backward pass gives the generator's gradient too.
    """
    gan.update_d.start(gan.accumulate * (1 + len(penalties)))
    gan.update_g.start(gan.accumulate)
    metrics, reals = [], []
    for part in batch.split(gan.accumulate):
        with gan.autocast(gan.generator, gan.discriminator):
            fakes = gan.generate(part)
            seen = fakes.detach().requires_grad_()
            real, fake = gan.outputs_of_both(part, seen)
            loss_d, found = gan.loss_and_metrics(real.logits, fake.logits)
            loss_g = gan.generator_loss(fake.logits, real.logits.detach)
            found["loss_g"] = loss_g.detach()
            total_d = with_further(gan, loss_d, found, real, fake)
            total_g = with_further(gan, loss_g, {}, fake)
        if gan.update_rule == "one_stage":
            if fake.class_loss is not None:
                raise ValueError("update_rule one_stage has no place for class outputs")
            gan.update_d.backward(_part(gan, total_d))
            assert seen.grad is not None
            ratio = _one_stage_ratio(gan, real.logits, fake.logits)
            slope = (seen.grad * ratio.view(-1, *[1] * (seen.dim() - 1))).to(fakes.dtype)
        else:
            scaled = gan.update_g.scaled(_part(gan, total_g))
            (slope,) = torch.autograd.grad(scaled, seen, retain_graph=True)
            gan.update_d.backward(_part(gan, total_d), own_only=True)
        extra = penalty_phase(gan, part, fakes.detach(), penalties)
        gan.update_g.begin_pass()
        fakes.backward(slope)
        metrics.append(found | extra)
        reals.append(real.logits.detach())
    gan.update_d.finish()
    gan.update_g.finish()
    gan.observe(reals)
    return mean_metrics(metrics)


def _one_stage_ratio(gan: GAN, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_G'(f) / L_D'(f) for each image, and the ratio of the two networks' loss scales."""
    if fake_logits.dim() > 1 and fake_logits[0].numel() != 1:
        raise ValueError(
            "update_rule one_stage needs one logit an image, got logits of shape "
            f"{list(fake_logits.shape)}"
        )
    f = fake_logits.detach().float().flatten().requires_grad_()
    real_logits = real_logits.detach().float().flatten()
    with torch.enable_grad():
        (down,) = torch.autograd.grad(gan.loss.discriminator(real_logits, f), f)
        (up,) = torch.autograd.grad(gan.loss.generator(f), f)
    return up / down * (gan.update_g.scale / gan.update_d.scale)


def with_further(gan: GAN, loss: Tensor, found: Metrics, *outputs: DiscriminatorOutput) -> Tensor:
    """The loss and the weighted further losses that the outputs have, noted in ``found``."""
    further = {
        "loss_class": ([v.class_loss for v in outputs], gan.class_weight),
        "loss_reconstruction": (
            [v.reconstruction_loss for v in outputs],
            gan.reconstruction_weight,
        ),
    }
    for name, (losses, weight) in further.items():
        there = [value for value in losses if value is not None]
        if there:
            total = torch.stack(there).sum()
            found[name] = total.detach()
            loss = loss + total * weight
    return loss


def _part(gan: GAN, loss: Tensor) -> Tensor:
    """What a part of the batch adds to the loss."""
    return loss if gan.accumulate == 1 else loss / gan.accumulate


def mean_metrics(parts: list[Metrics]) -> Metrics:
    if len(parts) == 1:
        return parts[0]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def _penalty_name(penalty: Penalty) -> str:
    return str(getattr(penalty, "name", type(penalty).__name__.lower()))
