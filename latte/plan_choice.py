"""The choice of the plan that a pipeline's calls follow: a given plan, a plan by name, or one that a rule makes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path

from latte.guided_denoiser import GuidedDenoiser
from latte.pab import PyramidAttentionBroadcastMixin, broadcast_plan
from latte.plans.named_rules import RulePlan, is_rule, rule_of
from latte.plans.plan_file import find_plan, no_plan, plan_text, read_plan
from latte.plans.readable import following
from latte.plans.records import Plan, fitted
from latte.plans.tracks import layers_of

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
                latte.plans.rules; the path of a plan's file; the name of a plan that the model's folder holds, such as
                "faithful" or "fast"; or the words of rules of latte.plans.named_rules, such as "network:17,order=1".

        Raises:
            ValueError: There is no such plan, its file or its words are not valid, the model has no layers that it
                reuses, or Pyramid Attention Broadcast is enabled.
        """
        if self._broadcast is not None:
            raise ValueError("Pyramid Attention Broadcast makes a plan of its own: disable it before enable_plan")
        if isinstance(plan, str | Path):
            plan = self.plan_of_words(str(plan))
        self._plan = plan

    def plan_of_words(self, words: str) -> Plan | PlanRule:
        """The plan of a file or of the model's folder, or the rules that the words stand for; see enable_plan."""
        path = find_plan(words, self.plan_folder)
        if path is not None:
            return read_plan(path)
        if not is_rule(words):
            raise no_plan(words, self.plan_folder)
        rule = rule_of(words)
        if self.transformer is not None:
            rule.check_layers({kind for kind, _ in layers_of(self.transformer)})
        return rule

    def disable_plan(self) -> None:
        """Compute everything in every evaluation again."""
        self._plan = None

    def plan_digest(self) -> str | None:
        """A digest of the enabled plan, or the words of its rules; None if there is none, or if a function makes it."""
        if isinstance(self._plan, RulePlan):
            return self._plan.words
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
