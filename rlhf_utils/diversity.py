"""How many different things a policy says. Pure functions on texts; words are split at spaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The runs of n words of a text, in order.

    Args:
        text: words with spaces between them.
        n: length of a run.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError("an n-gram has at least one word")
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_share(texts: Sequence[str]) -> float:
    """Share of the texts that are left when duplicates are removed. It falls as the number of texts grows.

    Args:
        texts: one or more.

    Raises:
        ValueError: there is no text.
    """
    if not texts:
        raise ValueError("there is no text")
    return len(set(texts)) / len(texts)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055). It falls as the number of texts grows.

    Args:
        texts: those shorter than n words count for nothing.
        n: length of a run, in words.

    Raises:
        ValueError: no text has n words.
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    if not found:
        raise ValueError(f"no text has {n} words")
    return len(set(found)) / len(found)


def self_overlap(texts: Sequence[str], n: int) -> float:
    r"""Share of a text's n-grams that another text of the set holds too, mean over all ordered pairs.

    .. math:: \frac{1}{N (N - 1)} \sum_i \sum_{j \ne i} \frac{|G_i \cap G_j|}{|G_i|}

    with :math:`G_i` the set of n-grams of text i. 0: no two texts share one; 1: all say the same. Being a mean over
    pairs, it doesn't depend on the number of texts, as :func:`distinct_n` does. Texts without n words are left out.

    Args:
        texts: two or more with n words.
        n: length of a run, in words.

    Raises:
        ValueError: fewer than two texts have n words.
    """
    sets = [found for text in texts if (found := set(ngrams(text, n)))]
    if len(sets) < 2:
        raise ValueError(f"fewer than two texts have {n} words")
    holders = Counter(gram for found in sets for gram in found)
    others = len(sets) - 1
    return sum(sum(holders[gram] - 1 for gram in found) / (len(found) * others) for found in sets) / len(sets)
