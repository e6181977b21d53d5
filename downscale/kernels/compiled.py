"""Compilation of inner loops, cached on disk between runs, and writing past the caches of the processor.

The cache follows changes to the file of a function only: compiled functions call those of their own file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from downscale.errors import OptionError

logger = logging.getLogger("downscale")
# The library refuses to load with other values, with a long traceback.
THREADS = os.environ.get("NUMBA_NUM_THREADS", "1")
if not THREADS.strip().isdigit() or int(THREADS) < 1:
    raise OptionError(
        "expected the environment variable NUMBA_NUM_THREADS to be a whole number from 1, "
        f"received {THREADS!r}; change it or unset it"
    )

from llvmlite import ir  # noqa: E402 - after the check
from numba.core import cgutils, types  # noqa: E402
from numba.core.caching import FunctionCache  # noqa: E402
from numba.core.errors import NumbaError, TypingError  # noqa: E402
from numba.core.registry import CPUDispatcher  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

# Bytes of a cache line.
LINE = 64


class Loop(CPUDispatcher):  # type: ignore[misc]
    """A compiled loop that is compiled anew if its file is damaged, and is not stored if that fails.

    The library reads its files without a check: one truncated by a full disk or a crash would break every later run.
    """

    def compile(self, sig: Any) -> Any:
        """Return the machine code for a signature, from the cache if it holds a sound one."""
        try:
            return super().compile(sig)
        except NumbaError:
            raise
        except Exception as error:  # damaged bytes may raise anything
            if isinstance(error, OSError):
                _warn(error.strerror)
            with suppress(RuntimeError, OSError):
                FunctionCache(self.py_func).flush()
            # A loop that could not be stored is in memory now.
            return super().compile(sig)


def compile_loop(function: Callable[..., Any], fused: bool = True) -> Any:
    """Compile a function without the interpreter's lock, cached on disk between runs if possible.

    Products and sums may be fused; nothing else is reordered, so that every cell gets the same bits at any position.
    Without ``fused`` the bits are also the same on every kind of processor.
    """
    loop = _loop(function, fused)
    try:
        loop.enable_caching()
    except (RuntimeError, OSError):
        _warn("no folder can be written")
    return loop


def compile_inner(function: Callable[..., Any]) -> Any:
    """Compile a function that only compiled functions of its own file call; these store it with their own code."""
    return _loop(function, fused=True)


def _loop(function: Callable[..., Any], fused: bool) -> Loop:
    fastmath = {"contract"} if fused else False
    options = {"nopython": True, "nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    return Loop(function, targetoptions=options)


@cache
def _warn(reason: str | None) -> None:
    logger.warning("compiled loops are not stored (%s); set NUMBA_CACHE_DIR to a folder with space", reason)


@intrinsic
def store_line(typingctx, source, row, out, k, at, i):  # type: ignore[no-untyped-def]
    """Write the cache line of ``out[k, at]`` that begins with column ``i``, past the caches; rows are in C order.

    Memory that is only written need not be read first, which is half the cost of a large result.
    """
    if source.layout != "C" or out.layout != "C" or source.dtype != out.dtype:
        raise TypingError(f"expected arrays of one type in C order, received {source} and {out}; copy them first")

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def place(kind, array, index):  # type: ignore[no-untyped-def]
            struct = context.make_array(kind)(context, builder, array)
            shape, strides = (cgutils.unpack_tuple(builder, v) for v in (struct.shape, struct.strides))
            data = struct.data
            return cgutils.get_item_pointer2(context, builder, data, shape, strides, "C", index, wraparound=False)

        item = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(item)
        line = ir.VectorType(item, LINE // size).as_pointer()
        origin = place(signature.args[0], values[0], (values[1], values[5]))
        target = place(signature.args[2], values[2], values[3:6])
        instruction = builder.store(
            builder.load(builder.bitcast(origin, line), align=size), builder.bitcast(target, line), LINE
        )
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(source, row, out, k, at, i), code


@intrinsic
def fence(typingctx):  # type: ignore[no-untyped-def]
    """Make values written past the caches visible to other threads."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code
