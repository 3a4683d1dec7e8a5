"""Thinking and attention without any of the package's loop: whole sequences, no cache, batch of one, eager attention.

Each thought is made by running the whole sequence again. At the end one pass over the embeddings of
[question, bot, z1 … zT, eot, answer] gives every attention row at once, read from transformers.
"""

import copy

import torch


def eager(lm):
    twin = copy.deepcopy(lm)
    twin.set_attn_implementation("eager")
    return twin


@torch.no_grad()
def think(lm, projection, question_ids, bot, eot, n_thoughts):
    """Embeddings (1, position, hidden) of question, bot, thoughts, eot; and the thoughts (thought, hidden)."""
    embed = lm.get_input_embeddings()
    sequence = embed(torch.tensor([[*question_ids, bot]]))
    thoughts = []
    for _ in range(n_thoughts):
        last = lm.base_model(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, -1]
        thoughts.append(projection(last))
        sequence = torch.cat([sequence, thoughts[-1][:, None]], dim=1)
    sequence = torch.cat([sequence, embed(torch.tensor([[eot]]))], dim=1)
    return sequence, torch.cat(thoughts)


@torch.no_grad()
def greedy(lm, sequence, banned, end, most):
    """Token ids said after a sequence, the whole of which is run again for each."""
    embed = lm.get_input_embeddings()
    said = []
    for _ in range(most):
        logits = lm(inputs_embeds=sequence, use_cache=False).logits[0, -1]
        logits[banned] = -torch.inf
        token = int(logits.argmax())
        if token == end:
            break
        said.append(token)
        sequence = torch.cat([sequence, embed(torch.tensor([[token]]))], dim=1)
    return said


@torch.no_grad()
def attention_rows(lm, sequence, n_question, n_thoughts, answer_ids, value_at):
    """Pooled rows (layer, head, T + 3, T + 5).

    value_at: index in answer_ids of the value's first token; the `answer` query is the one before it.
    """
    embed = lm.get_input_embeddings()
    full = torch.cat([sequence, embed(torch.tensor([answer_ids]))], dim=1)
    patterns = lm.base_model(inputs_embeds=full, use_cache=False, output_attentions=True).attentions
    slots = [[0], list(range(1, n_question))]
    slots += [[n_question + step] for step in range(n_thoughts + 2)]
    slots += [list(range(n_question + n_thoughts + 2, full.shape[1]))]
    queries = [n_question + step for step in range(n_thoughts + 2)]
    queries += [n_question + n_thoughts + 2 + value_at - 1]
    rows = []
    for pattern in patterns:
        of_layer = [torch.stack([pattern[0, :, query, slot].sum(-1) for slot in slots], -1) for query in queries]
        rows.append(torch.stack(of_layer, dim=1))
    return torch.stack(rows)
