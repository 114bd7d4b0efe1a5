"""One-to-one matching of rows and columns with the largest sum of scores (Kuhn 1955)."""

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray


def match_rows(scores: Float64[ndarray, "rows columns"]) -> Int64[ndarray, " rows"]:
    """Each row's own column; -1 for rows left over where there are fewer columns than rows.

    Shortest augmenting paths, O(rows² · columns): dozens of classes and many thousands of latents.
    """
    if len(scores) > scores.shape[1]:
        columns = match_rows(scores.T)
        rows = np.full(len(scores), -1)
        rows[columns] = np.arange(len(columns))
        return rows
    owner = np.full(scores.shape[1] + 1, -1)  # of each column; the last one is where paths start
    for_row = np.zeros(len(scores))  # dual prices: cost - for_row - for_column is never negative
    for_column = np.zeros(scores.shape[1] + 1)
    for row in range(len(scores)):
        _augment(-scores, row, owner, for_row, for_column)
    rows = np.empty(len(scores), dtype=np.int64)
    matched = owner[:-1] >= 0
    rows[owner[:-1][matched]] = matched.nonzero()[0]
    return rows


def _augment(
    cost: ndarray, row: int, owner: ndarray, for_row: ndarray, for_column: ndarray
) -> None:
    """Gives one more row a column, moving others where that is cheaper (Jonker, Volgenant 1987)."""
    columns = cost.shape[1]
    nearest = np.full(columns, np.inf)
    before = np.full(columns, columns)  # the column that a path comes from
    visited = np.zeros(columns + 1, dtype=bool)
    owner[columns] = row
    here = columns
    while owner[here] >= 0:
        visited[here] = True
        current = owner[here]
        free = ~visited[:-1]
        reduced = cost[current] - for_row[current] - for_column[:-1]
        closer = free & (reduced < nearest)
        nearest[closer], before[closer] = reduced[closer], here
        there = int(np.where(free, nearest, np.inf).argmin())
        step = nearest[there]
        for_row[owner[visited]] += step
        for_column[visited] -= step
        nearest[free] -= step
        here = there
    while here != columns:
        owner[here], here = owner[before[here]], before[here]
