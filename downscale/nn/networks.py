"""Networks by name."""

from __future__ import annotations

import inspect
from typing import Any

from downscale.errors import DownscaleError, OptionError, listing
from downscale.nn.autoencoder import Autoencoder
from downscale.nn.base import Network
from downscale.nn.published import SuperResolutionCNN
from downscale.nn.residual import ResidualNetwork
from downscale.nn.spec import ModelSpec
from downscale.nn.unet import UNet

NETWORKS: dict[str, type[Network]] = {
    "residual": ResidualNetwork,
    "unet": UNet,
    "autoencoder": Autoencoder,
    "sr_cnn": SuperResolutionCNN,
}


def build(spec: ModelSpec) -> Network:
    """Return the network of a specification, with initial weights that add no detail.

    Raises
    ------
    OptionError
        If the network or one of its options is unknown, or a value is of the wrong kind.

    Examples
    --------
    >>> from downscale.nn.spec import Variable
    >>> build(ModelSpec("residual", (2, 2), (Variable("tas", "K"),), options={"depth": 1})).halo
    6
    """
    if spec.network not in NETWORKS:
        raise OptionError(f"expected network to be among {listing(NETWORKS)}, received {spec.network!r}")
    kind = NETWORKS[spec.network]
    known = options_of(spec.network)
    for name, value in spec.options.items():
        if name not in known:
            raise OptionError(f"expected options of {spec.network!r} among {listing(known)}, received {name!r}")
        what = f"option {name!r} of {spec.network!r}"
        _check_kind(what, value, known[name])
        if type(value) is int and value == 0 and name not in kind.may_be_zero:
            raise OptionError(f"expected {what} to be at least 1, received 0")
    make: Any = kind
    try:
        return make(spec.coarse_channels, spec.fine_channels, sum(spec.units), spec.factor, **spec.options)
    except DownscaleError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"expected options that make a {spec.network!r} network, received {error}") from None


def options_of(network: str) -> dict[str, Any]:
    """Return the options of a network with their defaults."""
    parameters = inspect.signature(NETWORKS[network]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def _check_kind(what: str, value: Any, default: Any) -> None:
    """Raise an OptionError for a value of another kind than the default; integers are sizes, and not negative."""
    if isinstance(default, bool):
        good, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 4096
        kind = "a whole number from 0 to 4096"
    elif isinstance(default, str):
        good, kind = isinstance(value, str), "a text"
    else:
        good = isinstance(value, (list, tuple)) and bool(value)
        good = good and all(isinstance(item, int) and not isinstance(item, bool) and item >= 1 for item in value)
        kind = "a list of whole numbers from 1 on"
    if not good:
        raise OptionError(f"expected {what} to be {kind}, such as {default!r}, received {value!r}")
