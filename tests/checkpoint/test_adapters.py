"""Adapters in files: merged as the weights are read, they make what diffusers and PEFT make of the same file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import videodit
from tests.compare import assert_equal, denoised
from tests.parity import pipelines
from tests.parity.pipelines import WORDS
from videodit.checkpoint import adapters
from videodit.checkpoint.adapters import attach, matrices, parse, save_adapter
from videodit.checkpoint.families.record import Adapters
from videodit.checkpoint.find import describe
from videodit.checkpoint.pretrained import Part
from videodit.errors import InputError
from videodit.models.dit import DiT
from videodit.models.pack import Ragged, patchify

LAYOUTS = Adapters().layouts
RANK = 3
REQUEST = {"frames": 5, "height": 32, "width": 32, "fps": 16.0, "steps": 2, "guidance": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    folder = tmp_path_factory.mktemp("theirs")
    return folder, pipelines.pipeline("2.1", folder)


@pytest.fixture(scope="module")
def part(saved: tuple[Path, object]) -> Part:
    return describe(str(saved[0]))[1]["dit"]


def changes(part: Part, *, seed: int = 0, dora: bool = False, rank: int = RANK) -> dict[str, dict[str, Tensor]]:
    """A random adapter of every matrix of the blocks."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(part.spec["arguments"]["layers"]):
        for name in DiT.ADAPTABLE:
            rows, columns = part.skeleton.get_parameter(f"blocks.{number}.{name}.weight").shape
            down, up = torch.randn(rank, columns, generator=random), torch.randn(rows, rank, generator=random)
            found[f"blocks.{number}.{name}"] = {"down": 0.2 * down, "up": 0.2 * up}
            if dora:
                found[f"blocks.{number}.{name}"]["magnitude"] = 0.5 + torch.rand(rows, generator=random)
    return found


def saved_adapter(path: Path, part: Part, **how: object) -> Path:
    save_adapter(path, changes(part, **how), part.spec, {"adapter": {}})
    return path


def merged(part: Part, *files: tuple[Path, float]) -> dict[str, Tensor]:
    return attach({"dit": part}, {str(path): strength for path, strength in files})["dit"].load().state_dict()


def test_the_sum_is_the_one_made_by_hand(part: Part, tmp_path: Path) -> None:
    """Two adapters at two strengths, in float32 and, rounded once, in bfloat16; others' weights stay as they were."""
    a, b = (saved_adapter(tmp_path / f"{seed}.safetensors", part, seed=seed, rank=seed + 2) for seed in (0, 1))
    before, after = part.load().state_dict(), merged(part, (a, 0.8), (b, -0.5))
    half = attach({"dit": part}, {str(a): 0.8, str(b): -0.5})["dit"].load(dtype=torch.bfloat16).state_dict()
    one, two = changes(part, seed=0, rank=2), changes(part, seed=1, rank=3)
    for name, weight in before.items():
        change = one.get(name.removesuffix(".weight"))
        expected = weight
        if change:
            other = two[name.removesuffix(".weight")]
            expected = weight + 0.8 * change["up"] @ change["down"] - 0.5 * other["up"] @ other["down"]
        assert_equal(after[name], expected)
        assert torch.equal(half[name], after[name].to(half[name].dtype)), name


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_the_video_that_diffusers_makes_of_the_file(
    saved: tuple[Path, object], part: Part, tmp_path: Path, dora: bool
) -> None:
    folder, theirs = saved
    path = saved_adapter(tmp_path / "a.safetensors", part, dora=dora)
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "negative_prompt": ""}
    theirs.load_lora_weights(str(path))
    if not dora:
        theirs.set_adapters(theirs.get_active_adapters(), [0.7])
    expected = pipelines.clip(theirs, WORDS[0], size=(5, 32, 32), seed=1, **asked)
    theirs.unload_lora_weights()
    plain = pipelines.clip(theirs, WORDS[0], size=(5, 32, 32), seed=1, **asked)
    for offload in ("none", "model"):
        pipe = videodit.load(str(folder), device="cpu", lora={path: 1.0 if dora else 0.7}, offload=offload)
        video = pipe(WORDS[0], sampler="unipc", **REQUEST)
        assert (video.clip - expected).abs().max() < 2e-3
        assert video.record["lora"] == {str(path): 1.0 if dora else 0.7}
    assert (plain - expected).abs().max() > 1e-2, "the adapter would not have mattered"


def test_dora_is_pefts(part: Part, tmp_path: Path) -> None:
    """Two of them add what each would alone."""
    import peft

    x, name = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)), "blocks.0.attention.q.weight"
    before, added, files = part.read(name), [], []
    for seed in (0, 1):
        files.append((saved_adapter(tmp_path / f"{seed}.safetensors", part, seed=seed, dora=True), 0.6 + seed))
        base = nn.Linear(40, 40)
        base.weight.data = before.clone()
        config = peft.LoraConfig(r=RANK, lora_alpha=RANK * (0.6 + seed), use_dora=True)
        layer = peft.tuners.lora.Linear(base, "a", config, r=RANK, lora_alpha=RANK * (0.6 + seed))
        change = changes(part, seed=seed, dora=True)[name.removesuffix(".weight")]
        layer.lora_A["a"].weight.data = change["down"]
        layer.lora_B["a"].weight.data = change["up"]
        layer.lora_magnitude_vector["a"].weight.data = change["magnitude"]
        added.append(merged(part, files[-1])[name] - before)
        assert_equal(x @ (before + added[-1]).T + base.bias, layer(x))
    assert_equal(merged(part, *files)[name], before + sum(added))


def others(part: Part, layout: str, how: str) -> dict[str, Tensor]:
    """An adapter as others write it: another prefix, other names of the matrices, an alpha."""
    names = matrices(part.spec, layout)
    theirs, state = {ours.removesuffix(".weight"): name for name, (ours, _) in names.items()}, {}
    for ours, change in changes(part).items():
        stem, down, up = theirs[ours], "lora_A.weight", "lora_B.weight"
        if how == "kohya":
            stem, down, up = "lora_unet_" + stem.replace(".", "_"), "lora_down.weight", "lora_up.weight"
        else:
            stem = f"{how}.{stem}"
        state |= {f"{stem}.{down}": change["down"], f"{stem}.{up}": change["up"] * 4}
        state[f"{stem}.alpha"] = torch.tensor(RANK / 4)
    return state


@pytest.mark.parametrize("how", ["diffusion_model", "transformer", "base_model.model", "kohya"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_others(part: Part, tmp_path: Path, layout: str, how: str) -> None:
    """alpha/r is a quarter, and their B is four times as large."""
    save_file(others(part, layout, how), tmp_path / "theirs.safetensors")
    ours = merged(part, (saved_adapter(tmp_path / "ours.safetensors", part), 1.0))
    for name, weight in merged(part, (tmp_path / "theirs.safetensors", 1.0)).items():
        assert_equal(weight, ours[name])


def test_matrices_outside_the_blocks(part: Part, tmp_path: Path) -> None:
    """Those whose values are in another order there: what is added is in theirs too."""
    arguments = part.spec["arguments"]
    kernel = 4 * arguments["channels"]
    down, up = torch.randn(2, arguments["dim"]), torch.randn(kernel, 2)
    state = {"diffusion_model.head.head.lora_A.weight": down, "diffusion_model.head.head.lora_B.weight": up}
    first, last = torch.randn(2, arguments["channels"], 1, 2, 2), torch.randn(arguments["dim"], 2, 1, 1, 1)
    state |= {f"diffusion_model.patch_embedding.lora_{n}.weight": x for n, x in (("A", first), ("B", last))}
    save_file(state, tmp_path / "a.safetensors")
    before, after = part.load().state_dict(), merged(part, (tmp_path / "a.safetensors", 1.0))
    _, form = matrices(part.spec, "vendor")["head.head"]
    assert_equal(after["head.weight"], before["head.weight"] + form.ours(up @ down))
    expected = torch.einsum("rcijk,nrxyz->ncijk", first, last).flatten(1)
    assert_equal(after["embed.weight"] - before["embed.weight"], expected)


def test_two_experts(tmp_path: Path) -> None:
    """A file is for the expert that its name or its keys say, else for both."""
    pipelines.pipeline("a14b", tmp_path / "model")
    parts = describe(str(tmp_path / "model"))[1]
    plain, high, low = (tmp_path / f"{name}.safetensors" for name in ("a", "a_high_noise", "a_LOW_NOISE"))
    for path in (plain, high, low):
        saved_adapter(path, parts["dit"])
    keyed = {f"transformer_2.{key.removeprefix('diffusion_model.')}": x for key, x in load_file(plain).items()}
    save_file(keyed, tmp_path / "keyed.safetensors")
    cases = {plain: {"dit", "dit_low"}, high: {"dit"}, low: {"dit_low"}, tmp_path / "keyed.safetensors": {"dit_low"}}
    for path, expected in cases.items():
        assert {name for name, part in attach(parts, {str(path): 1.0}).items() if part.added} == expected
    with pytest.raises(InputError, match="is for a model of two experts"):
        attach({"dit": parts["dit"]}, {str(tmp_path / "keyed.safetensors"): 1.0})


def test_8_bit_numbers_are_of_the_sum(part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr("videodit.checkpoint.pretrained.suits_int8", lambda name, shape: name in WATCHED)
    monkeypatch.setattr("videodit.checkpoint.pretrained.to_int8", lambda x: seen.setdefault(len(seen), x))
    a = saved_adapter(tmp_path / "a.safetensors", part)
    expected = merged(part, (a, 1.0))
    attach({"dit": part}, {str(a): 1.0})["dit"].load(int8=True)
    assert torch.equal(seen[0], expected[WATCHED[0]])


WATCHED = ("blocks.1.ffn.0.weight",)


def test_files_that_do_not_fit_are_told(part: Part, tmp_path: Path) -> None:
    path = saved_adapter(tmp_path / "a.safetensors", part)
    q = "diffusion_model.blocks.0.self_attn.q.lora_A.weight"
    cases = {
        r"self_attn.q.diff is \(3,\), and the model's": {q.replace("lora_A.weight", "diff"): torch.ones(3)},
        "no place for diffusion_model.blocks.0.self_attn.q.what": {q.replace("lora_A", "what"): torch.ones(3)},
        "no place for diffusion_model.blocks.7.self_attn.q": {q.replace("blocks.0", "blocks.7"): torch.ones(3, 40)},
        "a.safetensors is for another model: its blocks.0.attention.q changes a matrix 40x48": {q: torch.ones(3, 48)},
        "is of rank 5 in one tensor and 3 in another": {q: torch.ones(5, 40)},
        "are for the same matrix": {q.replace("diffusion_model.", ""): torch.ones(3, 40)},
    }
    whole = load_file(path)
    for words, change in cases.items():
        save_file(whole | change, path)
        with pytest.raises(InputError, match=words):
            attach({"dit": part}, {str(path): 1.0})
    del whole[q]
    save_file(whole, path)
    with pytest.raises(InputError, match="self_attn.q.lora_B.weight lacks its partner"):
        attach({"dit": part}, {str(path): 1.0})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no adapter.safetensors in this folder"):
        attach({"dit": part}, {str(tmp_path / "empty"): 1.0})
    with pytest.raises(InputError, match="nowhere.safetensors does not exist"):
        attach({"dit": part}, {"nowhere.safetensors": 1.0})


def test_what_is_asked_for() -> None:
    assert parse("a.safetensors:0.8, runs/b,c:-1") == {"a.safetensors": 0.8, "runs/b": 1.0, "c": -1.0}
    assert parse(None) == parse("") == {} and parse([Path("a"), ("b", 2)]) == {"a": 1.0, "b": 2.0}
    assert parse({Path("a"): 0.5}) == {"a": 0.5}
    for wrong in ("a,a", "a:nan", [("a", "x")]):
        with pytest.raises(InputError, match="lora=a"):
            parse(wrong)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_blocks_that_come_and_go_have_the_adapter(
    saved: tuple[Path, object], part: Part, tmp_path: Path, dora: bool
) -> None:
    """The same sum, made anew whenever a block runs; at home its weights stay those of the file."""
    path = saved_adapter(tmp_path / "a.safetensors", part, dora=dora)
    clips = {
        offload: videodit.load(str(saved[0]), device="cpu", offload=offload, lora={path: 0.7})(WORDS[0], **REQUEST).clip
        for offload in ("none", "block")
    }
    assert_equal(clips["block"], clips["none"])  # which prepares what is the same in each step
    name = "blocks.0.attention.q.weight"
    for dtype in (torch.float32, torch.bfloat16):
        whole = attach({"dit": part}, {str(path): 0.7})["dit"]
        network, seen = whole.load(dtype=dtype, streamed=True), []
        assert torch.equal(network.get_parameter(name), part.read(name))
        network.blocks[0].attention.q.register_forward_pre_hook(lambda q, _, seen=seen: seen.append(q.weight.clone()))
        arguments = part.spec["arguments"]
        pack = patchify([torch.zeros(arguments["channels"], 1, 4, 4, dtype=dtype)], arguments["patch"])
        with torch.no_grad():
            denoised(
                network, pack, torch.tensor([0.5]), Ragged(torch.zeros(3, arguments["text_dim"], dtype=dtype), (3,))
            )
        assert torch.equal(seen[0], whole.load(dtype=dtype).get_parameter(name))
        assert torch.equal(network.get_parameter(name), part.read(name))


def test_our_names_are_in_every_layout(part: Part) -> None:
    names = [{ours for ours, _ in matrices(part.spec, layout).values()} for layout in LAYOUTS]
    assert names[0] == names[1] and adapters.FILE.endswith(".safetensors")
