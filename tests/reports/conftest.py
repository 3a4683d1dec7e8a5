"""A run of problems whose texts try to break a page, with readings and a study of cuts."""

import os
import shutil

import pytest
from filelock import FileLock

import thoughtlens as tl
from thoughtlens.evaluation import write_readings
from thoughtlens.problems import Problem

HOSTILE = {
    '"><b>1': "</script><script>window.PWNED = 1</script> How many?",
    "p'2": "<img src=x onerror='window.PWNED = 1'> \u202eHow many\u202c, \u2028 {{ 7 * 7 }} & \"quotes\" 'and' `ticks`",
    "=1+1": "Tom has 5 apples. He buys 3 more. How many apples does he have?" + " and" * 20,
    "long": "Ann has 2 bags of 4 pens. She finds 3 more. She loses 1. " * 4 + "How many pens does she have?",
    "plain": "Tom has 5 apples. He buys 3 more. How many apples does he have?",
}
"""Questions by id."""


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """The run, made once for all processes of the tests and copied for each, since pages are written into it."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "hostile_run"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            make_hostile_run(tmp_path_factory.mktemp("hostile") / "run").rename(made)
    return tl.open_run(shutil.copytree(made, tmp_path_factory.mktemp("page") / "run"))


def make_hostile_run(folder):
    reasoner = tl.load("tiny-gpt2")
    problems = [Problem(name, question, "8", ("<<5+3=8>>",)) for name, question in HOSTILE.items()]
    run = tl.extract(reasoner, problems, folder)
    write_readings(run, reasoner)
    plan = tl.plan_cuts(run, heads="L0H0,L0H3", edges="z3:z2,z6:z4", controls=1)
    tl.intervene(run, plan, study="first", reasoner=reasoner)
    return run.path
