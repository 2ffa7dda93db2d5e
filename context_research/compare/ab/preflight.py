"""What every arm's sessions would refuse before an engine starts, asked of all arms before the first session."""

from __future__ import annotations

from collections.abc import Sequence

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of, named
from context_research.compare.ab.plan import Plan
from context_research.errors import UsageProblem
from context_research.models import hub
from context_research.models.model import Model
from context_research.serving import preflight
from context_research.settings.schema import ModelSettings, Settings
from context_research.workload.case import cases


def check(plan: Plan) -> list[str]:
    """Refuse an A/B of which some arm can't run: what is not installed, devices, lengths, memory. Its warnings.

    A model that can't be looked up is refused too: the sessions run here, and could not either. Each arm is checked on
    each group of devices, as it comes to have them all. Raises UsageProblem, naming the arm.
    """
    told = []
    looked_up: dict[ModelSettings, Model] = {}
    for arm in plan.arms:
        chosen = plan.settings_of(arm).model_copy(update={"seed": plan.seed})
        groups = plan.device_groups if named(chosen.backend).needs_own_devices else ()
        for group in groups or (None,):
            where = "" if group is None else f" on devices {','.join(map(str, group))}"
            try:
                found = _check_arm(chosen, group, plan.selects, looked_up)
            except UsageProblem as problem:
                raise UsageProblem(f"arm {arm}{where}: {problem}") from None
            told += [f"arm {arm}: {one}" for one in found]
    return list(dict.fromkeys(told))


def _check_arm(
    chosen: Settings, group: Sequence[int] | None, selects: bool, looked_up: dict[ModelSettings, Model]
) -> list[str]:
    """As a session does; where pytest is to choose among the cases, one that can run is enough."""

    def backend(settings: Settings) -> Backend:
        return backend_of(settings, group)

    def model(settings: Settings) -> Model:
        if settings.model not in looked_up:
            weights = named(settings.backend).needs_weights
            looked_up[settings.model] = hub.resolve(settings.model, config_only=not weights)
        return looked_up[settings.model]

    backend(chosen).check()
    every = cases(chosen)
    if not selects:
        return preflight.check_run(chosen, every, model, backend)
    preflight.check_run(chosen, [], model, backend)
    problems = []
    for case in every:
        try:
            preflight.check_run(chosen, [case], model, backend)
        except UsageProblem as problem:
            problems.append(problem)
    if len(problems) == len(every):
        raise problems[0]
    return []
