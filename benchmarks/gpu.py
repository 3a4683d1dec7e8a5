"""What a GPU makes of extraction and cuts: checks first, then tables, in under four minutes on one card.

    python -m benchmarks.gpu              all of it; `make bench-gpu` does the same
    python -m benchmarks.gpu --dry-run    what would be checked and measured, as is said too where there is no GPU
    python -m benchmarks.gpu --tiny       the same with models of no size, on any device: a test of the script

Weights are random, in the true shapes; questions are as long as GSM8K's, three batches each, of short, middling and
long ones. Times are wall times of a batch after warm-up, attention left on the device; all columns are of one process.
Every line is printed when it is known, and with `--out FILE` written there as JSON: where time ends, nothing is lost.

The script needs torch, transformers and lazy_loader. It imports neither the store nor zarr or xarray; without peft the
2025 method runs with merged weights, which makes it faster than it was.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from benchmarks import shapes
from benchmarks.methods import method_2025
from thoughtlens.cuts import Scale, Zero, ablate_head, ablate_thought, knock_out, weaken_edge
from thoughtlens.cuts.edit_tensors import tensors_of
from thoughtlens.cuts.interventions import Variants
from thoughtlens.cuts.passes import Batch, Cutting, copies_at_once, sizes_of
from thoughtlens.models import Codi, Markers, fuse_gelu, projection
from thoughtlens.problems import Problem
from thoughtlens.reasoning import BatchPass, Steps, reason, recorder_for, tell, think
from thoughtlens.taps import ATTENTION, Taps

N_THOUGHTS = 6
SECONDS = 225.0
"""After so many no further part begins."""

LENGTHS = (
    *(11, 25, 28, 29, 31, 32, 33, 34, 35, 36, 36, 37, 38, 39, 39, 40, 41, 42, 42, 43, 44, 44, 45, 46, 46, 47, 48, 48),
    *(49, 50, 51, 52, 52, 53, 54, 55, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 69, 70, 72, 73, 75, 76, 79),
    *(81, 83, 86, 90, 94, 98, 105, 118, 219),
)
"""Quantiles, in 64ths, of the tokens of GSM8K's 7,473 training questions (`benchmarks.lengths`); their mean is 56."""
N_GSM8K = 7473

BATCHES = {"gpt2": (32, 128, 512), "llama": (32, 128, 512), "llama-8b": (32, 128)}
SPOKEN = (list(range(10, 15)), [20, 21, 0])
"""A told answer: five tokens of prefix, two of value, the end."""

TINY = {
    "gpt2": lambda: GPT2Config(vocab_size=103, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "llama": lambda: LlamaConfig(
        vocab_size=103,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    ),
}

PARTS = {
    "capture": "thoughts, attention, told answers, generated tokens and cuts of every kind of two small models, in "
    "float32: captured steps against the loop on the CPU (1e-4); and no step waits for the host (sync debug mode)",
    "float32": "GPT-2 124M in float32, 8 problems: attention on CUDA against the CPU (1e-4)",
    "table": "problems a second of GPT-2 124M, LLaMA 1B and 8B in bfloat16, in batches of 32, 128 and 512: the 2025 "
    "method, the loop, the question's pass alone, captured steps, and peak memory (GPT-2 at least 5,000 at 128; 1B at "
    "least 800 at 32 and 1,700 at 128)",
    "sweep": "128 heads of the 1B shape cut one by one on 64 problems (at least 4,000 cuts × problems a second)",
    "precision": "how far bfloat16 moves attention and thoughts, thought by thought: between batches, from float32",
}


@dataclass
class Report:
    """Prints lines as they come, and writes them as JSON."""

    out: Path | None
    began: float = field(default_factory=time.perf_counter)

    def __call__(self, part: str, said: str, **values: Any) -> None:
        seconds = time.perf_counter() - self.began
        print(f"{seconds:6.1f} s  {said}", flush=True)
        if self.out:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"part": part, "said": said, "at": round(seconds, 1), **values}) + "\n")


@dataclass(frozen=True)
class Setting:
    """Where it runs, and on what."""

    device: torch.device
    tiny: bool

    def config(self, model: str, n_layers: int | None = None) -> Any:
        return TINY["llama" if "llama" in model else model]() if self.tiny else shapes.config_of(model, n_layers)

    def batches(self, model: str) -> Sequence[int]:
        return (3,) if self.tiny else BATCHES[model]

    @property
    def half(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16


def reasoner_of(config: Any, device: torch.device, dtype: torch.dtype, attention: str = ATTENTION) -> Codi:
    """Random weights, the same on every device: drawn on it only where a model is large."""
    torch.manual_seed(0)
    large = config.hidden_size * config.num_hidden_layers > 10_000
    with torch.device(device if large else "cpu"):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=dtype if large else torch.float32, attn_implementation=attention
        )
        fed = projection(config.hidden_size, config.hidden_size)
    lm, fed = fuse_gelu(lm).to(device, dtype).eval(), fed.to(device, dtype).eval()
    return Codi(lm, fed, shapes.TokenIds(), Markers(config.vocab_size - 3), N_THOUGHTS)


def prompts_of(reasoner: Codi, n: int, quantile: float = 0.5) -> list[list[int]]:
    """Questions of like length around a quantile of GSM8K's, as extraction batches them; each ends in `bot`."""
    middle, half = np.clip(quantile, n / N_GSM8K / 2, 1 - n / N_GSM8K / 2), n / N_GSM8K / 2
    places = np.linspace(middle - half, middle + half, n)
    lengths = np.interp(places, np.linspace(0, 1, len(LENGTHS)), LENGTHS).round().astype(int)
    rng = torch.Generator().manual_seed(n)
    drawn = [torch.randint(21, reasoner.markers.vocabulary, (length,), generator=rng).tolist() for length in lengths]
    return [[*ids, reasoner.markers.bot] for ids in drawn]


def seconds_of(work: Callable[[], object], device: torch.device, *, rounds: int = 3, warm_ups: int = 2) -> float:
    """Median wall time of some rounds."""
    taken = []
    for _ in range(warm_ups + rounds):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[warm_ups:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attention_of(reasoner: Codi, prompts: Sequence[Sequence[int]], steps: Steps | None, n_new: int = 0) -> Any:
    """The trace of a batch, and its attention."""
    rows = recorder_for(reasoner, len(prompts), N_THOUGHTS)
    return reason(reasoner, prompts, taps=[rows], max_new_tokens=n_new, steps=steps), rows


# The parts.


def capture(setting: Setting, report: Report) -> None:
    for name, config in TINY.items():
        host = reasoner_of(config(), torch.device("cpu"), torch.float32)
        reasoner = reasoner_of(config(), setting.device, torch.float32)
        steps, prompts = Steps(reasoner), prompts_of(reasoner, 12)
        trace, rows = attention_of(host, prompts, None, n_new=20)
        n_times = 4 if setting.device.type == "cuda" else 1  # as it is, then captured, then replayed
        for _ in range(n_times):
            its, its_rows = attention_of(reasoner, prompts, steps, n_new=20)
        worst = {"attention": difference(its_rows.attention, rows.attention)}
        worst["thoughts"] = difference(its.thoughts.cpu(), trace.thoughts)
        cuts = [cut.parts for cut in _kinds()] * 2
        expected = _cutting(host, prompts, None).outcomes(cuts)
        cutting = _cutting(reasoner, prompts, steps)
        for _ in range(n_times):
            found = cutting.outcomes(cuts)
        for column in ("prefix_logprob", "gold_logprob", "kl"):
            worst[column] = float(abs(getattr(found, column) - getattr(expected, column)).max())
        same = its.tokens == trace.tokens
        report(
            "capture",
            f"{name}, small: {_agreed(max(worst.values()) <= 1e-4 and same)}; largest differences "
            + ", ".join(f"{what} {value:.1e}" for what, value in worst.items())
            + f"; generated tokens {'equal' if same else 'DIFFER'}",
            model=name,
            same_tokens=same,
            **worst,
        )
        with _no_waiting(setting.device) as checked:
            _think_and_tell(reasoner, prompts, cuts)
        report("capture", f"{name}, small: steps {'wait for nothing' if checked else 'were not watched: no CUDA'}")


def _kinds() -> list[Any]:
    heads = [ablate_head("L0H1", edit=Zero()), ablate_head("L1H2", edit=Scale(0.5), queries=["z2", "eot"])]
    return [*heads, ablate_thought("z2", edit=Zero()), knock_out("z3", "z1"), weaken_edge("eot", "z2", 0.25)]


def _cutting(reasoner: Codi, prompts: list[list[int]], steps: Steps | None) -> Cutting:
    problems = tuple(Problem(str(place), "?", "7") for place in range(len(prompts)))
    return Cutting(reasoner, Batch(problems, prompts, [SPOKEN] * len(prompts), 2), N_THOUGHTS, steps=steps)


@contextmanager
def _no_waiting(device: torch.device) -> Iterator[bool]:
    """Within, what makes the host wait for the device is an error."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield on_gpu
    finally:
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")


@torch.inference_mode()
def _think_and_tell(reasoner: Codi, prompts: Sequence[Sequence[int]], cuts: Sequence[Any]) -> None:
    """Steps that are not captured yet, under cuts: the first of a room run as they are."""
    mode = torch.cuda.get_sync_debug_mode() if reasoner.lm.device.type == "cuda" else 0
    with _debugging(reasoner.lm.device, 0):  # the question's tokens are copied to the device, and the answers
        batch = _entered(reasoner, prompts, cuts, Steps(reasoner))
        ids = torch.full((len(batch.keys), 1), 12, device=batch.device)
    with _debugging(reasoner.lm.device, mode):
        think(batch, reasoner.markers.bot, N_THOUGHTS)
        batch.step(ids, batch.all("answer"), batch.all("text"))


@contextmanager
def _debugging(device: torch.device, mode: int) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _entered(reasoner: Codi, prompts: Sequence[Sequence[int]], cuts: Sequence[Any], steps: Steps) -> BatchPass:
    reading = BatchPass(reasoner, Taps(), N_THOUGHTS)
    reading.question([prompt[:-1] for prompt in prompts])
    edits = tensors_of(cuts, sizes_of(reasoner, len(cuts), len(prompts), N_THOUGHTS))
    assert edits is not None
    return steps.enter(reading, len(cuts), taps=Taps([edits]))


def float32(setting: Setting, report: Report) -> None:
    host, reasoner = (
        reasoner_of(setting.config("gpt2"), device, torch.float32) for device in (torch.device("cpu"), setting.device)
    )
    prompts = prompts_of(reasoner, 8)
    _, expected = attention_of(host, prompts, None)
    steps, worst = Steps(reasoner), {}
    for name, its in (("loop", None), ("captured", steps), ("captured", steps), ("captured", steps)):
        worst[name] = difference(attention_of(reasoner, prompts, its)[1].attention, expected.attention)
    said = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    report("float32", f"GPT-2 124M in float32 against the CPU: {_agreed(max(worst.values()) <= 1e-4)}; {said}", **worst)


def table(setting: Setting, report: Report) -> None:
    report("table", f"{'shape':9} {'batch':>5}  2025 p/s  loop ms (p/s)   question ms  captured ms (p/s)  peak GiB")
    for model in BATCHES:
        reasoner = reasoner_of(setting.config(model), setting.device, setting.half)
        slow = None if model == "llama-8b" else _slow(reasoner, setting)
        for n in setting.batches(model):
            if time.perf_counter() - report.began > SECONDS:
                report("table", f"{model}, batch {n} and larger: left out, the time is over")
                break
            _row(reasoner, model, n, slow if n == setting.batches(model)[0] else None, setting, report)
        del reasoner
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def _slow(reasoner: Codi, setting: Setting) -> float:
    """Problems a second of the 2025 method, on four of them."""
    lm = shapes.sharing(reasoner.lm)
    lm.set_attn_implementation("eager")
    adapted = replace(reasoner, lm=shapes.with_lora(lm) if importlib.util.find_spec("peft") else lm)
    questions = [" ".join(map(str, prompt[:-1])) for prompt in prompts_of(reasoner, 4)]
    taken = seconds_of(
        lambda: [method_2025(adapted, q, N_THOUGHTS) for q in questions], setting.device, rounds=1, warm_ups=1
    )
    return len(questions) / taken


def _row(reasoner: Codi, model: str, n: int, slow: float | None, setting: Setting, report: Report) -> None:
    device, steps = setting.device, Steps(reasoner)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken: dict[str, list[float]] = {"question": [], "loop": [], "captured": []}
    for quantile in (1 / 6, 1 / 2, 5 / 6):
        prompts = prompts_of(reasoner, n, quantile)
        taken["question"].append(seconds_of(lambda its=prompts: _read(reasoner, its), device))
        taken["loop"].append(seconds_of(lambda its=prompts: attention_of(reasoner, its, None), device))
        taken["captured"].append(seconds_of(lambda its=prompts: attention_of(reasoner, its, steps), device, warm_ups=3))
    ms = {name: 1000 * float(np.mean(values)) for name, values in taken.items()}
    rates = {name: 1000 * n / value for name, value in ms.items()}
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    report(
        "table",
        f"{model:9} {n:5}  {'' if slow is None else f'{slow:8.1f}':8}  {ms['loop']:7.1f} ({rates['loop']:5.0f})  "
        f"{ms['question']:11.1f}  {ms['captured']:8.1f} ({rates['captured']:6.0f})  {peak:8.1f}",
        **{"model": model, "batch": n, "problems_2025": slow, "ms": ms, "problems": rates, "peak": peak},
    )


@torch.inference_mode()
def _read(reasoner: Codi, prompts: Sequence[Sequence[int]]) -> Tensor:
    return BatchPass(reasoner, Taps(), N_THOUGHTS).question([prompt[:-1] for prompt in prompts])


def sweep(setting: Setting, report: Report) -> None:
    config = setting.config("llama")
    reasoner = reasoner_of(config, setting.device, setting.half)
    n_heads, n_problems = (8, 2) if setting.tiny else (128, 64)
    every = list(product(range(config.num_hidden_layers), range(config.num_attention_heads)))
    cuts = [ablate_head(head, edit=Zero()).parts for head in every[:: max(1, len(every) // n_heads)][:n_heads]]
    prompts, steps = prompts_of(reasoner, n_problems), Steps(reasoner)
    for told in (False, True):
        rates = {}
        for name, its in (("loop", None), ("captured", steps)):
            taken = seconds_of(
                lambda its=its, told=told: _swept(reasoner, prompts, cuts, its, told), setting.device, rounds=1
            )
            rates[name] = len(cuts) * len(prompts) / taken
        what = "thoughts and an answer of 8 tokens told" if told else "thoughts alone"
        report(
            "sweep",
            f"{len(cuts)} heads × {len(prompts)} problems, {what}, cuts × problems a second: "
            + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()),
            told=told,
            **rates,
        )


@torch.inference_mode()
def _swept(
    reasoner: Codi, prompts: Sequence[Sequence[int]], cuts: Sequence[Any], steps: Steps | None, told: bool
) -> None:
    reading = BatchPass(reasoner, Taps(), N_THOUGHTS)
    reading.question([prompt[:-1] for prompt in prompts])
    n_copies = copies_at_once(reasoner, list(map(len, prompts)), N_THOUGHTS)
    for start in range(0, len(cuts), n_copies):
        some = cuts[start : start + n_copies]
        if steps is None:
            batch = reading.fork(len(some), taps=Taps([Variants(some, len(prompts))]))
        else:
            edits = tensors_of(some, sizes_of(reasoner, len(some), len(prompts), N_THOUGHTS))
            assert edits is not None
            batch = steps.enter(reading, len(some), taps=Taps([edits]))
        state = think(batch, prompts[0][-1], N_THOUGHTS).state
        if told:
            tell(batch, state, [SPOKEN] * len(state))


def precision(setting: Setting, report: Report) -> None:
    for model in ("gpt2", "llama", "llama-8b")[: 2 if setting.tiny else 3]:
        if time.perf_counter() - report.began > SECONDS:
            report("precision", f"{model}: left out, the time is over")
            continue
        reasoner = reasoner_of(setting.config(model), setting.device, setting.half)
        prompts, steps = prompts_of(reasoner, 32), Steps(reasoner)
        (half, its), (whole, others) = (_first(reasoner, prompts[:n], steps) for n in (16, 32))
        _grown(report, model, "between batches of 16 and 32", (half, its), (whole, others))
        if model != "llama-8b":
            reasoner = replace(reasoner, lm=reasoner.lm.float(), projection=reasoner.projection.float())
            _grown(report, model, "from float32", (half, its), _first(reasoner, prompts[:16], Steps(reasoner)))
        del reasoner, steps


def _first(reasoner: Codi, prompts: Sequence[Sequence[int]], steps: Steps) -> tuple[Tensor, Tensor]:
    trace, rows = attention_of(reasoner, prompts, steps)
    return trace.thoughts[:16].float(), rows.attention[:16]


def _grown(report: Report, model: str, what: str, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    moved = (one[0] - other[0]).norm(dim=-1) / other[0].norm(dim=-1)
    of_thoughts = moved.amax(0).tolist()
    of_cells = [difference(a, b) for a, b in zip(one[1].unbind(3)[1:7], other[1].unbind(3)[1:7], strict=True)]
    report(
        "precision",
        f"{model}, {what}: z1 to z6 by {', '.join(f'{value:.1e}' for value in of_thoughts)} of their length; "
        f"cells of their attention by {', '.join(f'{value:.1e}' for value in of_cells)}",
        **{"model": model, "between": what, "thoughts": of_thoughts, "cells": of_cells},
    )


def difference(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference; rows that did not occur are left out, and must be the same."""
    assert torch.equal(one.isnan(), other.isnan())
    return float((one.nan_to_num() - other.nan_to_num()).abs().max())


def _agreed(good: bool) -> str:
    return "agree" if good else "DO NOT AGREE"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="say what would be checked and measured")
    parser.add_argument("--tiny", action="store_true", help="models of no size, on any device")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some parts alone")
    parser.add_argument("--out", type=Path, help="a file for the figures, a line of JSON each")
    asked = parser.parse_args(arguments)
    there = torch.cuda.is_available()
    if asked.dry_run or not (there or asked.tiny):
        print(
            "With a GPU, this would be checked and measured, in under four minutes:"
            if there
            else "No GPU is here. With one:"
        )
        for name in asked.only:
            print(f"  {name:9}  {PARTS[name]}")
        return
    device = torch.device("cuda" if there else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    report = Report(asked.out)
    card = torch.cuda.get_device_name(device) if there else "no GPU; what is measured says nothing about one"
    report("card", f"{card}; torch {torch.__version__}", card=card, torch=torch.__version__)
    setting = Setting(device, asked.tiny)
    for name in asked.only:
        if time.perf_counter() - report.began > SECONDS:
            report(name, f"{name}: left out, the time is over")
            continue
        {"capture": capture, "float32": float32, "table": table, "sweep": sweep, "precision": precision}[name](
            setting, report
        )
    report("end", "done")


if __name__ == "__main__":
    main()
