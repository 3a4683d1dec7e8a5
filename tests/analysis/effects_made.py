"""Effects Datasets made up to the letter of the schema, with a known answer."""

import numpy as np
import xarray as xr

from thoughtlens.schema import check_effects, effects_dataset


def made_effects(
    correct: dict[str, np.ndarray],
    *,
    baseline: np.ndarray,
    logprob: dict[str, np.ndarray] | None = None,
    prefix: dict[str, np.ndarray] | None = None,
    said: dict[str, np.ndarray] | None = None,
    controls: dict[str, list[str]] | None = None,
    failed: dict[str, list[int]] | None = None,
    addresses: dict[str, dict[str, object]] | None = None,
) -> xr.Dataset:
    """Cuts with these correct answers; log-probability −1 where right and −3 where wrong, unless given.

    Only with `prefix`, log-probabilities by label and else 0, is there an answer prefix; it is said but for `said`.
    """
    labels = ["none", *correct]
    right = np.array([baseline, *correct.values()], dtype=bool)
    values = np.where(right, -1.0, -3.0)
    for label, row in (logprob or {}).items():
        values[labels.index(label)] = row
    lost = np.zeros(right.shape, dtype=bool)
    for label, places in (failed or {}).items():
        lost[labels.index(label), places] = True
    kl = np.where(np.arange(len(labels))[:, None] > 0, np.abs(values - values[0]), 0.0)
    others = {label for its in (controls or {}).values() for label in its}
    of_prefix = {}
    if prefix is not None:
        rows = {
            "prefix_logprob": (prefix, np.zeros(right.shape)),
            "said_prefix": (said or {}, np.ones(right.shape, bool)),
        }
        for name, (given, row) in rows.items():
            for label, its in given.items():
                row[labels.index(label)] = its
            of_prefix[name] = row
        of_prefix["prefix_logprob"][lost] = np.nan
        of_prefix["said_prefix"] &= ~lost
    dataset = effects_dataset(
        of_prefix
        | {
            "correct": right & ~lost,
            "gold_logprob": np.where(lost, np.nan, values),
            "kl": np.where(lost, np.nan, kl),
            "answer": np.where(lost, "", "7"),
            "failed": lost,
        },
        labels=labels,
        kinds=["baseline", *("control" if label in others else "cut" for label in correct)],
        specs=["[]"] * len(labels),
        problem_ids=[f"p{k}" for k in range(right.shape[1])],
        addresses=[(addresses or {}).get(label, {}) for label in labels],
        controls=controls,
        attrs={"n_thoughts": 6},
    )
    return check_effects(dataset)
