"""diffusers' scheduler_config.json: a sampler, its schedule and shift, and a line for what is not followed.

sampler     which of ours goes the same way
spacing     how its times lie (flow/schedules.py)
shift       the key that says it
solver      keys that its own class takes while sampling (flow/samplers.py)
agreed      the other keys that would change the times or the way, and the only value with which ours are the same
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, Len, Lt
from typing_extensions import TypedDict

from videodit.printable import warn
from videodit.untrusted import is_a, read_json

FILE = Path("scheduler") / "scheduler_config.json"
Order = Annotated[int, Ge(1), Le(3)]
Steps = Annotated[list[Annotated[int, Ge(0), Le(2**14)]], Len(0, 2**10)]


class Scheduler(TypedDict, total=False):
    """What is read of it; any other key that counts may hold anything, and is told."""

    _class_name: str
    flow_shift: Annotated[float, Gt(0), Le(1000)]
    shift: Annotated[float, Gt(0), Le(1000)]
    final_sigmas_type: str
    beta_start: Annotated[float, Ge(0), Lt(1)]
    num_train_timesteps: Any
    prediction_type: Any
    use_flow_sigmas: Any
    use_karras_sigmas: Any
    use_exponential_sigmas: Any
    use_beta_sigmas: Any
    use_lu_lambdas: Any
    use_dynamic_shifting: Any
    shift_terminal: Any
    thresholding: Any
    invert_sigmas: Any
    stochastic_sampling: Any
    variance_type: Any
    solver_p: Any
    beta_schedule: Any
    trained_betas: Any
    rescale_betas_zero_snr: Any
    solver_order: Any
    solver_type: Any
    algorithm_type: Any
    lower_order_final: Any
    euler_at_final: Any
    predict_x0: Any
    disable_corrector: Any


class Followed(NamedTuple):
    """A class of theirs, with the defaults of its constructor."""

    sampler: str
    spacing: str
    shift: str
    solver: Mapping[str, tuple[Any, Any]]  # key -> its default, and the type of the values that are followed
    agreed: Mapping[str, tuple[Any, Any]]  # key -> its default, and the value with which ours is the same


_NEVER = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"), (False, False)
)
_FLOW = {
    **_NEVER,
    **{"prediction_type": ("epsilon", "flow_prediction"), "use_flow_sigmas": (False, True)},
    **{"num_train_timesteps": (1000, 1000), "thresholding": (False, False)},
}
_ORDER = {"solver_order": (2, Order)}
FOLLOWED: Mapping[str, Followed] = MappingProxyType({
    "UniPCMultistepScheduler": Followed(
        "unipc", "unipc", "flow_shift",
        {**_ORDER, "disable_corrector": ([], Steps)},
        # Of other values of the last three diffusers itself makes no video of a flow.
        {**_FLOW, "shift_terminal": (None, None), "solver_p": (None, None), "solver_type": ("bh2", "bh2"),
         "lower_order_final": (True, True), "predict_x0": (True, True)},
    ),
    "DPMSolverMultistepScheduler": Followed(
        "dpmpp", "dpmpp", "flow_shift",
        {**_ORDER, "lower_order_final": (True, bool), "solver_type": ("midpoint", Literal["midpoint", "heun"]),
         "euler_at_final": (False, bool)},
        {**_FLOW, "algorithm_type": ("dpmsolver++", "dpmsolver++"), "use_lu_lambdas": (False, False),
         "variance_type": (None, None)},
    ),
    "FlowMatchEulerDiscreteScheduler": Followed(
        "euler", "euler", "shift", {},
        {**_NEVER, "num_train_timesteps": (1000, 1000), "shift_terminal": (None, None),
         "invert_sigmas": (False, False), "stochastic_sampling": (False, False)},
    ),
})  # fmt: skip
# With these the first beta, which says the last of DPM++'s sigmas if that is not 0, is beta_start.
BETAS = {"beta_schedule": ("linear", "scaled_linear"), "trained_betas": (None,), "rescale_betas_zero_snr": (False,)}
DEFAULTS = {"flow_shift": 1.0, "shift": 1.0, "final_sigmas_type": "zero", "beta_start": 0.0001,
            **{key: values[0] for key, values in BETAS.items()}}  # fmt: skip


def read_scheduler(folder: Path, name: str | None) -> dict[str, Any]:
    """The shift, the sampler and, where they are not the usual ones, `schedule` and `solver` of a pipeline.

    `name`: the class, as the model_index.json says it. What is not followed is told.
    """
    file = folder / FILE
    held = read_json(file, Scheduler)
    name = name or held.get("_class_name", "")
    if name not in FOLLOWED:
        warn(__name__, f"{file}: {name} is not followed; sampler=unipc and its usual times take its place")
        return {"shift": float(held.get("flow_shift", held.get("shift", 1.0))), "sampler": "unipc"}
    followed = FOLLOWED[name]
    defaults = {key: default for key, (default, _) in (followed.solver | followed.agreed).items()}
    held = {**DEFAULTS, **defaults, **held}
    solver = {key: held[key] for key in followed.solver if held[key] != defaults[key]}
    strange = {key: value for key, value in solver.items() if not is_a(value, followed.solver[key][1])}
    strange |= {key: held[key] for key, (_, value) in followed.agreed.items() if held[key] != value}
    final, other = _final(followed, held)
    if strange | other:
        told = ", ".join(f"{key}={value!r}"[:60] for key, value in (strange | other).items())
        warn(__name__, f"{file}: not followed: {told}")
    solver = {key: value for key, value in solver.items() if key not in strange}
    solver |= {"final_sigmas_type": "sigma_min"} if final else {}
    usual = followed.spacing == "unipc" and not final
    return {
        **{"shift": float(held[followed.shift]), "sampler": followed.sampler},
        **({} if usual else {"schedule": {"spacing": followed.spacing, "final": final}}),
        **({"solver": solver} if solver else {}),
    }


def _final(followed: Followed, held: Mapping[str, Any]) -> tuple[float | Literal["last"], dict[str, Any]]:
    """The last time, and what is not followed of what says it."""
    kind = held["final_sigmas_type"]
    if kind == "zero" or not followed.solver:
        return 0.0, {}
    if kind != "sigma_min":
        return 0.0, {"final_sigmas_type": kind}
    if followed.sampler == "unipc":
        return "last", {}
    if strange := {key: held[key] for key, values in BETAS.items() if held[key] not in values}:
        return 0.0, {"final_sigmas_type": kind, **strange}
    return (held["beta_start"] / (1 - held["beta_start"])) ** 0.5, {}
