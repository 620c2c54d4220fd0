"""A random forest that sees one pixel at a time: what a network has to beat."""

import numpy as np

from segpipe.models.training import Block, Labels

TREES = 100
LEAF = 5
"""Fewest pixels of a leaf; on noisy labels this does better than the 1 of the default."""


def forest_labels(training: Block, target: Block, seed: int = 0) -> Labels:
    """Class indices (row, column) of `target` by scikit-learn's forest grown on `training`.

    Pixels of `target` that aren't valid get 0.

    Raises:
        ImportError: scikit-learn isn't installed.
    """
    from sklearn.ensemble import RandomForestClassifier

    known = training.known
    forest = RandomForestClassifier(TREES, min_samples_leaf=LEAF, random_state=seed, n_jobs=-1)
    forest.fit(training.pixels[:, known].T, training.labels[known])
    labels = np.zeros(target.labels.shape, np.uint8)
    labels[target.valid] = forest.predict(target.pixels[:, target.valid].T)
    return labels
