"""A random forest that sees one pixel at a time: what a network has to beat."""

from collections.abc import Sequence

import numpy as np

from segpipe.models.learning.examples import Ground, windows
from segpipe.models.learning.metrics import Scores, confusion_matrix

TREES = 100
LEAF = 5
"""Fewest pixels of a leaf; on noisy labels this does better than the 1 of the default."""

MOST_PIXELS = 500_000
"""Labelled pixels that a forest is grown on, about; of more a random share is taken."""


def forest_scores(
    training: Sequence[Ground], test: Sequence[Ground], pixels: int, classes: int, seed: int = 0
) -> Scores:
    """The figures on `test` of scikit-learn's forest grown on `training`.

    Args:
        training: labelled pixels to grow it on.
        test: labelled pixels that it is scored on.
        pixels: how many labelled pixels `training` has.
        classes: how many classes there are.
        seed: of the forest and of the share of pixels.

    Raises:
        ImportError: scikit-learn isn't installed.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(TREES, min_samples_leaf=LEAF, random_state=seed, n_jobs=-1)
    random, share = np.random.default_rng(seed), MOST_PIXELS / max(pixels, 1)
    chosen = []
    for ground in training:
        for place in windows(ground):
            block = ground.read(*place)
            known = block.known & (random.random(block.shape) < share)
            chosen.append((block.pixels[:, known].T, block.labels[known]))
    features, labels = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
    forest.fit(features, labels)
    matrix = np.zeros((classes, classes), np.int64)
    for ground in test:
        for place in windows(ground):
            block = ground.read(*place)
            if (known := block.known).any():
                predicted = forest.predict(block.pixels[:, known].T)
                matrix += confusion_matrix(block.labels[known], predicted, classes)
    return Scores(matrix)
