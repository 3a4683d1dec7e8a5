"""Names that the examples in docstrings of figures use: results of five problems of the planted model."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def doctest_namespace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """`analysis`, `comparison`, `study` and `of_one_question`, made once by public functions."""
    from tests.attention_made import unsaved

    import thoughtlens as tl
    from thoughtlens.evaluation import question_attention
    from thoughtlens.models import planted_problems

    reasoner, problems, folder = tl.load("planted"), planted_problems(5), Path(tmp_path_factory.mktemp("examples"))
    run = tl.extract(reasoner, problems, folder / "run")
    plans = [
        tl.plan_cuts(run, heads="L0H0,L0H1,L1H0", edits=["zero", "scale:0.5"], orders=["cause"], random_orders=1),
        tl.plan_cuts(run, thoughts="z1,z2,z3", edges="z2:z1,z3:z1,z3:z2", edits=["resample"]),
    ]
    for plan in plans:
        effects = tl.intervene(run, plan, study="examples", reasoner=reasoner)
    with unsaved():
        analysis = tl.analyze(run, n_resamples=20)
    return {
        "analysis": analysis,
        "comparison": tl.compare({"one": run, "other": run}, n_resamples=20),
        "study": tl.study(run, effects, n_resamples=20),
        "of_one_question": question_attention(reasoner, problems[:1])[0],
    }
