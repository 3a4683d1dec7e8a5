"""Outputs of two commits for the same commands on the same machine, compared file by file.

    python tests/golden.py REF              REF against this checkout, uncommitted changes included
    python tests/golden.py REF --out DIR    the same; outputs stay in DIR, and those of REF are not made again
    python tests/golden.py --write          write the headline numbers of tests/test_golden.py anew

Compared by value are CSV, JSON, JSON Lines, TXT and NPY files, Zarr stores, and what commands print on stdout; of SVG
files the words and the drawing as a whole. Left out are command lines, times, durations, versions, and folders of
absolute paths. Nothing that is made is committed, because bytes differ between processors; the headline numbers are
rounded for that reason. The exit code is 0 if all is equal and 1 otherwise, moved files included.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from itertools import product
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

ROOT = Path(__file__).resolve().parents[1]
HEADLINES = ROOT / "tests" / "data" / "golden.json"

# By name, the ways to write a command: the first that does not exit with code 2 (an unknown option or a wrong call)
# counts. A command whose spelling changes between two commits has both spellings here. They run in this order in one
# folder, where `largest.jsonl` has problems of the planted model.
COMMANDS: dict[str, list[str]] = {
    "run_tiny": ["run --n 12 --out tiny --json"],
    "run_planted": ["run --model planted --problems largest.jsonl --out planted --json"],
    "run_mean": ["run --n 12 --keep mean --out mean --json"],
    "sample": ["sample --problems arithmetic --n 12 --out arithmetic.jsonl --json"],
    "extract_random": ["extract --problems arithmetic.jsonl --random-weights 0 --out random --json"],
    "extract_llama": ["extract --problems arithmetic.jsonl --model tiny-llama --record values --out llama --json"],
    "analyze_null": ["analyze tiny --null random --json"],
    "analyze_by": ["analyze planted --by correct --json"],
    "analyze_by_text": ["analyze tiny --by n_steps"],
    "analyze_values": ["analyze llama --pattern value-weighted --json"],
    "intervene": [
        "intervene planted --heads all --edit zero --whole --order attention --random-orders 3 --controls 2 --json",
    ],
    "intervene_llama": [
        "intervene llama --n 4 --kv-groups L0G0,L1G1 --thoughts all --edges z4:z1 --edit mean --edit scale:0.5 --frozen"
    ],
    "compare": ["compare tiny llama --out compared --json"],
    "export": ["export tiny --format npy --json"],
    "tokens": ["tokens tiny --n 2 --json"],
    "plot": ["plot tiny --step-indexed --json"],
    "status": ["status tiny --json"],
}

# What makes the headline numbers: no figures, so that the suite can do it too.
CARRIER = "L0H3"
HEADLINE_COMMANDS: dict[str, list[str]] = {
    "sample": ["sample --problems arithmetic --n 12 --out arithmetic.jsonl"],
    "extract_tiny": ["extract --problems arithmetic.jsonl --out tiny-gpt2"],
    "extract_planted": ["extract --problems largest.jsonl --model planted --out planted"],
    "analyze_tiny": ["analyze tiny-gpt2"],
    "analyze_planted": ["analyze planted"],
    "intervene": [f"intervene planted --heads {CARRIER} --edit zero --json"],
}

LEFT_OUT = {"command", "created", "finished", "seconds", "seconds_left", "version", "versions"}
FOLDER = re.compile(r"(?<![\w./-])(?:/[\w.+-]+)+/")
WORD = re.compile(r"<text\b[^>]*>(.*?)</text>", re.DOTALL)
COMPARED = (".csv", ".json", ".jsonl", ".npy", ".svg", ".txt", ".zarr")
SHOWN = 8


def write_problems(folder: Path) -> None:
    """Twelve questions for a model that names the largest number; it solves eight, the others' answers are wrong."""
    rows = []
    for number in range(12):
        asked = [(number * 7 + 3) % 100, (number * 31 + 40) % 100, (number * 53 + 11) % 100]
        question = f"Which of {asked[0]}, {asked[1]} and {asked[2]} is the largest?"
        rows.append({"id": f"q{number}", "question": question, "answer": str(max(asked) if number < 8 else min(asked))})
    (folder / "largest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def make(checkout: Path, folder: Path, commands: dict[str, list[str]]) -> Path:
    """The folder, filled by the commands as the package in `checkout` runs them; one that is complete is kept."""
    marker, made = folder / "made.marker", json.dumps(commands)
    if marker.exists() and marker.read_text("utf-8") == made:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "stdout").mkdir(parents=True)
    write_problems(folder)
    settings = {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-W", "ignore", *arguments]
        return subprocess.run(line, cwd=folder, env=os.environ | settings, capture_output=True, text=True)

    where = python("-c", "import importlib.util as u; print(u.find_spec('thoughtlens').origin)").stdout
    assert Path(where).is_relative_to(checkout), f"{where.strip()} would run, not the package in {checkout}"
    for name, spellings in commands.items():
        for spelling in spellings:
            done = python("-m", "thoughtlens", *shlex.split(spelling))
            if done.returncode != 2:
                break
        if done.returncode:
            sys.exit(f"{checkout}: thoughtlens {spelling} ended with code {done.returncode}\n{done.stderr[-2000:]}")
        suffix = "json" if "--json" in spelling else "txt"
        (folder / "stdout" / f"{name}.{suffix}").write_text(done.stdout, "utf-8")
    marker.write_text(made, "utf-8")
    return folder


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """What is compared of each file and Zarr store, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): values(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in COMPARED and not any(parent.suffix == ".zarr" for parent in path.parents)
    }


def values(path: Path) -> dict[str, Any]:
    """What is compared of one file or Zarr store: arrays and texts by name."""
    if path.suffix == ".npy":
        return {"values": np.load(path)}
    if path.suffix == ".zarr":
        return stored(path)
    text = FOLDER.sub("<folder>/", path.read_text("utf-8"))
    if path.suffix == ".csv":
        return {f"column {name}": column.to_numpy() for name, column in pd.read_csv(io.StringIO(text)).items()}
    if path.suffix == ".svg":
        words = Counter(" ".join(re.sub("<[^>]*>", " ", word).split()) for word in WORD.findall(text))
        drawing = {"drawing": hashlib.sha256(text.encode()).hexdigest()[:12]}
        return drawing | {f"word {word!r}": f"{number} times" for word, number in words.items()}
    if path.suffix == ".txt":
        return {f"line {number}": repr(line) for number, line in enumerate(text.splitlines(), start=1)}
    return dict(
        leaves([json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text))
    )


def stored(path: Path) -> dict[str, Any]:
    """Variables of a Zarr store and of its groups, their dims and types, and attributes."""
    found: dict[str, Any] = {}
    for group, data in xr.open_groups(path, engine="zarr", consolidated=False).items():
        inside = f"{group.strip('/')}/".lstrip("/")
        found |= {
            f"attribute {inside}{name}": of for name, of in leaves(json.loads(json.dumps(data.attrs, default=str)))
        }
        for name, variable in data.variables.items():
            found[f"variable {inside}{name}"] = variable.values
            found[f"form of {inside}{name}"] = f"{variable.dims} {variable.dtype}"
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The numbers and texts of a JSON value by their paths, such as `top[2].name`, without what is left out."""
    if isinstance(value, dict) and value:
        for key, of in value.items():
            if key not in LEFT_OUT:
                yield from leaves(of, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for place, of in enumerate(value):
            yield from leaves(of, f"{path}[{place}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def pairs(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Paths that belong together: equal paths, then equal contents, then equal file names, the likest paths first."""
    found = [(path, path) for path in before if path in after]
    gone, new = [path for path in before if path not in after], [path for path in after if path not in before]
    likely = []
    for one, other in product(gone, new):
        renamed = PurePath(one).name != PurePath(other).name
        if PurePath(one).suffix == PurePath(other).suffix:
            changed = any(differences(before[one], after[other]))
            if not (changed and renamed):
                likely.append((changed, renamed, -SequenceMatcher(None, one, other).ratio(), one, other))
    for *_, one, other in sorted(likely):
        if one in gone and other in new:
            found.append((one, other))
            gone.remove(one)
            new.remove(other)
    return sorted(found)


def report(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> tuple[list[str], bool]:
    """Lines that say what differs, a count at their end, and whether all is equal."""
    lines, n_equal, found = [], 0, pairs(before, after)
    for one, other in found:
        said = list(differences(before[one], after[other]))
        n_equal += one == other and not said
        if one != other:
            lines.append(f"moved{' and changed' if said else ''} {one} -> {other}")
        elif said:
            lines.append(f"changed {one}")
        lines += [f"    {line}" for line in said[:SHOWN]]
        lines += [f"    and {len(said) - SHOWN} more differences"] * (len(said) > SHOWN)
    lines += [f"only before {path}" for path in sorted(before.keys() - {one for one, _ in found})]
    lines += [f"only after {path}" for path in sorted(after.keys() - {other for _, other in found})]
    n_all = len(before) + len(after) - len(found)
    return [*lines, f"{n_equal} of {n_all} outputs are equal"], n_equal == n_all


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What only one side has, and what has other values."""
    yield from (f"{name}: removed, was {shorten(of)}" for name, of in before.items() if name not in after)
    yield from (f"{name}: added, is {shorten(of)}" for name, of in after.items() if name not in before)
    for name in (name for name in before if name in after):
        one, other = before[name], after[name]
        if isinstance(one, str):
            said = "" if one == other else f"{shorten(one)} -> {shorten(other)}"
        else:
            said = of_values(one, other)
        if said:
            yield f"{name}: {said}"


def shorten(value: Any) -> str:
    """A text, cut off where it is long; an array's shape."""
    text = value if isinstance(value, str) else f"of shape {value.shape}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def of_values(one: np.ndarray, other: np.ndarray) -> str:
    """How far two arrays are from each other; nothing if they are equal, undefined values being equal too."""
    if one.shape != other.shape:
        return f"shape {one.shape} -> {other.shape}"
    if not all(np.issubdtype(values.dtype, np.number) or values.dtype == bool for values in (one, other)):
        one, other = (values.astype(object).astype(str).ravel() for values in (one, other))
        places = np.flatnonzero(one != other)
        if not len(places):
            return ""
        first, (was, now) = places[0], (str(values[places[0]]) for values in (one, other))
        return f"{len(places)} of {one.size} differ, the first at {first}: {was!r} -> {now!r}"
    one, other = one.astype(float), other.astype(float)
    unlike = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    if not unlike.any():
        return ""
    left, right = one[unlike], other[unlike]
    undefined = np.isnan(left) | np.isnan(right)
    said = [f"{unlike.sum()} of {one.size} differ"]
    if undefined.any():
        said.append(f"{undefined.sum()} undefined on one side")
    if not undefined.all():
        apart, scale = np.abs(left - right)[~undefined], np.maximum(abs(left), abs(right))[~undefined]
        said.append(f"by at most {apart.max():.3g}, relative {(apart / scale).max():.3g}")
    return ", ".join(said)


def headlines(folder: Path) -> dict[str, float]:
    """The headline numbers that the commands of `HEADLINE_COMMANDS` leave, to four digits."""
    found: dict[str, float] = {}
    for run in ("tiny-gpt2", "planted"):
        [summary, heads, preferences, composition] = (
            read(folder / run, name)
            for name in ("summary.json", "heads.csv", "preferences_model.csv", "composition.csv")
        )
        for name in ("accuracy", "sequential", "skip"):
            found |= {f"{run} {name} {end}": summary[name][end] for end in ("estimate", "low", "high")}
        best = {"tiny-gpt2": "z4", "planted": "z1"}[run]
        found |= {f"{run} preference {best} {end}": summary["preference"][best][end] for end in ("low", "high")}
        for name in ("hub", "thoughts", "question"):
            found[f"{run} evidence of {name}"] = summary["evidence"][name]["estimate"]
        for row in preferences[preferences["measure"] == "preference"].dropna().to_dict("records"):
            found[f"{run} preference {row['position']} estimate"] = row["estimate"]
        for row in composition[composition["query"] == "z6"].head(5).to_dict("records"):
            found[f"{run} attention of z6 to {row['part']}"] = row["estimate"]
        for row in heads.head(3).to_dict("records"):
            for name in ("importance", "thought_mass", "largest_preference", "sequential", "skip"):
                found[f"{run} {row['name']} {name}"] = row[name]
    effects = read(folder / "planted", "effects.csv").set_index("intervention").loc[f"{CARRIER} zero"]
    names = ["accuracy", "accuracy_p", "gold_logprob", "gold_logprob_low", "gold_logprob_high", "kl"]
    found |= {f"planted without {CARRIER} {name}": effects[name] for name in names}
    return {name: float(f"{number:.4g}") for name, number in found.items()}


def read(run: Path, name: str) -> Any:
    """The only file of that name in a run, in whatever folder it is."""
    [path] = run.rglob(name)
    return json.loads(path.read_text("utf-8")) if path.suffix == ".json" else pd.read_csv(path)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def against(ref: str, out: Path) -> bool:
    """Make the outputs of both sides in `out`, print what differs, and say whether all is equal."""
    commit = git("rev-parse", "--verify", f"{ref}^{{commit}}")
    shutil.rmtree(out / "here", ignore_errors=True)
    checkout = Path(tempfile.mkdtemp(prefix="golden-")).resolve() / "checkout"
    git("worktree", "add", "--quiet", "--detach", str(checkout), commit)
    sides = [(checkout, out / commit[:12]), (ROOT, out / "here")]
    try:
        with ThreadPoolExecutor(2) as both:
            before, after = both.map(lambda side: make(*side, COMMANDS), sides)
    finally:
        git("worktree", "remove", "--force", str(checkout))
        checkout.parent.rmdir()
    lines, equal = report(contents(before), contents(after))
    print("\n".join(lines))
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref", nargs="?", metavar="REF", help="The commit that this checkout is compared with.")
    parser.add_argument("--out", type=Path, metavar="DIR", help="Keep the outputs here: DIR/COMMIT and DIR/here.")
    parser.add_argument("--write", action="store_true", help=f"Write {HEADLINES.relative_to(ROOT)} and nothing else.")
    asked = parser.parse_args()
    if asked.write == bool(asked.ref):
        parser.error("name a commit, or pass --write")
    out = Path(asked.out or tempfile.mkdtemp(prefix="golden-")).resolve()
    try:
        if asked.write:
            numbers = headlines(make(ROOT, out / "headlines", HEADLINE_COMMANDS))
            HEADLINES.parent.mkdir(exist_ok=True)
            HEADLINES.write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")
        elif not against(asked.ref, out):
            sys.exit(1)
    finally:
        if asked.out:
            print(f"outputs: {out}")
        else:
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
