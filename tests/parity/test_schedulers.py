"""A folder's scheduler is followed: the same times and the same video as diffusers', or a line says what is not."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import videodit
from tests.parity import pipelines
from videodit.checkpoint import find, resolve
from videodit.checkpoint.find import describe
from videodit.checkpoint.schedulers import BETAS, FILE, FOLLOWED
from videodit.checkpoint.schemas import Pipeline
from videodit.checkpoint.store import write_json
from videodit.errors import InputError
from videodit.flow.schedules import scheduled
from videodit.untrusted import check, read_json

UNIPC, DPMPP, EULER = FOLLOWED
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 4.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((UNIPC, one) for one in ({}, {"solver_order": 1}, {"solver_order": 3}, {"disable_corrector": [0, 2]},
                               {"final_sigmas_type": "sigma_min"})),
    *((DPMPP, one) for one in ({}, {"solver_order": 1}, {"solver_order": 3}, {"solver_type": "heun"},
                               {"euler_at_final": True}, {"lower_order_final": False, "solver_order": 3},
                               {"final_sigmas_type": "sigma_min"},
                               {"final_sigmas_type": "sigma_min", "beta_start": 0.0004})),
    (EULER, {}),
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("theirs")
    return folder, pipelines.pipeline("2.1", folder)


def use(folder: Path, theirs: Any, name: str, **more: Any) -> Any:
    """Give a folder and its pipeline this scheduler."""
    arguments = {"shift": 4.0, **more} if name == EULER else {**FLOW, **more}
    theirs.scheduler = getattr(diffusers, name)(**arguments)
    (folder / FILE).unlink()
    theirs.scheduler.save_pretrained(folder / "scheduler")
    file = folder / "model_index.json"
    write_json(file, read_json(file) | {"scheduler": ["diffusers", name]})
    return theirs.scheduler


@pytest.mark.parametrize(("name", "more"), CASES, ids=str)
def test_the_same_video(
    saved: tuple[Path, Any], name: str, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, theirs = saved
    scheduler = use(folder, theirs, name, **more)
    pipe = videodit.load(str(folder), device="cpu")
    assert "not followed" not in capsys.readouterr().err
    size, how = (5, 32, 32), {"steps": 6, "guidance": 5.0, "seed": 1}
    expected = pipelines.clip(theirs, pipelines.WORDS[0], size=size, seed=1, num_inference_steps=6, guidance_scale=5.0)
    video = pipe(pipelines.WORDS[0], frames=5, height=32, width=32, **how)
    assert (video.clip - expected).abs().max() < 2e-3 and expected.std() > 0.02
    settings = describe(str(folder))[0]
    assert check(settings, Pipeline, "x") == settings, "a fine-tuned model can keep it"
    for steps in (1, 2, 6, 17):
        scheduler.set_timesteps(steps)
        times = scheduled(steps, 4.0, **settings.get("schedule", {}))
        assert (times.clamp(max=1 - 1e-6).float() - scheduler.sigmas.clamp(max=1 - 1e-6)).abs().max() < 1e-6


def test_the_table_is_diffusers() -> None:
    for name, followed in FOLLOWED.items():
        said = {
            key: one.default for key, one in inspect.signature(getattr(diffusers, name).__init__).parameters.items()
        }
        ours = {key: default for key, (default, _) in (followed.solver | followed.agreed).items()}
        assert ours == {key: said[key] for key in ours}
        without = {"self", followed.shift, "final_sigmas_type", *ours, *BETAS, "beta_start", "beta_end"}
        # of thresholding, dynamic shifting, Karras's sigmas and times without flow alone
        idle = {"dynamic_thresholding_ratio", "sample_max_value", "time_shift_type", "base_shift", "max_shift",
                "base_image_seq_len", "max_image_seq_len", "sigma_min", "sigma_max", "timestep_spacing",
                "steps_offset", "lambda_min_clipped"}  # fmt: skip
        assert said.keys() - without <= idle


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        (UNIPC, {"use_flow_sigmas": False, "use_karras_sigmas": True}, "use_karras_sigmas=True, use_flow_sigmas=False"),
        (UNIPC, {"shift_terminal": 0.1}, "shift_terminal=0.1"),
        (UNIPC, {"solver_type": "bh1"}, "solver_type='bh1'"),
        (UNIPC, {"lower_order_final": False}, "lower_order_final=False"),
        (UNIPC, {"predict_x0": False}, "predict_x0=False"),
        (UNIPC, {"num_train_timesteps": 500}, "num_train_timesteps=500"),
        (UNIPC, {"prediction_type": "epsilon"}, "prediction_type='epsilon'"),
        (DPMPP, {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type='sde-dpmsolver++'"),
        (DPMPP, {"final_sigmas_type": "sigma_min", "beta_schedule": "squaredcos_cap_v2"}, "final_sigmas_type"),
        (EULER, {"use_dynamic_shifting": True}, "use_dynamic_shifting=True"),
        (EULER, {"stochastic_sampling": True}, "stochastic_sampling=True"),
    ],
)
def test_what_is_not_followed_is_told(
    saved: tuple[Path, Any], name: str, more: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, theirs = saved
    use(folder, theirs, name, **more)
    pipe = videodit.load(str(folder), device="cpu")
    lines = [line for line in capsys.readouterr().err.splitlines() if "not followed" in line]
    assert len(lines) == 1 and told in lines[0] and str(folder / FILE) in lines[0]
    pipe("a", frames=1, size="32x32", steps=2)


def test_another_class_is_told(saved: tuple[Path, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder, theirs = saved
    use(folder, theirs, UNIPC)
    file = folder / "model_index.json"
    write_json(file, read_json(file) | {"scheduler": ["diffusers", "DDIMScheduler"]})
    assert videodit.load(str(folder), device="cpu").request("a").sampler == "unipc"
    assert "DDIMScheduler is not followed" in capsys.readouterr().err


def test_a_shift_is_asked_for(saved: tuple[Path, Any]) -> None:
    """It takes the place of the model's, as in diffusers, and the record says it."""
    folder, theirs = saved
    use(folder, theirs, UNIPC)
    pipe, how = videodit.load(str(folder), device="cpu"), {"frames": 5, "size": "32x32", "steps": 6, "guidance": 5.0}
    plain, other = pipe("a red ball", **how), pipe("a red ball", shift=9, **how)
    use(folder, theirs, UNIPC, flow_shift=9.0)
    again = videodit.load(str(folder), device="cpu")("a red ball", **how)
    assert torch.equal(other.clip, again.clip) and not torch.equal(other.clip, plain.clip)
    assert (plain.record["shift"], other.record["shift"]) == (None, 9.0)
    with pytest.raises(InputError, match="one shift"):
        pipe.run([pipe.request("a", **how), pipe.request("a", shift=2, **how)])


@pytest.mark.parametrize("by_name", [True, False])
def test_the_vendors_shift(
    saved: tuple[Path, Any], by_name: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model that is asked for by its name; a folder's own file for the folder. Where they differ, a line."""
    folder, theirs = saved
    use(folder, theirs, UNIPC)
    name = "wan2.1-t2v-14b"
    monkeypatch.setattr(resolve, "from_hub", lambda *_, **__: folder)
    monkeypatch.setattr("videodit.checkpoint.folder.is_exact", lambda *_: True)
    monkeypatch.setattr("videodit.checkpoint.folder.nearest_family", lambda _: name)
    assert find.describe(name if by_name else str(folder))[0]["shift"] == (5.0 if by_name else 4.0)
    told = capsys.readouterr().err
    assert ("shift=5 is taken; that file has 4" if by_name else f"shift=4 is taken; {name}'s vendor has 5") in told
    use(folder, theirs, UNIPC, flow_shift=5.0)
    find.describe(name if by_name else str(folder))
    assert "shift=" not in capsys.readouterr().err
