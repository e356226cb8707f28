"""Packed attention is the attention of each clip alone, for every kernel and every mix of lengths.

Here, without a GPU, sdpa and reference run forward and backward, flex forward; what the others say is tested too.
tests/gpu/test_kernels_gpu.py has the rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.nn import kernels
from videodit.nn.kernels import KERNELS, Use, attend, block_mask

CPU = torch.device("cpu")
H, K = 3, 16

# What each kernel says on a CPU to a request for gradients; None: it serves it.
CPU_REFUSAL = {
    "sdpa": None,
    "reference": None,
    "varlen": "kernel=varlen: needs a CUDA device",
    "flex": "kernel=flex: has no backward on cpu",
    "xformers": "kernel=xformers: needs a CUDA device",
}
FORWARD_HERE = ("sdpa", "reference", "flex")
BACKWARD_HERE = tuple(name for name, refusal in CPU_REFUSAL.items() if refusal is None)

PACKS = {  # queries and keys of each clip
    "five sizes": ((12, 1, 40, 7, 25), (9, 20, 1, 14, 8)),
    "five sizes of itself": ((12, 1, 40, 7, 25),) * 2,
    "one clip": ((24,), (10,)),
    "equal": ((16,) * 4, (16,) * 4),
    "equal clips, any text": ((16,) * 4, (8, 20, 11, 1)),
    "few sizes, mixed": ((16, 4, 16, 16, 9, 4), (5, 5, 8, 20, 1, 3)),
    "short and long text": ((8,) * 5, (70, 3, 100, 65, 250)),
    "longer than a block": ((100, 200, 30), (300, 28, 129)),
}


@pytest.fixture(params=PACKS.values(), ids=PACKS.keys())
def lengths(request: pytest.FixtureRequest) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return request.param


def tensors(lengths: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    random_ = torch.Generator().manual_seed(0)
    queries, keys = map(sum, lengths)
    return tuple(torch.randn(n, H, K, generator=random_, dtype=torch.float64).to(dtype) for n in (queries, keys, keys))


def one_by_one(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Each clip on its own, put together."""

    def packed(q: Tensor, k: Tensor, v: Tensor, q_lengths: tuple, k_lengths: tuple) -> Tensor:
        clips = zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths), strict=True)
        return torch.cat([run(q, k, v) for q, k, v in clips])

    return packed


def definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·k / sqrt(K))·v of one clip, a head at a time."""
    return torch.stack([(q[:, h] @ k[:, h].T / K**0.5).softmax(-1) @ v[:, h] for h in range(H)], dim=1)


def gradients(run: Callable[..., Tensor], inputs: tuple[Tensor, ...], lengths: tuple) -> tuple[Tensor, ...]:
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    out = run(*inputs, *lengths)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return torch.autograd.grad(out, inputs, weight)


def assert_equal(a: Tensor, b: Tensor) -> None:
    """Rule 13."""
    assert a.shape == b.shape and a.dtype == b.dtype
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-9}[b.dtype]
    assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())


def test_every_kernel_is_tested() -> None:
    assert set(KERNELS) == set(CPU_REFUSAL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kernel", FORWARD_HERE)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_pack_equals_clips_alone(kernel: str, dtype: torch.dtype, lengths: tuple) -> None:
    if kernel == "flex" and dtype == torch.float64:
        with pytest.raises(InputError, match="needs float32 or less"):
            attend(*tensors(lengths, dtype), *lengths, kernel=kernel)
        return
    inputs = tensors(lengths, dtype)
    packed = attend(*inputs, *lengths, kernel=kernel)
    alone = one_by_one(lambda q, k, v: attend(q, k, v, (len(q),), (len(k),), kernel=kernel))
    assert_equal(packed, alone(*inputs, *lengths))
    assert_equal(packed, one_by_one(definition)(*inputs, *lengths))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kernel", BACKWARD_HERE)
def test_gradients_of_pack_equal_those_of_clips_alone(kernel: str, dtype: torch.dtype, lengths: tuple) -> None:
    inputs = tensors(lengths, dtype)
    packed = gradients(lambda *x: attend(*x, kernel=kernel), inputs, lengths)
    alone = one_by_one(lambda q, k, v: attend(q, k, v, (len(q),), (len(k),), kernel=kernel))
    for mine, theirs, truth in zip(
        packed, gradients(alone, inputs, lengths), gradients(one_by_one(definition), inputs, lengths), strict=True
    ):
        assert_equal(mine, theirs)
        assert_equal(mine, truth)


@pytest.mark.parametrize("short_keys", [0, 10**9])
def test_short_and_fused_attention_agree(short_keys: int, lengths: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SHORT_KEYS", short_keys)
    monkeypatch.setattr(kernels, "SHORT_QUERIES", 0)
    inputs = tensors(lengths, torch.float64)
    assert_equal(attend(*inputs, *lengths), one_by_one(definition)(*inputs, *lengths))
    for mine, truth in zip(
        gradients(attend, inputs, lengths), gradients(one_by_one(definition), inputs, lengths), strict=True
    ):
        assert_equal(mine, truth)


@pytest.mark.parametrize("kernel", FORWARD_HERE)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_nothing_leaks_between_clips(kernel: str, lengths: tuple) -> None:
    """Another clip's queries, keys and values may be anything: every other clip's result stays, bit for bit."""
    q, k, v = tensors(lengths, torch.float32)
    before = attend(q, k, v, *lengths, kernel=kernel).split(lengths[0])
    for j in range(len(before)):
        parts = [list(x.split(n)) for x, n in ((q, lengths[0]), (k, lengths[1]), (v, lengths[1]))]
        for x in parts:
            x[j] = 5 * x[j] + 3
        after = attend(*map(torch.cat, parts), *lengths, kernel=kernel).split(lengths[0])
        assert not torch.allclose(after[j], before[j])
        assert all(torch.equal(after[i], before[i]) for i in range(len(before)) if i != j)


def test_random_packs() -> None:
    """Whatever sdpa's plan makes of the lengths, it is the definition."""
    dice = random.Random(0)
    for _ in range(40):
        clips = dice.randint(1, 9)
        sizes = [dice.randint(1, 30) for _ in range(3)]
        lengths = tuple(dice.choices(sizes, k=clips)), tuple(dice.choice((3, 20, 90, 200)) for _ in range(clips))
        inputs = tensors(lengths, torch.float64)
        assert_equal(attend(*inputs, *lengths), one_by_one(definition)(*inputs, *lengths))


def test_plan_keeps_neighbours_together_and_padding_within_bounds() -> None:
    assert kernels.plan((80,) * 3, (80,) * 3) == ((240,), (240,), (((0,), (80, 80, 80)),))
    q_runs, k_runs, calls = kernels.plan((80, 80, 16, 80), (8, 20, 9, 11))
    assert (q_runs, k_runs) == ((160, 16, 80), (28, 9, 11))
    assert calls == (((0, 2), (8, 20, 11)), ((1,), (9,)))
    for _, keys in kernels.plan((4,) * 300, tuple(range(1, 301)))[2]:
        assert max(keys) <= 64 or max(keys) <= 2 * min(keys)


@pytest.mark.parametrize("kernel", BACKWARD_HERE)
def test_views_of_a_fused_projection(kernel: str) -> None:
    """q, k, v cut out of one (L,H,3K) tensor: no stride is taken for granted."""
    for lengths in ((16, 16), (5, 8, 5)):
        q, k, v = torch.randn(sum(lengths), H, 3 * K, dtype=torch.float64).chunk(3, dim=-1)
        truth = one_by_one(definition)(q, k, v, lengths, lengths)
        assert_equal(attend(q, k, v, lengths, lengths, kernel=kernel), truth)


def test_bf16_autocast() -> None:
    """The reference stays in float32; sdpa's result is as near to it as bfloat16 can be."""
    lengths = PACKS["few sizes, mixed"]
    inputs = tensors(lengths, torch.float32)
    truth = attend(*inputs, *lengths, kernel="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(*inputs, *lengths, kernel="reference"), truth)
        assert (attend(*inputs, *lengths).float() - truth).abs().max() < 0.03


# ---- refusals ----


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_serves_or_says_what_can(kernel: str) -> None:
    lengths = PACKS["five sizes"]
    inputs = tuple(x.requires_grad_() for x in tensors(lengths, torch.float32))
    refusal = CPU_REFUSAL[kernel]
    if refusal is None:
        assert attend(*inputs, *lengths, kernel=kernel).requires_grad
        return
    with pytest.raises(InputError, match=refusal) as error:
        attend(*inputs, *lengths, kernel=kernel)
    assert str(error.value).endswith("kernels that can: sdpa, reference")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_serves_a_trained_model_under_no_grad() -> None:
    lengths = PACKS["five sizes"]
    inputs = tuple(x.requires_grad_() for x in tensors(lengths, torch.float32))
    with torch.no_grad():
        assert_equal(attend(*inputs, *lengths, kernel="flex"), attend(*inputs, *lengths, kernel="reference"))


def test_unknown_kernel_names_those_there_are() -> None:
    with pytest.raises(InputError, match="kernel=flash: no such kernel, there are auto, sdpa, reference, varlen"):
        attend(*tensors(((4,), (4,)), torch.float32), (4,), (4,), kernel="flash")


def test_refusals_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no GPU to be said."""

    def refusal(kernel: str, dtype: torch.dtype = torch.bfloat16, channels: int = 64) -> str | None:
        return Use(torch.device("cuda"), dtype, channels, grad=True).refusal(kernel)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delitem(kernels.sys.modules, "xformers", raising=False)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert refusal("xformers") == "is not installed: pip install videodit[xformers]"
    assert refusal("varlen") is None and refusal("flex") is None and refusal("flex", torch.float32) is None
    assert "not torch.float32 and 64" in refusal("varlen", torch.float32)
    assert "not torch.bfloat16 and 68" in refusal("varlen", channels=68)
    assert "at least 16 channels" in refusal("flex", channels=8)
    assert "float32 or less" in refusal("xformers", torch.float64)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability 8.0" in refusal("varlen")


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU varlen for unequal clips, if it serves; and it is said why where it does not."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    half, exact = (Use(torch.device("cuda"), dtype, 64, grad=True) for dtype in (torch.bfloat16, torch.float32))
    here, equal, unequal, texts = Use(CPU, torch.float32, 64, grad=False), (8, 8), (8, 5), (3, 9)
    assert [half.pick("auto", *two) for two in ((equal, equal), (unequal, unequal), (equal, texts))] == [
        "sdpa", "varlen", "varlen"
    ]  # fmt: skip
    assert exact.pick("auto", unequal, unequal) == here.pick("auto", unequal, unequal) == "sdpa"
    assert half.pick("flex", unequal, unequal) == "flex"
    assert half.told("auto") == "attention: varlen for packs of unequal clips, sdpa for equal ones"
    assert "needs float16 or bfloat16" in exact.told("auto") and not here.told("auto") and not half.told("flex")
    for use in (half, exact, here):
        use.check("auto")
    with pytest.raises(InputError, match="kernel=varlen: needs a CUDA device.*; kernels that can: sdpa, reference"):
        here.check("varlen")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("q_lengths", "k_lengths", "message"),
    [
        ((4, 5), (3, 4), r"q_lengths .* sum to 10: \(4, 5\)"),
        ((4, 6), (3, 5), r"k_lengths .* sum to 7: \(3, 5\)"),
        ((4, 6), (7, 0), r"k_lengths must be at least 1"),
        ((10,), (3, 4), "1 clips of queries but 2 of keys"),
    ],
)
def test_lengths_that_do_not_fit(kernel: str, q_lengths: tuple, k_lengths: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attend(*tensors(((10,), (7,)), torch.float32), q_lengths, k_lengths, kernel=kernel)


def test_tensors_that_do_not_fit() -> None:
    q, k, v = tensors(((10,), (7,)), torch.float32)
    for bad in ((q, k, v[1:]), (q[:, :1], k, v), (q[None], k, v), (q[..., :8], k, v)):
        with pytest.raises(ValueError, match="q must be"):
            attend(*bad, (10,), (7,))
    with pytest.raises(ValueError, match="share dtype and device"):
        attend(q.double(), k, v, (10,), (7,))


# ---- the masks of the kernels that only a GPU runs ----


def test_block_mask() -> None:
    expected = torch.block_diag(torch.ones(2, 1), torch.ones(1, 3), torch.ones(2, 2)).bool()
    assert torch.equal(block_mask((2, 1, 2), (1, 3, 2)), expected)


def test_flex_mask_covers_the_pack_and_skips_the_rest() -> None:
    """A block is visited exactly if some query in it sees some key in it, and inside it the rule is the same."""
    with torch.inference_mode():  # as sampling in the middle of a training run
        mask = kernels.flex_mask((100, 200, 30, 300), (300, 28, 129, 1), torch.device("cpu"))
    dense = block_mask((100, 200, 30, 300), (300, 28, 129, 1))
    blocks = torch.nn.functional.pad(dense, (0, -458 % 128, 0, -630 % 128)).view(5, 128, 4, 128).any(3).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks) and not blocks.all()
    rows, columns = torch.arange(630)[:, None], torch.arange(458)
    assert torch.equal(mask.mask_mod(0, 0, rows, columns), dense)
    assert not mask.kv_indices.is_inference()


@pytest.mark.filterwarnings("ignore")
def test_xformers_mask_is_the_reference_mask() -> None:
    pytest.importorskip("xformers")
    for lengths in PACKS.values():
        mask = kernels.xformers_mask(*lengths, torch.device("cpu")).materialize(tuple(map(sum, lengths)))
        assert torch.equal(mask == 0, block_mask(*lengths))
        assert torch.all((mask == 0) | (mask == -torch.inf))


@pytest.mark.parametrize("kernel", ["sdpa", "reference", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_key_counts_as_many(kernel: str, dtype: torch.dtype) -> None:
    """A key with 491 copies is 491 equal keys, in half precision as well."""
    q_lengths, k_lengths, copies = (9, 70), (3, 2), torch.tensor([1.0, 491.0, 1.0, 30.0, 1.0])
    q, k, v = (x.detach() for x in tensors((q_lengths, k_lengths), dtype))
    repeated = [x.repeat_interleave(copies.long(), dim=0) for x in (k, v)]
    with torch.no_grad():
        expected = attend(q, *repeated, q_lengths, (493, 31), kernel="reference")
        out = attend(q, k, v, q_lengths, k_lengths, copies=copies, kernel=kernel)
        plain = attend(q, k, v, q_lengths, k_lengths, kernel=kernel)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (out - expected).abs().max() < tolerance < (plain - expected).abs().max()
