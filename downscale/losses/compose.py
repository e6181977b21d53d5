"""Weighted sums of named loss terms, built from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from downscale.errors import OptionError, listing
from downscale.losses.context import LossContext
from downscale.losses.terms import TERMS, Term, number

if TYPE_CHECKING:
    from torch import Tensor

COMMON = ("weight", "variables", "loss")


@dataclass(frozen=True)
class WeightedTerm:
    """One term of a sum.

    Attributes
    ----------
    name : str
        Name in the log.
    weight : float
        Factor of its value; a term with 0 is only logged.
    term : callable
        The loss.
    variables : tuple of str
        Variables to include; all if empty.
    """

    name: str
    weight: float
    term: Term
    variables: tuple[str, ...] = ()

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext) -> Tensor:
        """Return the unweighted value of the term."""
        if self.variables:
            prediction, target, weight, context = _only(self.variables, prediction, target, weight, context)
        return self.term(prediction, target, weight, context)


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of losses.

    Examples
    --------
    >>> loss = WeightedSum.from_config({"mse": 1.0, "huber": {"weight": 0.5, "delta": 2.0}})
    >>> total, values = loss.measure(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    >>> float(total), {name: float(value) for name, value in values.items()}
    (5.0, {'mse': 4.0, 'huber': 2.0})
    """

    terms: tuple[WeightedTerm, ...]
    context: LossContext = field(default_factory=LossContext)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], context: LossContext | None = None) -> WeightedSum:
        """Return the sum from ``{name: weight}`` or ``{name: {"weight": ..., option: ...}}``.

        ``variables`` restricts a term to some variables. ``loss`` names the loss of a term with another name, so that
        the same loss can occur twice.

        Parameters
        ----------
        config : mapping
            Losses of a recipe.
        context : LossContext, optional
            Context that is the same for all batches.

        Raises
        ------
        OptionError
            If a name or an option is unknown, missing or of the wrong kind, or no weight is positive.
        """
        if not isinstance(config, Mapping) or not config:
            raise OptionError(f"expected losses by name, such as {{'mse': 1.0}}, received {config!r}")
        terms = tuple(_term(name, options) for name, options in config.items())
        if not any(term.weight > 0 for term in terms):
            raise OptionError(f"expected a positive weight for one of the losses {listing(config)}, received none")
        return cls(terms, LossContext() if context is None else context)

    def __call__(
        self, prediction: Tensor, target: Tensor, weight: Tensor | None = None, context: LossContext | None = None
    ) -> Tensor:
        """Return the weighted sum, differentiable; arguments as for ``measure``."""
        return self.measure(prediction, target, weight, context)[0]

    def measure(
        self, prediction: Tensor, target: Tensor, weight: Tensor | None = None, context: LossContext | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum, differentiable, and the detached unweighted value of each term by name.

        Parameters
        ----------
        prediction, target : tensors, shapes (..., n_y, n_x)
            In the same units; NaN targets are ignored. ``context.members`` is an extra dimension of the prediction.
        weight : tensor that broadcasts to the target, optional
            Areas times mask.
        context : LossContext, optional
            Context of this batch, instead of that given at construction.
        """
        context = self.context if context is None else context
        if context.members is not None:
            prediction = prediction.movedim(context.members, 0)
            context = replace(context, members=0)
        total, values = prediction.new_zeros((), dtype=torch.promote_types(prediction.dtype, torch.float32)), {}
        for term in self.terms:
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight > 0):
                value = term(prediction, target, weight, context)
            values[term.name] = value.detach()
            if term.weight > 0:
                total = total + term.weight * value
        return total, values


def _only(
    names: tuple[str, ...], prediction: Tensor, target: Tensor, weight: Tensor | None, context: LossContext
) -> tuple[Tensor, Tensor, Tensor | None, LossContext]:
    index = context.positions(names)
    count = len(context.variables)

    def cut(whole: Any) -> Any:
        many = isinstance(whole, torch.Tensor) and whole.ndim >= 3 and whole.shape[-3] == count
        return whole[..., index, :, :] if many else whole

    part = replace(context, coarse=cut(context.coarse), scale=cut(context.scale), variables=names)
    return cut(prediction), cut(target), cut(weight), part


def _term(name: str, given: Any) -> WeightedTerm:
    options = dict(given) if isinstance(given, Mapping) else {"weight": given}
    loss = options.pop("loss", name)
    if not isinstance(loss, str) or loss not in TERMS:
        raise OptionError(f"expected a loss among {listing(TERMS)}, received {loss!r}")
    weight = number(options.pop("weight", 1.0), f"the weight of loss {name!r}")
    if weight < 0:
        raise OptionError(f"expected the weight of loss {name!r} to be >= 0, received {weight!r}")
    variables = _names(options.pop("variables", ()), name)
    return WeightedTerm(name, weight, _build(TERMS[loss], name, options), variables)


def _build(kind: Any, name: str, options: dict[str, Any]) -> Term:
    known = {each.name: each for each in fields(kind)}
    unknown = [option for option in options if option not in known]
    if unknown:
        legal = listing([*known, *COMMON])
        raise OptionError(f"expected options of loss {name!r} among {legal}, received {listing(unknown)}")
    missing = [option for option, each in known.items() if each.default is MISSING and option not in options]
    if missing:
        received = listing(options) or "none"
        raise OptionError(f"expected loss {name!r} with option {listing(missing)}, received {received}")
    values = {option: _value(value, known[option].type, name, option) for option, value in options.items()}
    term: Term = kind(**values)
    return term


def _value(value: Any, kind: Any, name: str, option: str) -> Any:
    """Return a value of the option's type."""
    what = f"{option} of loss {name!r}"
    if kind == "bool":
        if not isinstance(value, bool):
            raise OptionError(f"expected {what} to be true or false, received {value!r}")
        return value
    if kind == "Numbers":
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise OptionError(f"expected {what} to be a list of numbers, received {value!r}")
        return tuple(number(each, what) for each in value)
    return None if value is None and "None" in kind else number(value, what)


def _names(given: Any, name: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(each, str) for each in names):
        raise OptionError(f"expected variables of loss {name!r} to be a list of names, received {given!r}")
    return tuple(names)
