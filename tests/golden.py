"""Outputs of two commits for the same commands on the same machine, compared file by file.

    python tests/golden.py REF              REF against this checkout, uncommitted changes included
    python tests/golden.py REF --out DIR    the same; outputs stay in DIR, and those of REF are not made again
    python tests/golden.py --write          write the headline numbers of tests/test_golden.py anew

Compared are CSV, JSON, JSON Lines, TXT, NPY and SVG files, Zarr arrays by value, and what commands print on stdout.
Left out are command lines, times, durations, versions, folders of absolute paths and the indentation of JSON. Nothing
that is made is committed, because bytes differ between processors; the headline numbers are rounded for that reason.
The exit code is 0 if all is equal and 1 otherwise, moved files included.
"""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from itertools import zip_longest
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
        "intervene planted --heads all --whole --order attention --random-orders 3 --controls 2 --json",
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
    "intervene": [f"intervene planted --heads {CARRIER} --json"],
}

LEFT_OUT = {"command", "created", "finished", "seconds", "seconds_left", "version", "versions"}
FOLDER = re.compile(r"(?<![\w./-])(?:/[\w.+-]+)+/")
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


def contents(folder: Path) -> dict[str, bytes]:
    """What is compared of each file and Zarr store, by its path in the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        in_store = any(parent.suffix == ".zarr" for parent in path.parents)
        if path.suffix in DIFFERENCES and not in_store:
            found[path.relative_to(folder).as_posix()] = compared(path)
    return found


def compared(path: Path) -> bytes:
    """A file's bytes without what is left out; of a Zarr store its values, as JSON."""
    if path.suffix == ".zarr":
        return json.dumps(stored(path)).encode()
    if path.suffix == ".npy":
        return path.read_bytes()
    text = FOLDER.sub("<folder>/", path.read_text("utf-8"))
    if path.suffix == ".json":
        return json.dumps(without(json.loads(text))).encode()
    if path.suffix == ".jsonl":
        return json.dumps([without(json.loads(line)) for line in text.splitlines()]).encode()
    return text.encode()


def stored(path: Path) -> dict[str, Any]:
    """Values, dims and types of a Zarr store's variables."""
    try:
        with xr.open_zarr(path, consolidated=False) as data:
            return {
                "attrs": json.loads(json.dumps(data.attrs, default=str)),
                "variables": {
                    str(name): {"form": f"{values.dims} {values.dtype}", "values": values.values.tolist()}
                    for name, values in sorted(data.variables.items(), key=lambda item: str(item[0]))
                },
            }
    except Exception as error:  # whatever a store of another format raises is what there is to say of it
        return {"attrs": {"unreadable": repr(error)}, "variables": {}}


def without(value: Any) -> Any:
    """A JSON value without the keys that are left out."""
    if isinstance(value, dict):
        return {key: without(of) for key, of in value.items() if key not in LEFT_OUT}
    return [without(of) for of in value] if isinstance(value, list) else value


def pairs(before: dict[str, bytes], after: dict[str, bytes]) -> list[tuple[str, str]]:
    """Paths that belong together: equal paths, then equal contents, then equal file names, the likest paths first."""
    found = [(path, path) for path in before if path in after]
    gone, new = [path for path in before if path not in after], [path for path in after if path not in before]
    likely = []
    for one in gone:
        for other in new:
            changed, renamed = before[one] != after[other], PurePath(one).name != PurePath(other).name
            if PurePath(one).suffix == PurePath(other).suffix and not (changed and renamed):
                likely.append((changed, renamed, -SequenceMatcher(None, one, other).ratio(), one, other))
    for *_, one, other in sorted(likely):
        if one in gone and other in new:
            found.append((one, other))
            gone.remove(one)
            new.remove(other)
    return sorted(found)


def report(before: dict[str, bytes], after: dict[str, bytes]) -> tuple[list[str], bool]:
    """Lines that say what differs, a count at their end, and whether all is equal."""
    lines, n_equal, found = [], 0, pairs(before, after)
    for one, other in found:
        changed = before[one] != after[other]
        n_equal += one == other and not changed
        if one != other:
            lines.append(f"moved{' and changed' if changed else ''} {one} -> {other}")
        elif changed:
            lines.append(f"changed {one}")
        if changed:
            said = DIFFERENCES[PurePath(one).suffix](before[one], after[other]) or ["in its bytes alone"]
            lines += [f"    {line}" for line in said[:SHOWN]]
            lines += [f"    and {len(said) - SHOWN} more differences"] * (len(said) > SHOWN)
    lines += [f"only before {path}" for path in sorted(before.keys() - {one for one, _ in found})]
    lines += [f"only after {path}" for path in sorted(after.keys() - {other for _, other in found})]
    n_all = len(before) + len(after) - len(found)
    return [*lines, f"{n_equal} of {n_all} outputs are equal"], n_equal == n_all


def of_json(one: bytes, other: bytes) -> list[str]:
    """Keys that only one side has and keys with other values, by their paths."""
    before, after = dict(leaves(json.loads(one))), dict(leaves(json.loads(other)))
    lines = [f"{path}: removed, was {before[path]}" for path in before if path not in after]
    lines += [f"{path}: added, is {after[path]}" for path in after if path not in before]
    both = [path for path in before if path in after and before[path] != after[path]]
    lines += [f"{path}: {before[path]} -> {after[path]}" for path in both]
    return lines or ["keys in another order"]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The paths of a JSON value's numbers and texts, such as `top[2].name`, and what is there."""
    if isinstance(value, dict) and value:
        for key, of in value.items():
            yield from leaves(of, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for place, of in enumerate(value):
            yield from leaves(of, f"{path}[{place}]")
    else:
        text = json.dumps(value, ensure_ascii=False)
        yield path, text if len(text) <= 120 else f"{text[:117]}..."


def of_table(one: bytes, other: bytes) -> list[str]:
    """Columns that only one side has, another number of rows, and by column what differs."""
    if sorted(one.splitlines()) == sorted(other.splitlines()):
        return ["the same rows in another order"]
    before, after = pd.read_csv(io.BytesIO(one)), pd.read_csv(io.BytesIO(other))
    lines = [f"column {name}: removed" for name in before if name not in after]
    lines += [f"column {name}: added" for name in after if name not in before]
    if len(before) != len(after):
        return [*lines, f"{len(before)} rows -> {len(after)} rows"]
    both = {name: of_values(before[name].to_numpy(), after[name].to_numpy()) for name in before if name in after}
    return lines + [f"column {name}: {said}" for name, said in both.items() if said]


def of_text(one: bytes, other: bytes) -> list[str]:
    """Lines that differ."""
    both = enumerate(zip_longest(one.decode().splitlines(), other.decode().splitlines()), start=1)
    return [f"line {number}: {before!r} -> {after!r}" for number, (before, after) in both if before != after]


def of_array(one: bytes, other: bytes) -> list[str]:
    """What differs between two NPY files."""
    said = of_values(np.load(io.BytesIO(one)), np.load(io.BytesIO(other)))
    return [said] if said else []


def of_store(one: bytes, other: bytes) -> list[str]:
    """Variables that only one side has, by variable what differs, and attributes."""
    stores = json.loads(one), json.loads(other)
    before, after = (store["variables"] for store in stores)
    lines = [f"variable {name}: removed" for name in before if name not in after]
    lines += [f"variable {name}: added" for name in after if name not in before]
    for name in (name for name in before if name in after and before[name] != after[name]):
        forms = [side[name]["form"] for side in (before, after)]
        said = of_values(*(np.array(side[name]["values"]) for side in (before, after)))
        lines += [f"variable {name}: {forms[0]} -> {forms[1]}"] * (forms[0] != forms[1])
        lines += [f"variable {name}: {said}"] if said else []
    attrs = [json.dumps(store["attrs"]).encode() for store in stores]
    return lines + ([f"attribute {line}" for line in of_json(*attrs)] if attrs[0] != attrs[1] else [])


def of_values(one: np.ndarray, other: np.ndarray) -> str:
    """How far two arrays are from each other; nothing if they are equal, undefined values being equal too."""
    if one.shape != other.shape:
        return f"shape {one.shape} -> {other.shape}"
    if not all(np.issubdtype(values.dtype, np.number) or values.dtype == bool for values in (one, other)):
        one, other = one.astype(str).ravel(), other.astype(str).ravel()
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


DIFFERENCES = {
    ".csv": of_table,
    ".json": of_json,
    ".jsonl": of_json,
    ".npy": of_array,
    ".svg": lambda one, other: ["differs"],
    ".txt": of_text,
    ".zarr": of_store,
}


def headlines(folder: Path) -> dict[str, float]:
    """The headline numbers that the commands of `HEADLINE_COMMANDS` leave, to four digits."""
    found: dict[str, float] = {}
    for run in ("tiny-gpt2", "planted"):
        [summary, heads, preferences, composition] = (
            read(folder / run, name)
            for name in ("summary.json", "heads.csv", "preferences_model.csv", "composition.csv")
        )
        for name in ("accuracy", "hub", "sequential", "skip"):
            found |= {f"{run} {name} {end}": summary[name][end] for end in ("estimate", "low", "high")}
        for name in ("hub", "thoughts", "question"):
            found[f"{run} evidence of {name}"] = summary["evidence"][name]["estimate"]
        for row in preferences[preferences["measure"] == "preference"].dropna().to_dict("records"):
            found[f"{run} hub preference {row['position']}"] = row["estimate"]
        for row in composition[composition["query"] == "z6"].head(5).to_dict("records"):
            found[f"{run} attention of z6 to {row['part']}"] = row["estimate"]
        for row in heads.head(3).to_dict("records"):
            for name in ("importance", "thought_mass", "hub_preference", "sequential", "skip"):
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
    parser.add_argument("--keep", action="store_true", help="Keep the outputs in a folder below the system's own.")
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
        if asked.out or asked.keep:
            print(f"outputs: {out}")
        else:
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
