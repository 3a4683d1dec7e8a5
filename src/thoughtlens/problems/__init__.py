"""Problem sets: named and local ones, samples of them, and reading and comparing answers."""

from thoughtlens.problems.answers import read_answer, same_answer
from thoughtlens.problems.named import known_sets
from thoughtlens.problems.problem import Problem
from thoughtlens.problems.sources import ProblemSet, draw, load_set, sample, write_problems

__all__ = [
    "Problem",
    "ProblemSet",
    "draw",
    "known_sets",
    "load_set",
    "read_answer",
    "same_answer",
    "sample",
    "write_problems",
]
