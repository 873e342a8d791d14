"""The choice of the plan that a pipeline's calls follow: a given plan, a plan by name, or one that a rule makes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path

from latte.conditioning import GuidedDenoiser
from latte.pab import PyramidAttentionBroadcastMixin, broadcast_plan
from latte.plans.plan_file import named_plan, plan_text, read_plan
from latte.plans.readable import following
from latte.plans.records import Plan, fitted

PlanRule = Callable[[Plan], Plan]


class PlanMixin(PyramidAttentionBroadcastMixin):
    """A pipeline's plan. With autoguidance, the weaker network is computed in full in every guided evaluation.

    Attributes:
        plan_folder: Where plans are looked up by name: the model's folder.
    """

    plan_folder: Path | None = None
    _plan: Plan | PlanRule | None = None

    def enable_plan(self, plan: Plan | PlanRule | str | Path) -> None:
        """Follow a plan from the next call on: compute less, and reuse what was computed before.

        Args:
            plan: A plan; a function from the plan that computes everything to another one, such as those in
                latte.plans.rules; the path of a plan's file; or the name of a plan that the model's folder holds, such
                as "faithful" or "fast".

        Raises:
            ValueError: There is no such plan, its file is not valid, or Pyramid Attention Broadcast is enabled.
        """
        if self._broadcast is not None:
            raise ValueError("Pyramid Attention Broadcast makes a plan of its own: disable it before enable_plan")
        if isinstance(plan, str | Path):
            plan = read_plan(named_plan(plan, self.plan_folder))
        self._plan = plan

    def disable_plan(self) -> None:
        """Compute everything in every evaluation again."""
        self._plan = None

    def plan_digest(self) -> str | None:
        """A digest of the enabled plan; None if there is none, or if a rule makes it."""
        return sha256(plan_text(self._plan).encode()).hexdigest() if isinstance(self._plan, Plan) else None

    def planned(self, exact: Plan) -> Plan:
        """The plan of a call, given the one that computes everything; raises ValueError if a plan does not fit."""
        if self._broadcast is not None:
            if self._plan is not None:
                raise ValueError("Pyramid Attention Broadcast makes a plan of its own: disable one of the two")
            return broadcast_plan(exact, *self._broadcast)
        if self._plan is None:
            return exact
        return fitted(self._plan, exact) if isinstance(self._plan, Plan) else self._plan(exact)

    def following(self, denoiser: GuidedDenoiser) -> AbstractContextManager[None]:
        """Within the context, the readable network follows a denoiser's plan; the fast form does so by itself."""
        if denoiser.cache is None or denoiser.fast:
            return nullcontext()
        return following(self.transformer, denoiser.cache, denoiser.plan.kinds)
