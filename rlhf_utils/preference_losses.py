r"""What a policy can learn from a pair of responses without a reward model: DPO's loss and its relatives.

Every loss here looks at the same four numbers, the log-probabilities of the chosen and of the rejected response under
the policy and under the reference, and pulls their difference up. They differ in how far.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_utils.reward import pairwise_loss


def dpo_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, kl_coef: float) -> Tensor:
    r"""Negative log-likelihood of the choices under Bradley–Terry with the implicit reward, in nats.

    .. math:: L = -\frac1B \sum_b \log\sigma\left(\beta\,\Delta(x_b, y^+_b) - \beta\,\Delta(x_b, y^-_b)\right), \qquad
              \Delta(x, y) = \log\frac{\pi(y \mid x)}{\pi_\mathrm{ref}(y \mid x)}

    With the margin m, the argument of σ, a pair's gradient is
    :math:`-\beta\,\sigma(-m)\,(\nabla\log\pi(y^+) - \nabla\log\pi(y^-))`: what is ranked right by far moves nothing.
    Rafailov et al. (2023), equation 7.

    Args:
        chosen_logratios: Δ of whole chosen responses, (B,); the gradient goes through it.
        rejected_logratios: Δ of the rejected ones, (B,).
        kl_coef: β, above 0.
    """
    return pairwise_loss(kl_coef * chosen_logratios, kl_coef * rejected_logratios)


def ipo_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, kl_coef: float) -> Tensor:
    r"""Squared distance of the difference of log-ratios from a fixed goal.

    .. math:: L = \frac1B \sum_b \left(\Delta(x_b, y^+_b) - \Delta(x_b, y^-_b) - \frac{1}{2\beta}\right)^2

    Where annotators never disagree, DPO's margin grows without end, whatever β; this one stops at :math:`1/(2\beta)`
    nats. Azar et al. (2024), arXiv 2310.12036, equation 17.

    Args:
        chosen_logratios: Δ of whole chosen responses, (B,); the gradient goes through it.
        rejected_logratios: Δ of the rejected ones, (B,).
        kl_coef: β (the paper's τ), above 0.
    """
    return (chosen_logratios - rejected_logratios - 1 / (2 * kl_coef)).square().mean()


def kto_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, kl_coef: float, kl: Tensor) -> Tensor:
    r"""Loss of single judgements, good or bad; no pairs are needed, and here each pair counts as one of either.

    .. math:: L = \frac{1}{2B} \sum_b \left[1 - \sigma(\beta\Delta(x_b, y^+_b) - \beta z)\right]
              + \left[1 - \sigma(\beta z - \beta\Delta(x_b, y^-_b))\right]

    z is the divergence of the policy from the reference, estimated without gradient: what a good response must exceed
    and a bad one stay below. Ethayarajh et al. (2024), arXiv 2402.01306, with both weights 1.

    Args:
        chosen_logratios: Δ of whole good responses, (B,); the gradient goes through it.
        rejected_logratios: Δ of the bad ones, (B,).
        kl_coef: β, above 0.
        kl: z, a scalar at least 0.
    """
    good = torch.sigmoid(kl_coef * (chosen_logratios - kl))
    bad = torch.sigmoid(kl_coef * (kl - rejected_logratios))
    return (1 - torch.cat([good, bad])).mean()


def simpo_loss(chosen_means: Tensor, rejected_means: Tensor, scale: float, margin: float) -> Tensor:
    r"""Bradley–Terry on the mean log-probability of a token; there is no reference.

    .. math:: L = -\frac1B \sum_b \log\sigma\left(\frac{\beta}{|y^+_b|}\log\pi(y^+_b \mid x_b)
              - \frac{\beta}{|y^-_b|}\log\pi(y^-_b \mid x_b) - \gamma\right)

    Meng et al. (2024), arXiv 2405.14734, equation 6.

    Args:
        chosen_means: mean log-probability of a token of the chosen responses, (B,); the gradient goes through it.
        rejected_means: of the rejected ones, (B,).
        scale: β of the paper, which is not a price of divergence.
        margin: γ, by how much the chosen one should win.
    """
    return -F.logsigmoid(scale * (chosen_means - rejected_means) - margin).mean()


def orpo_loss(chosen_means: Tensor, rejected_means: Tensor, weight: float) -> Tensor:
    r"""SFT on the chosen responses, and a term that sets the odds of chosen and rejected apart; no reference.

    .. math:: L = \frac1B \sum_b \left[-\bar\ell^+_b - \lambda \log\sigma\left(
              \log\frac{p^+_b}{1 - p^+_b} - \log\frac{p^-_b}{1 - p^-_b}\right)\right], \qquad p = e^{\bar\ell}

    with :math:`\bar\ell` the mean log-probability of a response's tokens. Hong et al. (2024), arXiv 2403.07691,
    equations 6 and 7.

    Args:
        chosen_means: :math:`\bar\ell` of the chosen responses, (B,), below 0; the gradient goes through it.
        rejected_means: of the rejected ones, (B,).
        weight: λ.
    """

    def log_odds(mean: Tensor) -> Tensor:
        return mean - torch.log1p(-mean.exp())

    return (-chosen_means - weight * F.logsigmoid(log_odds(chosen_means) - log_odds(rejected_means))).mean()
