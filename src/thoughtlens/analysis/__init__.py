"""Labelled attention in, labelled numbers out: moments, metrics, statistics, the summary of a run.

Never imports torch or matplotlib: it runs wherever a run folder can be read.
"""

from thoughtlens.analysis.blocks import attention_pieces
from thoughtlens.analysis.compare import Comparison, compare, comparison_overview
from thoughtlens.analysis.comparison_tables import comparison_headline, comparison_tables, group_table
from thoughtlens.analysis.evidence import head_types
from thoughtlens.analysis.groups import Grouped, compare_groups
from thoughtlens.analysis.hubs import hub_test
from thoughtlens.analysis.kept import analyze_sums, block_sums, kept_last_thought_shares, kept_rollout
from thoughtlens.analysis.maps import head_maps, layer_maps
from thoughtlens.analysis.metrics import (
    cell_sets,
    composition,
    expected_sums,
    preference_sums,
    preferences,
    readout,
    readout_sums,
    row_entropy,
    shares,
    thought_map,
    thought_mass,
)
from thoughtlens.analysis.moments import moments
from thoughtlens.analysis.nulls import causal_uniform, excess, from_run, permuted, row_mass_preserving
from thoughtlens.analysis.ranking import rank_heads
from thoughtlens.analysis.rollout import mean_rollout, rollout
from thoughtlens.analysis.significance import (
    benjamini_hochberg,
    detectable_mean,
    detectable_proportion,
    holm,
    mcnemar,
    sign_flip_test,
)
from thoughtlens.analysis.statistics import (
    bootstrap_mean,
    bootstrap_ratio,
    interval,
    proportion_interval,
    resample_weights,
    weighted_sums,
)
from thoughtlens.analysis.step_indexed import step_indexed
from thoughtlens.analysis.subjects import Subject
from thoughtlens.analysis.summary import Analysis, analyze, collect_sums
from thoughtlens.analysis.tables import headline, rollout_table, tables
from thoughtlens.analysis.value_weighted import value_shares

__all__ = [
    "Analysis",
    "Comparison",
    "Grouped",
    "Subject",
    "analyze",
    "analyze_sums",
    "attention_pieces",
    "benjamini_hochberg",
    "block_sums",
    "bootstrap_mean",
    "bootstrap_ratio",
    "causal_uniform",
    "cell_sets",
    "collect_sums",
    "compare",
    "compare_groups",
    "comparison_headline",
    "comparison_overview",
    "comparison_tables",
    "composition",
    "detectable_mean",
    "detectable_proportion",
    "excess",
    "expected_sums",
    "from_run",
    "group_table",
    "head_maps",
    "head_types",
    "headline",
    "holm",
    "hub_test",
    "interval",
    "kept_last_thought_shares",
    "kept_rollout",
    "layer_maps",
    "mcnemar",
    "mean_rollout",
    "moments",
    "permuted",
    "preference_sums",
    "preferences",
    "proportion_interval",
    "rank_heads",
    "readout",
    "readout_sums",
    "resample_weights",
    "rollout",
    "rollout_table",
    "row_entropy",
    "row_mass_preserving",
    "shares",
    "sign_flip_test",
    "step_indexed",
    "tables",
    "thought_map",
    "thought_mass",
    "value_shares",
    "weighted_sums",
]
