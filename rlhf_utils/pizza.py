r"""A pizza robot: a Markov decision process that is small enough to be written down whole.

The robot takes five decisions of three choices each: crust, sauce, cheese, topping, time in the oven. The nozzle for
sauce and cheese drips one portion more than asked with probability 0.2, so an action doesn't settle what comes next.
Five lights reward a pizza that follows the sheet, one after each step. At the end a person rates its taste. Half of
the people love pineapple and the others don't, and all of them have good and bad days, so the rating is noisy; it also
depends on how crust, cheese and oven go together, and no light compares the crust with anything.

Everything random takes finitely many values. So values, gradients and the best policy come from dynamic programming,
and the mean of any estimator from the list of all ways that an evening can go.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = ("crust", "sauce", "cheese", "topping", "oven")
CHOICES = (
    ("thin", "medium", "thick"),
    ("no sauce", "1 sauce", "2 sauce"),
    ("no cheese", "1 cheese", "2 cheese"),
    ("plain", "mushrooms", "pineapple"),
    ("early", "on time", "late"),
)
T, A = 5, 3  # steps of an episode, choices a step
DRIP = 0.2  #: probability that the nozzle gives one portion more than asked
MOOD = 0.5  #: a rating is this much higher or lower than the rater's taste, each with probability ½
LOVE = 1.8  #: a rater's taste for pineapple lies this much above or below the mean, each with probability ½

# A state is what is on the pizza: (), (crust,), (crust, sauce), … Portions go to 3, because of the drip.
_SIZES = (3, 4, 4, 3)
STATES = [state for t in range(T) for state in itertools.product(*map(range, _SIZES[:t]))]
S = len(STATES)  #: 1 + 3 + 12 + 48 + 144 = 208
STEP = torch.tensor([len(state) for state in STATES])  #: (S,), the step at which a state is met, from 0
_INDEX = {state: i for i, state in enumerate(STATES)}


def light(state: tuple[int, ...], result: int) -> float:
    """Automatic reward of a step, 0 or 1: is what came out of it what the sheet says?

    Args:
        state: what is on the pizza.
        result: crust, portions, topping or time that the step led to.
    """
    if len(state) < 4:
        return float(result == (0, 1, 1, 0)[len(state)])  # thin, 1 sauce, 1 cheese, plain
    moisture = state[1] + state[2]
    return float(result == (0 if moisture <= 1 else 1 if moisture <= 3 else 2))  # dry on top, and not yet dark


def taste(crust: int, sauce: int, cheese: int, topping: int, oven: int) -> float:
    """Mean rating of a finished pizza, in points, about 0 to 5."""
    marks = 1.4 + (-0.6, 0.0, 0.4, -0.3)[sauce] + (0.0, 1.2, 0.3)[topping]
    marks += ((-0.3, 0.0, -0.8, -1.2), (-0.4, 0.1, 0.5, 0.1), (-0.9, -0.3, 0.9, 0.9))[crust][cheese]
    return marks + ((0.1, 0.0, -0.9), (-0.4, 0.2, 0.1), (-1.0, -0.1, 0.6))[crust][oven]  # burnt, raw


def _tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    following, lights = torch.full((S, A, 2), S), torch.zeros(S, A, 2)
    marks, spread = torch.zeros(S, A), torch.zeros(S, A)
    for i, state in enumerate(STATES):
        for a, drip in itertools.product(range(A), range(2)):
            result = a + drip if len(state) in (1, 2) else a
            lights[i, a, drip] = light(state, result)
            if len(state) < T - 1:
                following[i, a, drip] = _INDEX[(*state, result)]
            else:
                marks[i, a], spread[i, a] = taste(*state, a), LOVE * (state[3] == 2)
    return following, lights, marks, spread


# NEXT (S, A, 2): the next state without and with a drip, S after the last step. LIGHTS (S, A, 2): the step's light.
# TASTE (S, A): mean rating at the last step, 0 elsewhere. SPREAD (S, A): how far love and dislike lie from it.
NEXT, LIGHTS, TASTE, SPREAD = _tables()
CHANCE = torch.tensor([1 - DRIP, DRIP])


@dataclass(frozen=True)
class Episodes:
    """A batch of evenings; N episodes of T steps, with any dimensions in front."""

    states: Tensor  #: (..., N, T), indices of STATES
    actions: Tensor  #: (..., N, T)
    lights: Tensor  #: (..., N, T), automatic reward
    ratings: Tensor  #: (..., N), human reward

    def rewards(self, w: float | Tensor) -> Tensor:
        r"""Mixed reward :math:`(1 - w)\,r^\text{auto} + w\,r^\text{human}`, the latter at the last step. (..., N, T).

        Args:
            w: weight of the rating, one number, or (K,) for K policies.
        """
        w = torch.as_tensor(w)[..., None]
        mixed = (1 - w[..., None]) * self.lights
        mixed[..., -1] += w * self.ratings
        return mixed


def sample(logits: Tensor, episodes: int, generator: torch.Generator) -> Episodes:
    """Let a policy, or K of them at once, bake.

    Args:
        logits: (S, A) or (K, S, A); action probabilities are their softmax.
        episodes: N, for each policy.
        generator: of all the randomness: actions, drips, raters, moods.
    """
    cumulative = logits.detach().softmax(-1).cumsum(-1).reshape(-1, S, A)
    shape = (len(cumulative), episodes)
    policy = torch.arange(shape[0])[:, None]
    state = torch.zeros(shape, dtype=torch.long)
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(T):
        u = torch.rand((*shape, 1), generator=generator, dtype=cumulative.dtype)
        action = (u > cumulative[policy, state][..., :-1]).sum(-1)
        drip = (torch.rand(shape, generator=generator) < DRIP).long()
        columns.append((state, action, LIGHTS[state, action, drip]))
        last, state = state, NEXT[state, action, drip]
    love, mood = (torch.randint(2, shape, generator=generator) * 2 - 1 for _ in range(2))
    ratings = TASTE[last, action] + love * SPREAD[last, action] + mood * MOOD
    found = [torch.stack(c, -1) for c in zip(*columns, strict=True)] + [ratings]
    return Episodes(*(x if logits.dim() == 3 else x[0] for x in found))


def mean_rewards(w: float | Tensor) -> Tensor:
    """Expected mixed reward of a state and an action, (S, A); with K weights (K, S, A)."""
    w = torch.as_tensor(w)[..., None, None]
    return (1 - w) * (LIGHTS * CHANCE).sum(-1) + w * TASTE


def values(policy: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    r"""V (..., S) and Q (..., S, A) of a policy, backwards from the last step; γ = 1.

    .. math:: Q(s, a) = r(s, a) + \sum_{s'} p(s' \mid s, a)\,V(s'), \qquad V(s) = \sum_a \pi(a \mid s)\,Q(s, a)

    Args:
        policy: action probabilities, (..., S, A); gradients flow through it.
        rewards: as from :func:`mean_rewards`, (S, A) or as the policy.
    """
    v = policy.new_zeros((*policy.shape[:-2], S + 1))  # the place S is the end, worth 0
    q = torch.zeros_like(policy)
    for t in reversed(range(T)):
        here = (t == STEP).nonzero().squeeze(-1)
        q_here = rewards[..., here, :] + (v[..., NEXT[here]] * CHANCE).sum(-1)
        q = q.index_copy(-2, here, q_here)
        v = v.index_copy(-1, here, (policy[..., here, :] * q_here).sum(-1))
    return v[..., :S], q


def objective(logits: Tensor, w: float | Tensor) -> Tensor:
    """J(θ), the expected mixed return of the policy, exactly. (..., S, A) → (...)."""
    return values(logits.softmax(-1), mean_rewards(w))[0][..., 0]


def exact_gradient(logits: Tensor, w: float) -> Tensor:
    r""":math:`\nabla_\theta J(\theta)` by automatic differentiation of the exact :math:`J`. (S, A) → (S, A)."""
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(objective(logits, w), logits)[0]


def visits(policy: Tensor) -> Tensor:
    """Probability that an episode comes by each state. (S, A) → (S,)."""
    d = policy.new_zeros(S + 1)
    d[0] = 1.0
    for t in range(T - 1):
        here = t == STEP
        d.index_add_(0, NEXT[here].flatten(), (d[:S][here, None, None] * policy[here, :, None] * CHANCE).flatten())
    return d[:S]


def best_policy(rewards: Tensor) -> Tensor:
    """The policy with the highest values for given expected rewards; equally good actions share. (S, A) → (S, A)."""
    policy = torch.full((S, A), 1 / A)
    for _ in range(T):  # each round makes one more step, from the last one on, final
        q = values(policy, rewards)[1]
        best = (q > q.amax(-1, keepdim=True) - 1e-5).float()
        policy = best / best.sum(-1, keepdim=True)
    return policy


def all_episodes() -> tuple[Episodes, Tensor]:
    """Each way that an evening can go, and the environment's share of its probability; both over M = 3,888 rows.

    The probability under a policy is that share times the product of the policy's probabilities of the five actions.
    """
    grid = itertools.product(range(A), range(A), range(2), range(A), range(2), range(A), range(A), (-1, 1), (-1, 1))
    crust, sauce, drip_1, cheese, drip_2, topping, oven, love, mood = torch.tensor(list(grid)).T
    actions, no = torch.stack([crust, sauce, cheese, topping, oven], -1), torch.zeros_like(crust)
    state, columns = no, []
    for t, drip in enumerate((no, drip_1, drip_2, no, no)):
        columns.append((state, LIGHTS[state, actions[:, t], drip]))
        last, state = state, NEXT[state, actions[:, t], drip]
    states, lights = (torch.stack(c, -1) for c in zip(*columns, strict=True))
    ratings = TASTE[last, oven] + love * SPREAD[last, oven] + mood * MOOD
    return Episodes(states, actions, lights, ratings), CHANCE[drip_1] * CHANCE[drip_2] / 4
