"""Negative entropy of attention rows: against loops over single numbers."""

import math

import pytest
import torch
from small import (
    small_conditional_config,
    small_config,
    small_deformable_config,
    stirred,
    unequal_batch,
)

from detr_steps.analysis.sparsity import (
    sparsity,
    sparsity_along,
    sparsity_by_layer,
)
from detr_steps.files import write_json, write_tensors
from detr_steps.images import ImageBatch
from detr_steps.nn.references import shrink_padding
from detr_steps.training import kept_weights
from detr_steps.training.folder import kept_file

SEVEN = [0.5, 0.25, 0.125, 0.125, 0.0, 0.0, 0.0]  # the last two are padding


def plain(rows, key_padding=None, query_padding=None):
    """One number after another: every row of every image and head that counts."""
    batch, heads, queries, keys = rows.shape
    found = {name: [[] for _ in range(heads)] for name in
             ("row", "per_key", "per_valid_key", "normalised")}  # fmt: skip
    means = []
    for b in range(batch):
        valid = [s for s in range(keys) if key_padding is None or not key_padding[b, s]]
        for q in range(queries):
            if query_padding is not None and query_padding[b, q]:
                continue
            for m in range(heads):
                total = 0.0
                for s in valid:
                    p = float(rows[b, m, q, s])
                    total += p * math.log(p) if p > 0 else 0.0
                found["row"][m].append(total)
                found["per_key"][m].append(total / keys)
                found["per_valid_key"][m].append(total / len(valid))
                most = math.log(len(valid)) if len(valid) > 1 else 1.0
                found["normalised"][m].append(total / most)
            total = 0.0
            for s in valid:
                p = sum(float(rows[b, m, q, s]) for m in range(heads)) / heads
                total += p * math.log(p) if p > 0 else 0.0
            means.append(total)
    average = {k: [sum(v) / len(v) for v in rows] for k, rows in found.items()}
    return average | {"head_mean": sum(means) / len(means)}


def random_rows(seed=0, shape=(3, 2, 4, 7), padded=(0, 2, 6)):
    generator = torch.Generator().manual_seed(seed)
    batch, _, queries, keys = shape
    key_padding = torch.zeros(batch, keys, dtype=torch.bool)
    query_padding = torch.zeros(batch, queries, dtype=torch.bool)
    for b, count in enumerate(padded):
        key_padding[b, keys - count :] = True
        query_padding[b, queries - min(count, queries - 1) :] = count > 0
    logits = 3 * torch.randn(shape, generator=generator)
    logits = logits.masked_fill(key_padding[:, None, None], -math.inf)
    return logits.softmax(-1), key_padding, query_padding


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("paddings", [(), (0,), (0, 1)])
def test_it_is_what_loops_over_numbers_say(seed, paddings):
    rows, *padding = random_rows(seed, padded=(0, 2, 6) if paddings else (0, 0, 0))
    given = [padding[at] for at in paddings]
    wanted = plain(rows, *given)
    found = sparsity(rows, *given)
    for name, value in found._asdict().items():
        assert value.tolist() == pytest.approx(wanted[name], rel=1e-5, abs=1e-6), name


def test_seven_cells_by_hand():
    rows = torch.tensor(SEVEN).view(1, 1, 1, 7)
    padding = torch.tensor([[False] * 5 + [True] * 2])
    # 1/2 log 2 + 1/4 log 4 + 2 · 1/8 log 8 = 1.75 log 2
    found = sparsity(rows, padding)
    assert found.row.item() == pytest.approx(-1.75 * math.log(2))
    assert found.per_key.item() == pytest.approx(-1.75 * math.log(2) / 7)
    assert found.per_valid_key.item() == pytest.approx(-1.75 * math.log(2) / 5)
    assert found.normalised.item() == pytest.approx(-1.75 * math.log(2) / math.log(5))
    assert found.head_mean.item() == pytest.approx(found.row.item())


def test_flat_attention_over_many_keys_looks_sparse_to_the_formula_with_1_over_m():
    one_hot = torch.zeros(1, 1, 1, 850)
    one_hot[..., 17] = 1
    flat = torch.full((1, 1, 1, 850), 1 / 850)
    assert sparsity(one_hot).row.item() == 0 == sparsity(one_hot).normalised.item()
    assert sparsity(flat).row.item() == pytest.approx(-math.log(850), rel=1e-5)
    assert sparsity(flat).normalised.item() == pytest.approx(-1, rel=1e-5)
    assert sparsity(flat).per_key.item() == pytest.approx(-0.008, abs=1e-4)


def test_heads_that_look_apart_are_sparse_each_and_not_together():
    rows = torch.eye(2).view(1, 2, 1, 2)  # head 0 reads cell 0, head 1 cell 1
    found = sparsity(rows)
    assert found.row.tolist() == [0, 0]
    assert found.head_mean.item() == pytest.approx(-math.log(2))


def test_padded_queries_do_not_count_even_when_their_rows_are_nonsense():
    rows, keys, queries = random_rows()
    spoiled = rows.masked_fill(queries[:, None, :, None], math.nan)
    for a, b in zip(sparsity(rows, keys, queries), sparsity(spoiled, keys, queries)):
        assert torch.equal(a, b)


def test_half_precision_is_near():
    rows, keys, queries = random_rows()
    for a, b in zip(
        sparsity(rows, keys, queries), sparsity(rows.half(), keys, queries)
    ):
        assert torch.allclose(a, b, atol=2e-3)


ROWS, KEYS, QUERIES = random_rows()


@pytest.mark.parametrize(
    ("rows", "keys", "queries", "says"),
    [
        (ROWS[0], None, None, r"shape \[2, 4, 7\]: give weights \[B, M, Q, S\]"),
        (ROWS[:, :, :0], None, None, "give weights"),
        (ROWS, torch.ones_like(KEYS), None, "image 0: all 7 keys are padding"),
        (ROWS, KEYS, torch.ones_like(QUERIES), "image 0: all 4 queries are padding"),
        (ROWS, KEYS[:, :5], None, r"key_padding \[3, 5\].*give \[3, 7\] bool"),
        (ROWS, KEYS.float(), None, "True where padded"),
        (ROWS, KEYS, QUERIES[:2], "query_padding"),
        (ROWS.log().clamp(min=-9), None, None, "after the softmax"),
        (ROWS * math.nan, None, None, "over padding only it is NaN"),
        (ROWS / 2, None, None, "add up to 1 only within 0.5"),
        (
            ROWS,
            ~KEYS & KEYS.any(1, keepdim=True),
            None,
            "weight to keys of key_padding",
        ),
    ],
)
def test_bad_rows_are_named(rows, keys, queries, says):
    with pytest.raises(ValueError, match=says):
        sparsity(rows, keys, queries)


# --- of models ------------------------------------------------------------------


@pytest.mark.parametrize("config", [small_config(), small_conditional_config()])
def test_every_layer_and_attention_of_a_model(config):
    model, batch = stirred(config), unequal_batch()
    found = sparsity_by_layer(model, batch)
    with torch.no_grad():
        trace = model(batch, trace=True).trace
    padding = shrink_padding(batch.padding, trace.sizes[0]).flatten(1)
    wanted = {
        "encoder": [plain(x.weights, padding, padding) for x in trace.encoder],
        "decoder_self": [plain(x.weights) for x in trace.decoder_self],
        "decoder_cross": [plain(x.weights, padding) for x in trace.decoder_cross],
    }
    assert list(found) == list(wanted)
    for name, layers in wanted.items():
        for part, value in found[name]._asdict().items():
            slow = [layer[part] for layer in layers]
            assert value.tolist() == [pytest.approx(x, abs=1e-5) for x in slow]
    assert found["encoder"].row.shape == (2, 4)
    assert found["decoder_cross"].row.shape == (3, 4)
    assert found["decoder_cross"].head_mean.shape == (3,)


def test_attentions_that_sample_points_are_left_out_or_refused():
    model = stirred(small_deformable_config())
    assert list(sparsity_by_layer(model, unequal_batch())) == ["decoder_self"]


def test_a_picture_of_padding_only_is_named():
    whole = unequal_batch()
    padding = whole.padding.clone()
    padding[1] = True
    batch = ImageBatch(whole.pixels, padding)
    with pytest.raises(ValueError, match="image 1: all .* keys are padding"):
        sparsity_by_layer(stirred(small_config()), batch)


def kept_run(tmp_path, models):
    write_json(tmp_path / "recipe.json", {})
    for step, model in models.items():
        half = {k: v.half() for k, v in model.state_dict().items()}
        write_tensors(kept_file(tmp_path, step), half, {"step": step})
    return tmp_path


def test_along_a_training_it_is_each_kept_models(tmp_path):
    torch.manual_seed(3)
    models = {step: small_config().build() for step in (0, 50, 1000)}
    run, batch = kept_run(tmp_path, models), unequal_batch()
    actor = stirred(small_config())
    before = {k: v.clone() for k, v in actor.state_dict().items()}
    curve = sparsity_along(actor, kept_weights(run), batch)
    assert all(torch.equal(v, before[k]) for k, v in actor.state_dict().items())
    assert curve.steps == [0, 50, 1000]
    for at, model in enumerate(models.values()):
        for name, layers in sparsity_by_layer(model, batch).items():
            for now, alone in zip(curve.attentions[name], layers):
                assert torch.allclose(now[at], alone, atol=1e-3)
    assert curve.attentions["decoder_cross"].row.shape == (3, 3, 4)


def test_checkpoints_of_different_query_numbers_are_named(tmp_path):
    models = {0: small_config().build(), 7: small_config(queries=8).build()}
    run = kept_run(tmp_path, models)
    says = r"step 7 are of another model: queries.weight is \[8, 32\], here \[5, 32\]"
    with pytest.raises(ValueError, match=says):
        sparsity_along(models[0], kept_weights(run), unequal_batch())


def test_a_run_that_kept_nothing_and_no_run_are_named(tmp_path):
    run = kept_run(tmp_path, {})
    with pytest.raises(ValueError, match="train with steps in the recipe's keep"):
        sparsity_along(small_config().build(), kept_weights(run), unequal_batch())
    with pytest.raises(FileNotFoundError, match="no run in"):
        list(kept_weights(tmp_path / "nowhere"))
