"""The Transformer from scratch: the same numbers as torch's own layers, decoding step by step, nothing that leaks, and it learns."""
import contextlib
import inspect
import io
import logging
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fullstack_ml.core import BadConfig, BadInput, make
from fullstack_ml.models import transformer
from fullstack_ml.models.transformer import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    LearnedPositions,
    MultiHeadAttention,
    SinusoidalPositions,
    Transformer,
    attention,
    attention_weights,
    causal_mask,
    generate,
    padding_mask,
    sinusoidal_positions,
    watch_attention,
    weights_from_torch,
)

WIDTH, HEADS, LENGTH, KEYS = 16, 4, 7, 9
REAL, MEMORY_REAL = padding_mask(torch.tensor([LENGTH, 4]), LENGTH), padding_mask(torch.tensor([5, KEYS]), KEYS)
MASKS = {"none": None, "causal": causal_mask(LENGTH), "padding": REAL, "both": causal_mask(LENGTH) & REAL}
HOW = {"dim_feedforward": 24, "dropout": 0.0, "batch_first": True}


@pytest.fixture(autouse=True)
def seeded():
    """The same numbers each time, on one thread."""
    n = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture
def x():
    return torch.randn(2, LENGTH, WIDTH)


@pytest.fixture
def memory():
    return torch.randn(2, KEYS, WIDTH)


def shake(net: nn.Module) -> nn.Module:
    """Every weight, the norms' and biases too, away from where it starts: two that are mistaken for each other then show."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def twins(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    ours.load_state_dict(weights_from_torch(shake(theirs).state_dict()))
    return ours, theirs


def close(a, b, most=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=most)


def their_masks(mask):
    """A mask of ours as torch's layers take it: what may be seen apart from what is real, and both the other way round."""
    if mask is None:
        return None, None
    return (~mask, None) if mask.dim() == 2 else (None, ~mask[:, 0]) if mask.shape[1] == 1 else (~causal_mask(LENGTH), ~REAL[:, 0])


def test_it_uses_none_of_torchs_own():
    source = inspect.getsource(transformer)
    assert not [name for name in ("MultiheadAttention(", "TransformerEncoder", "TransformerDecoder", "nn.Transformer(") if name in source]


# masks


def test_masks_say_what_may_be_seen():
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(2, past=2).tolist() == [[True, True, True, False], [True, True, True, True]]
    assert torch.equal(causal_mask(3, past=4), causal_mask(7)[4:])
    assert padding_mask(torch.tensor([0, 2]), 3).tolist() == [[[False, False, False]], [[True, True, False]]]


def test_a_mask_that_is_not_boolean_is_refused(x):
    for mask in (torch.zeros(LENGTH, LENGTH), torch.ones(LENGTH, LENGTH, dtype=torch.uint8)):
        with pytest.raises(BadInput, match=rf"{mask.dtype}.*may be seen"):
            MultiHeadAttention(WIDTH, HEADS)(x, mask=mask)


# attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mask", [*MASKS.values(), torch.zeros(LENGTH, LENGTH, dtype=torch.bool)], ids=[*MASKS, "nothing"])
def test_by_hand_equals_fast(mask, dtype):
    qkv = torch.randn(3, 2, HEADS, LENGTH, 8, dtype=dtype)
    mask = mask if mask is None else mask.unsqueeze(-3)
    found = []
    for fast in (True, False):
        leaves = [t.clone().requires_grad_() for t in qkv]
        out = attention(*leaves, mask, fast=fast)
        found.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    for a, b in zip(*found):
        assert a.isfinite().all() and a.dtype == dtype
        close(a, b, 0.05 if dtype == torch.bfloat16 else 1e-5)


def test_weights_are_shares_of_what_may_be_seen():
    q, k = torch.randn(2, 2, HEADS, LENGTH, 8)
    mask = MASKS["both"].unsqueeze(1).clone()
    mask[1, :, 2] = False
    w = attention_weights(q, k, mask)
    assert (w[~mask.expand_as(w)] == 0).all()
    close(w.sum(-1), mask.any(-1).float().expand(2, HEADS, LENGTH))


def test_dropout_of_attention_keeps_the_mean_and_stops_in_evaluation(x):
    v = torch.ones(1, 1, 4, 1)
    q = k = torch.zeros(1, 1, 4, 8)
    for fast in (True, False):
        drawn = torch.stack([attention(q, k, v, dropout=0.5, fast=fast) for _ in range(500)])
        assert drawn.std() > 0.1 and abs(drawn.mean() - 1) < 0.1
    net = Encoder(WIDTH, 2, HEADS, dropout=0.5)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_masks_of_three_axes_run_in_the_fused_kernel():
    """torch leaves it without a word for one several times slower, if the mask has fewer axes than the queries."""
    called = {}
    for name, mask in {"ours": causal_mask(32)[None], "torch": None}.items():
        q = torch.randn(2, HEADS, 32, 8)
        with torch.profiler.profile() as seen:
            attention(q, q, q, mask) if name == "ours" else F.scaled_dot_product_attention(q, q, q, causal_mask(32)[None])
        called[name] = any("flash" in e.key for e in seen.key_averages())
    assert called["ours"]
    if called["torch"]:
        pytest.fail("torch takes masks of three axes to its fused kernel now: the axes that attention() adds are no longer needed")


# the same as torch's own


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "by hand"])
@pytest.mark.parametrize("name", MASKS)
def test_multi_head_attention_equals_torchs(x, name, fast):
    ours, theirs = twins(MultiHeadAttention(WIDTH, HEADS, fast=fast), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    seen, real = their_masks(MASKS[name])
    out, weights = theirs(x, x, x, attn_mask=seen, key_padding_mask=real, average_attn_weights=False)
    close(ours(x, mask=MASKS[name]), out)
    close(ours.weights(x, mask=MASKS[name]), weights)


@pytest.mark.parametrize("mask", [None, MEMORY_REAL], ids=["none", "padding"])
def test_cross_attention_equals_torchs(x, memory, mask):
    ours, theirs = twins(MultiHeadAttention(WIDTH, HEADS), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    out, weights = theirs(x, memory, memory, key_padding_mask=mask if mask is None else ~mask[:, 0], average_attn_weights=False)
    close(ours(x, memory, mask), out)
    close(ours(x, ours.keys_values(memory), mask), out)
    close(ours.weights(x, ours.keys_values(memory), mask), weights)


@pytest.mark.parametrize("activation", [torch.relu_, F.gelu], ids=["relu", "gelu"])
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("name", MASKS)
def test_the_encoder_layer_equals_torchs_and_so_do_its_gradients(x, name, pre, activation):
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, **HOW, norm_first=pre, activation=F.relu if activation is torch.relu_ else activation)
    ours, theirs = twins(EncoderLayer(WIDTH, HEADS, 24, norm_first=pre, activation=activation), theirs)
    seen, real = their_masks(MASKS[name])
    a, b = ours(x, MASKS[name]), theirs(x, src_mask=seen, src_key_padding_mask=real)
    close(a, b)
    a.sin().mean().backward()
    b.sin().mean().backward()
    wanted = weights_from_torch({n: p.grad for n, p in theirs.named_parameters()})
    assert set(wanted) == {n for n, _ in ours.named_parameters()}
    for n, p in ours.named_parameters():
        close(p.grad, wanted[n])


@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("name", MASKS)
def test_the_decoder_layer_equals_torchs(x, memory, name, pre):
    ours, theirs = twins(DecoderLayer(WIDTH, HEADS, 24, norm_first=pre), nn.TransformerDecoderLayer(WIDTH, HEADS, **HOW, norm_first=pre))
    seen, real = their_masks(MASKS[name])
    wanted = theirs(x, memory, tgt_mask=seen, tgt_key_padding_mask=real, memory_key_padding_mask=~MEMORY_REAL[:, 0])
    close(ours(x, memory, MASKS[name], MEMORY_REAL), wanted)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
def test_stacks_equal_torchs_whole_transformer(x, memory, pre):
    theirs = nn.Transformer(WIDTH, HEADS, 3, 2, **HOW, norm_first=pre)
    if not pre:  # with post-norm torch adds a second norm to the last one, as the paper does not
        theirs.encoder.norm = theirs.decoder.norm = None
    ours = nn.ModuleDict({"encoder": Encoder(WIDTH, 3, HEADS, 24, norm_first=pre), "decoder": Decoder(WIDTH, 2, HEADS, 24, norm_first=pre)})
    ours, theirs = twins(ours, theirs)
    hidden = ~MEMORY_REAL[:, 0]
    wanted = theirs(memory, x, tgt_mask=~causal_mask(LENGTH), src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
    close(ours["decoder"](x, ours["encoder"](memory, MEMORY_REAL), memory_mask=MEMORY_REAL), wanted)


def test_the_comparison_can_fail(x):
    """Norms in the other place, a mask turned round, weights of others: each is seen."""
    ours, theirs = twins(EncoderLayer(WIDTH, HEADS, 24), nn.TransformerEncoderLayer(WIDTH, HEADS, **HOW, norm_first=False))
    assert (ours(x) - theirs(x)).abs().max() > 0.01
    ours, theirs = twins(EncoderLayer(WIDTH, HEADS, 24, norm_first=False), theirs)
    close(ours(x, causal_mask(LENGTH)), theirs(x, src_mask=~causal_mask(LENGTH)))
    assert (ours(x, causal_mask(LENGTH)) - theirs(x, src_mask=causal_mask(LENGTH))).abs().max() > 0.01 or theirs(x, src_mask=causal_mask(LENGTH)).isnan().any()
    assert (shake(ours)(x) - theirs(x)).abs().max() > 0.01


# step by step


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [3, 1, 2, 1], [LENGTH]], ids=str)
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("mask", [None, MEMORY_REAL], ids=["none", "padding"])
def test_decoding_with_the_cache_equals_full_decoding(x, memory, mask, pre, sizes):
    net = shake(Decoder(WIDTH, 3, HEADS, norm_first=pre))
    memory_kv, cache = net.start(memory)
    assert cache[0].shape == (3, 2, HEADS, 0, WIDTH // HEADS) and memory_kv[1].shape == (3, 2, HEADS, KEYS, WIDTH // HEADS)
    found = []
    for part in x.split(sizes, 1):
        y, cache = net.step(part, memory_kv, cache, mask)
        found.append(y)
    close(torch.cat(found, 1), net(x, memory, memory_mask=mask))
    assert cache[0].shape == (3, 2, HEADS, LENGTH, WIDTH // HEADS)


def test_a_step_leaves_the_cache_it_was_given_as_it_was(x, memory):
    net = Decoder(WIDTH, 2, HEADS)
    memory_kv, empty = net.start(memory)
    _, cache = net.step(x[:, :3], memory_kv, empty)
    kept = [c.clone() for c in cache]
    first, second = (net.step(x[:, 3:4], memory_kv, cache)[0] for _ in range(2))
    assert torch.equal(first, second) and all(map(torch.equal, kept, cache)) and empty[0].shape[-2] == 0


def test_a_cache_is_reordered_by_indexing_as_beam_search_does(x, memory):
    net = Decoder(WIDTH, 2, HEADS)
    memory_kv, cache = net.start(memory)
    _, cache = net.step(x[:, :3], memory_kv, cache)
    rows = torch.tensor([1, 1, 0])
    y, _ = net.step(x[rows, 3:4], tuple(m[:, rows] for m in memory_kv), tuple(c[:, rows] for c in cache))
    close(y, net.step(x[:, 3:4], memory_kv, cache)[0][rows])


def test_attention_with_a_cache_of_its_own(x):
    net, cache, found = MultiHeadAttention(WIDTH, HEADS), {}, []
    for i in range(LENGTH):
        found.append(net(x[:, i : i + 1], cache=cache))
    close(torch.cat(found, 1), net(x, mask=causal_mask(LENGTH)))
    close(net.weights(x[:, -1:], cache=cache), net.weights(x)[:, :, -1:])


def test_memory_is_projected_once(x, memory):
    net, calls = Decoder(WIDTH, 2, HEADS), []
    for layer in net.layers:
        layer.cross_attention.key_value.register_forward_hook(lambda *_: calls.append(1))
    memory_kv, cache = net.start(memory)
    for i in range(LENGTH):
        _, cache = net.step(x[:, i : i + 1], memory_kv, cache)
    assert len(calls) == 2


@pytest.fixture
def sentences():
    """A network that says different things, with a source, its lengths, and a target."""
    net = Transformer(13, 32, 2, HEADS).eval()
    for name, p in net.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.2 if name == "embed.weight" else 0.5)
    return net, torch.randint(3, 13, (3, 8)), torch.tensor([8, 5, 1]), torch.randint(3, 13, (3, 6))


def test_what_is_generated_with_the_cache_is_what_is_generated_without(sentences):
    net, source, lengths = sentences[0], torch.randint(3, 13, (40, 8)), torch.randint(1, 9, (40,))
    said = generate(net, source, lengths, end=-1, most=12)
    assert said.shape == (40, 12) and len(said.unique(dim=0)) > 20, "rows that differ, or there is nothing to see"
    assert torch.equal(said, generate(net, source, lengths, end=-1, most=12, cached=False))
    assert not net.training and not said.requires_grad


def test_generation_ends_row_by_row(sentences):
    net, source, lengths = sentences[0], torch.randint(3, 13, (40, 8)), torch.randint(1, 9, (40,))
    free = generate(net, source, lengths, end=-1, most=10)
    i, at = ((free[:, :-1] != free[:, 1:]) & (torch.arange(9) > 0)).nonzero()[0].tolist()  # where a row goes on with something else
    end = free[i, at].item()
    said = generate(net, source, lengths, end=end, most=10)
    ends = [row.index(end) if end in row else 10 for row in free.tolist()]
    assert len(set(ends)) > 1 and min(ends) < 9
    for row, wanted, n in zip(said.tolist(), free.tolist(), ends):
        assert row == [*wanted[:n], *[end] * (len(row) - n)]
    alone = generate(net, source[[i, i]], lengths[[i, i]], end=end, most=10)
    assert alone.shape[1] == ends[i] + 1, "it stops when all rows have ended"


# nothing leaks


def test_padding_never_leaks(sentences):
    net, source, lengths, target = sentences
    real = padding_mask(lengths, 8)[:, 0]
    other = torch.where(real, source, torch.randint(3, 13, source.shape))
    assert (other != source).any() and (net(source, target) - net(other, target)).abs().max() > 1e-3, "without lengths it does"
    wanted = net(source, target, lengths)
    assert torch.equal(net(other, target, lengths), wanted)
    close(net(F.pad(other, (0, 5), value=7), target, lengths), wanted)
    for i, n in enumerate(lengths.tolist()):
        close(net(source[i : i + 1, :n], target[i : i + 1]), wanted[i : i + 1])


def test_padding_gets_no_gradient(memory):
    net, inputs = Encoder(WIDTH, 2, HEADS), memory.clone().requires_grad_()
    real = MEMORY_REAL[:, 0]
    net(inputs, MEMORY_REAL)[real].square().sum().backward()
    assert (inputs.grad[~real] == 0).all() and (inputs.grad[real] != 0).any(-1).all()


def test_a_row_that_may_see_nothing_stays_finite(x):
    """As histories do that are padded in front."""
    net, inputs = Encoder(WIDTH, 2, HEADS), x.clone().requires_grad_()
    mask = causal_mask(LENGTH) & (torch.arange(LENGTH) >= 3)
    out = net(inputs, mask)
    out.square().sum().backward()
    assert out.isfinite().all() and inputs.grad.isfinite().all()
    close(out[:, 3:], net(x[:, 3:], causal_mask(LENGTH - 3)))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_later_token_never_changes_an_earlier_output(x, memory, kind):
    inputs = x[:1].clone().requires_grad_()
    out = Encoder(WIDTH, 2, HEADS)(inputs, causal_mask(LENGTH)) if kind == "encoder" else Decoder(WIDTH, 2, HEADS)(inputs, memory[:1])
    reach = [torch.autograd.grad(out[0, i].square().sum(), inputs, retain_graph=True)[0][0].norm(dim=-1) > 0 for i in range(LENGTH)]
    assert torch.equal(torch.stack(reach), causal_mask(LENGTH))


# positions


def test_waves_are_those_of_the_paper():
    table = sinusoidal_positions(50, 6)
    for pos in (0, 1, 17, 49):
        for i in range(3):
            angle = pos / 10000 ** (2 * i / 6)
            assert table[pos, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[pos, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_likeness_of_positions_depends_on_their_distance_alone():
    likeness = sinusoidal_positions(100, 64).double()
    likeness = likeness @ likeness.T
    for k in (1, 10, 50):
        assert likeness.diagonal(k).std() < 1e-4


@pytest.mark.parametrize("kind", [SinusoidalPositions, LearnedPositions])
def test_positions_begin_where_they_are_told(kind):
    net, x = kind(WIDTH, 12), torch.zeros(2, 3, WIDTH)
    close(net(x)[1], net.table[:3])
    close(net(x, start=9)[0], net.table[9:])
    close(net(x, start=torch.tensor([[4], [0]]))[0], net.table[4:7])
    with pytest.raises(BadInput, match=r"longer than the table of positions: 13\..*12.*size"):
        net(x, start=10)


def test_only_learned_positions_are_weights():
    assert not SinusoidalPositions(WIDTH).state_dict() and not list(SinusoidalPositions(WIDTH).parameters())
    assert LearnedPositions(WIDTH, 12).state_dict()["table"].shape == (12, WIDTH)


@pytest.mark.parametrize("n_heads", [0, 3, 32])
def test_heads_that_do_not_divide_the_width_are_refused(n_heads):
    with pytest.raises(BadConfig, match=f"width 16, n_heads {n_heads}.*multiple"):
        Encoder(WIDTH, 1, n_heads)


def test_an_odd_width_has_no_waves():
    with pytest.raises(BadConfig, match="odd: 15.*even"):
        SinusoidalPositions(15)


# the whole


def test_input_output_and_logits_share_one_matrix():
    net = Transformer(13, 32, 1, 2)
    assert [n for n, p in net.named_parameters() if p.shape == (13, 32)] == ["embed.weight"]
    tokens = net.vectors(torch.arange(13)[None], start=4) - sinusoidal_positions(17, 32)[4:]
    close(tokens[0], net.embed.weight * math.sqrt(32))
    close(net.logits(tokens), tokens @ net.embed.weight.T)


def test_attention_is_watched_and_then_left_alone(sentences):
    net, source, lengths, target = sentences
    wanted = net(source, target, lengths)
    with watch_attention(net) as maps:
        assert torch.equal(net(source, target, lengths), wanted)
    assert {n: tuple(m.shape) for n, m in maps.items() if "layers.1" in n} == {
        "encoder.layers.1.attention": (3, HEADS, 8, 8),
        "decoder.layers.1.attention": (3, HEADS, 6, 6),
        "decoder.layers.1.cross_attention": (3, HEADS, 6, 8),
    }
    cross = maps["decoder.layers.0.cross_attention"]
    assert (cross[1, :, :, 5:] == 0).all() and not cross.requires_grad
    close(cross.sum(-1), torch.ones(3, HEADS, 6))
    assert not any(m._forward_hooks for m in net.modules())

    with watch_attention(net) as steps:
        memory, mask = net.encode(source, lengths)
        memory_kv, cache = net.decoder.start(memory)
        for i in range(6):
            _, cache = net.step(target[:, i : i + 1], memory_kv, cache, mask)
    for name in ("decoder.layers.1.attention", "decoder.layers.1.cross_attention"):
        close(steps[name], maps[name][:, :, -1:])


def test_a_configuration_builds_it(x):
    net = make({"_target_": "fullstack_ml.models.transformer.Encoder", "width": WIDTH, "depth": 2, "n_heads": HEADS, "norm_first": False,
                "activation": {"_target_": "hydra.utils.get_method", "path": "torch.nn.functional.gelu"}})  # fmt: skip
    assert net(x).shape == x.shape and net.layers[0].feed_forward.activation is F.gelu


def test_bfloat16_and_autocast_run(x, memory):
    net = Decoder(WIDTH, 2, HEADS).bfloat16()
    assert net(x.bfloat16(), memory.bfloat16(), memory_mask=MEMORY_REAL).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert Decoder(WIDTH, 2, HEADS)(x, memory).isfinite().all()


class Step(nn.Module):
    """One step with every tensor by its name."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tokens, memory_k, memory_v, past_k, past_v, memory_mask):
        logits, (k, v) = self.net.step(tokens, (memory_k, memory_v), (past_k, past_v), memory_mask)
        return logits, k, v


def test_one_step_is_a_graph_that_equals_eager(sentences):
    import onnxruntime

    net = sentences[0]

    def inputs(batch, keys, past):
        memory, mask = net.encode(torch.randint(3, 13, (batch, keys)), torch.randint(1, keys + 1, (batch,)))
        memory_kv, cache = net.decoder.start(memory)
        if past:
            _, cache = net.step(torch.randint(3, 13, (batch, past)), memory_kv, cache, mask)
        return torch.randint(3, 13, (batch, 1)), *memory_kv, *cache, mask

    batch, keys, past = (torch.export.Dim(n, min=1, max=65535) for n in ("batch", "keys", "past"))
    free = {"tokens": {0: batch}, "memory_k": {1: batch, 3: keys}, "memory_v": {1: batch, 3: keys}, "past_k": {1: batch, 3: past}, "past_v": {1: batch, 3: past},
            "memory_mask": {0: batch, 2: keys}}  # fmt: skip
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        names = {"input_names": list(free), "output_names": ["logits", "k", "v"]}
        program = torch.onnx.export(Step(net).eval(), inputs(3, 6, 2), dynamo=True, verbose=False, **names, dynamic_shapes=tuple(free.values()))
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for sizes in [(1, 1, 0), (3, 6, 2), (5, 8, 0), (2, 3, 1), (1, 9, 30)]:
            given = inputs(*sizes)
            got = session.run(None, {name: t.numpy() for name, t in zip(free, given)})
            for a, b in zip(got, Step(net)(*given)):
                close(torch.from_numpy(a), b, 1e-4)

        # the graph alone says what eager says, from the first token on
        tokens, *kv, _, _, mask = inputs(2, 5, 0)
        past, said = [t[..., :0, :] for t in kv], torch.ones(2, 1, dtype=torch.long)
        eager = tuple(past)
        for _ in range(8):
            logits, *past = (torch.from_numpy(t) for t in session.run(None, {n: t.contiguous().numpy() for n, t in zip(free, [said, *kv, *past, mask])}))
            wanted, eager = net.step(said, tuple(kv), eager, mask)
            assert torch.equal(logits.argmax(-1), wanted.argmax(-1))
            said = logits.argmax(-1)


# it learns

END = 2


def strings(n: int, held_out: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Strings [m, 6] of 3 to 6 out of ten letters, and their lengths: a tenth of them all, which training never sees, or the others."""
    lengths = torch.randint(3, 7, (n,))
    letters = torch.randint(3, 13, (n, 6)).masked_fill(~padding_mask(lengths, 6)[:, 0], 0)
    kept = (letters.sum(1) % 10 == 0) == held_out
    return letters[kept], lengths[kept]


def answers(letters: torch.Tensor, lengths: torch.Tensor, backwards: bool) -> torch.Tensor:
    """The letters in either order, then the end."""
    i = torch.arange(7)
    order = lengths[:, None] - 1 - i if backwards else i.expand(len(letters), 7)
    return letters.gather(1, order.clamp(0, 5)).masked_fill(i >= lengths[:, None], END)


@pytest.mark.parametrize("backwards", [False, True], ids=["copy", "reversal"])
def test_it_learns_on_strings_that_it_has_never_seen(backwards):
    net, n_steps = Transformer(13, 32, 1, 1), 400
    opt = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), fused=True)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=n_steps, pct_start=0.15)
    for _ in range(n_steps):
        letters, lengths = strings(128, held_out=False)
        wanted = answers(letters, lengths, backwards)
        loss = F.cross_entropy(net(letters, F.pad(wanted[:, :-1], (1, 0), value=1), lengths).flatten(0, 1), wanted.flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    net.eval()
    letters, lengths = strings(10_000, held_out=True)
    assert len(letters) > 900
    right = (generate(net, letters, lengths, most=7) == answers(letters, lengths, backwards)).all(1)
    assert right.all(), f"{(~right).sum()} of {len(right)} wrong"

    with watch_attention(net) as maps:
        net(letters, F.pad(answers(letters, lengths, backwards)[:, :-1], (1, 0), value=1), lengths)
    seen = maps["decoder.layers.0.cross_attention"][:, 0, :6].argmax(-1)
    i = torch.arange(6)
    order = lengths[:, None] - 1 - i if backwards else i.expand_as(seen)
    said = i < lengths[:, None]
    assert (seen == order)[said].float().mean() > 0.9, "it looks along the diagonal, or the anti-diagonal"
