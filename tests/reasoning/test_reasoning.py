"""The loop against an oracle that shares no code with it (tests/oracle.py)."""

import numpy as np
import pytest
import torch
from tests import oracle
from tests.conftest import QUESTIONS, Scripted, random_reasoner

from thoughtlens.errors import OptionError
from thoughtlens.reasoning import BatchPass, reason, tell, think, write_out
from thoughtlens.taps import AttentionRecorder, PaddingWatch, Taps

SAID = ["The answer is: 8", "The answer is:  17.", "<<12+3=15>> The answer is: 6", "I do not know"]
# Token at which the value begins; None where the prefix is never said.
N_NEW = 12


def record(reasoner, questions, *, dtype=torch.float32, n_thoughts=6, taps=(), **options):
    config = reasoner.lm.config
    recorder = AttentionRecorder(
        n_problems=len(questions),
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_thoughts=n_thoughts,
        dtype=dtype,
    )
    trace = reason(reasoner, questions, taps=[recorder, *taps], n_thoughts=n_thoughts, **options)
    return recorder.attention, trace


def value_index(reasoner, text):
    """Index of the value's first token, by its place in the text."""
    read = reasoner.tokenizer(text, return_offsets_mapping=True)
    value = text.index(":") + 1
    value += len(text[value:]) - len(text[value:].lstrip())
    return next(i for i, (start, end) in enumerate(read["offset_mapping"]) if start <= value < end), read["input_ids"]


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"),
    # LLaMA's RMSNorm computes in float32 whatever the model's precision, hence no float64 case for it.
    [("gpt2", torch.float32, 1e-5), ("llama", torch.float32, 1e-5), ("gpt2", torch.float64, 1e-9)],
)
@pytest.mark.parametrize("n_thoughts", [1, 6])
def test_batched_attention_equals_one_eager_pass_a_problem(family, dtype, tolerance, n_thoughts, tokenizer):
    reasoner = random_reasoner(family, tokenizer, dtype)
    markers = reasoner.markers
    found, trace = record(Scripted(reasoner, SAID), QUESTIONS, dtype=dtype, n_thoughts=n_thoughts)
    eager = oracle.eager(reasoner.lm)
    for row, (question, text) in enumerate(zip(QUESTIONS, SAID, strict=True)):
        ids = tokenizer(question)["input_ids"]
        sequence, thoughts = oracle.think(eager, reasoner.projection, ids, markers.bot, markers.eot, n_thoughts)
        torch.testing.assert_close(trace.thoughts[row], thoughts, rtol=0, atol=tolerance * 10)
        if ":" not in text:
            assert found[row, :, :, -1].isnan().all()
            continue
        value_at, answer = value_index(reasoner, text)
        expected = oracle.attention_rows(eager, sequence, len(ids), n_thoughts, answer[:value_at], value_at)
        assert (found[row] - expected).abs().max() <= tolerance


@pytest.mark.parametrize("reasoner", ["gpt2", "llama"], indirect=True)
def test_generated_tokens_equal_those_of_the_oracle(reasoner):
    markers = reasoner.markers
    trace = reason(reasoner, QUESTIONS, max_new_tokens=N_NEW)
    eager = oracle.eager(reasoner.lm)
    for question, said in zip(QUESTIONS, trace.tokens, strict=True):
        ids = reasoner.tokenizer(question)["input_ids"]
        sequence, _ = oracle.think(eager, reasoner.projection, ids, markers.bot, markers.eot, 6)
        assert said == oracle.greedy(eager, sequence, markers.eot, reasoner.tokenizer.eos_token_id, N_NEW)


def test_numbers_of_a_problem_do_not_depend_on_its_batch(reasoner):
    together, trace = record(Scripted(reasoner, SAID), QUESTIONS)
    backwards, _ = record(Scripted(reasoner, SAID[::-1]), QUESTIONS[::-1])
    torch.testing.assert_close(backwards.flip(0), together, rtol=0, atol=1e-5, equal_nan=True)
    for row, question in enumerate(QUESTIONS):
        alone, trace_alone = record(Scripted(reasoner, SAID[row : row + 1]), [question])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(trace_alone.thoughts[0], trace.thoughts[row], rtol=0, atol=1e-4)


def test_every_row_is_a_partition_and_padding_gets_nothing(reasoner):
    watch = PaddingWatch()
    attention, _ = record(Scripted(reasoner, SAID), QUESTIONS, taps=[watch])
    sums = attention.sum(-1)
    assert (sums[~sums.isnan()] - 1).abs().max() <= 1e-5
    assert watch.worst == 0.0


def test_mass_after_the_query_is_zero(reasoner):
    attention, _ = record(Scripted(reasoner, SAID), QUESTIONS)
    for query in range(attention.shape[-2]):
        assert (attention[..., query, query + 3 :].nan_to_num() == 0).all()


def test_first_thought_is_not_the_opening_marker(reasoner):
    """The 2025 scripts fed `bot` as step 0 and called its row the first thought's; `bot` attends to no thought."""
    attention, _ = record(Scripted(reasoner, SAID), QUESTIONS)
    bot, z1 = attention[:, :, :, 0], attention[:, :, :, 1]
    assert (bot[..., 3:] == 0).all()
    assert (z1[..., 3] > 0).all()  # z1 sees itself, apart from everything else


def test_all_thoughts_are_fed(reasoner):
    """The 2025 scripts computed the sixth thought and never fed it."""
    attention, trace = record(Scripted(reasoner, SAID), QUESTIONS)
    assert trace.thoughts.shape[1] == 6
    assert (attention[:, :, :, 6, 8] > 0).all()
    assert (attention[:, :, :, 7, 8] > 0).all()  # eot sees z6


def test_question_of_one_token_has_an_empty_question_slot(reasoner):
    attention, trace = record(Scripted(reasoner, SAID[:1]), ["?"])
    assert trace.n_question_tokens == [1]
    assert (attention[..., 1] == 0).all()


def test_numbers_of_thoughts_from_none_to_32(reasoner):
    for n_thoughts in (0, 2, 32):
        _, trace = record(reasoner, QUESTIONS, n_thoughts=n_thoughts, max_new_tokens=2)
        assert trace.thoughts.shape[:2] == (len(QUESTIONS), n_thoughts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_pattern_in_float32(dtype, tokenizer):
    reasoner = random_reasoner("gpt2", tokenizer, dtype)
    attention, _ = record(Scripted(reasoner, SAID), QUESTIONS, dtype=dtype)
    assert attention.dtype == torch.float32
    sums = attention.sum(-1)
    assert (sums[~sums.isnan()] - 1).abs().max() <= 1e-5


def test_writing_out_equals_plain_generation(reasoner):
    eager = oracle.eager(reasoner.lm)
    for question, text in zip(QUESTIONS, write_out(reasoner, QUESTIONS, max_new_tokens=N_NEW), strict=True):
        ids = torch.tensor([reasoner.tokenizer(question)["input_ids"]])
        sequence = reasoner.lm.get_input_embeddings()(ids)
        said = oracle.greedy(eager, sequence, reasoner.markers.eot, reasoner.tokenizer.eos_token_id, N_NEW)
        assert text == reasoner.decode(said)


def test_a_question_without_room_is_refused_in_one_sentence(reasoner):
    with pytest.raises(OptionError, match="does not fit into the model's 256 positions"):
        reason(reasoner, ["apples " * 300])


def test_answers_stop_where_positions_end(reasoner):
    trace = reason(Scripted(reasoner, ["many " * 300]), ["apples " * 200])
    assert len(trace.tokens[0]) + trace.n_question_tokens[0] + 8 <= 256


def test_a_long_neighbour_takes_no_room_from_a_short_question(reasoner):
    """What a problem may say depends on its own length, and positions of problems that are done stand still."""
    reasoner.lm.config.max_position_embeddings = 96
    long = "apples " * 70
    together = reason(reasoner, ["How many?", long])
    alone = [reason(reasoner, [question]) for question in ("How many?", long)]
    assert together.tokens == [trace.tokens[0] for trace in alone]
    assert len(together.tokens[0]) > len(together.tokens[1])


def test_thoughts_are_finite(reasoner):
    assert np.isfinite(reason(reasoner, QUESTIONS, max_new_tokens=1).thoughts.numpy()).all()


def test_problems_that_are_done_leave_the_batch_and_change_nothing_for_the_others(tokenizer):
    """Answers of very different lengths: half of the batch leaves early, and later rows must not be mixed up."""
    reasoner = random_reasoner("llama", tokenizer, torch.float64)
    texts = ["The answer is: 7", "x", "The answer is: 12 and so on and on", "y"]
    sizes = []

    def watch(tensor, moment):
        sizes.append(len(moment.rows))
        return tensor

    together, trace = record(Scripted(reasoner, texts), QUESTIONS[:4], taps=[watch], dtype=torch.float64, n_thoughts=2)
    assert min(sizes) < 4
    for row, text in enumerate(texts):
        scripted = Scripted(reasoner, [text])
        alone, said = record(scripted, [QUESTIONS[row]], dtype=torch.float64, n_thoughts=2)
        assert said.texts[0] == trace.texts[row] == text
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-7, equal_nan=True)


def test_a_fork_reads_on_as_the_whole_would_and_leaves_its_origin_alone(tokenizer):
    reasoner = random_reasoner("gpt2", tokenizer, torch.float64)
    prompts = [reasoner.question(question) for question in QUESTIONS[:2]]
    with torch.inference_mode():
        origin, again = (BatchPass(reasoner, Taps(), 2) for _ in range(2))
        for reading in (origin, again):
            reading.question(prompts)
        forked = think(origin.fork(3), reasoner.markers.bot, 2).thoughts
        alone = think(again, reasoner.markers.bot, 2).thoughts
        later = think(origin, reasoner.markers.bot, 2).thoughts
    torch.testing.assert_close(forked, alone.repeat(3, 1, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(later, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_told_answers_have_the_probability_of_one_eager_pass(family, tokenizer):
    reasoner = random_reasoner(family, tokenizer)
    answers = ["7", "1234"]
    prompts = [reasoner.question(question) for question in QUESTIONS[:2]]
    with torch.inference_mode():
        reading = BatchPass(reasoner, Taps(), 3)
        reading.question(prompts)
        thinking = think(reading, reasoner.markers.bot, 3)
        told = tell(reading, thinking.state, [reasoner.spoken(answer) for answer in answers])
    eager, embed = oracle.eager(reasoner.lm), reasoner.lm.get_input_embeddings()
    for row, answer in enumerate(answers):
        markers = reasoner.markers
        sequence, _ = oracle.think(eager, reasoner.projection, prompts[row], markers.bot, markers.eot, 3)
        prefix, value = reasoner.spoken(answer)
        with torch.no_grad():
            text = embed(torch.tensor([[*prefix, *value]]))
            logits = eager(inputs_embeds=torch.cat([sequence, text], dim=1), use_cache=False).logits[0]
        known = logits[sequence.shape[1] + len(prefix) - 1 :, : markers.eot].log_softmax(-1)
        expected = sum(known[place, token] for place, token in enumerate(value))
        assert tokenizer.decode([*prefix, *value]).startswith(f"The answer is: {answer}")
        torch.testing.assert_close(told.logprob[row], expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(told.first[row], known[0], rtol=0, atol=1e-4)
