"""Watching and changing a forward pass: taps, the one attention function, interventions, recorders."""

from thoughtlens.tracing.attention import ATTENTION
from thoughtlens.tracing.edits import Replace, Zero
from thoughtlens.tracing.interventions import Intervention
from thoughtlens.tracing.recorders import (
    AttentionRecorder,
    HeadRecorder,
    QuestionRecorder,
    ThoughtRecorder,
    ValueRecorder,
)
from thoughtlens.tracing.taps import Moment, Site, Tap, Taps

__all__ = [
    "ATTENTION",
    "AttentionRecorder",
    "HeadRecorder",
    "Intervention",
    "Moment",
    "QuestionRecorder",
    "Replace",
    "Site",
    "Tap",
    "Taps",
    "ThoughtRecorder",
    "ValueRecorder",
    "Zero",
]
