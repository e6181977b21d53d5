"""Compiled stores of whole cache lines that bypass the caches.

Memory that is only written need not be read first, which is half the cost of a large result.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

LINE = 64
# Unsigned, so that the compiler can exclude negative indices.
U = np.uintp


@intrinsic
def put_line(typingctx, given, row, out, k, at, i):  # type: ignore[no-untyped-def]
    """Write the cache line of ``out[k, at]`` that begins with column ``i``, past the caches; rows are in C order."""
    if given.layout != "C" or out.layout != "C" or given.dtype != out.dtype:
        raise TypingError(f"expected arrays of one type in C order, received {given} and {out}; copy them first")

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        def place(kind, array, index):  # type: ignore[no-untyped-def]
            made = context.make_array(kind)(context, builder, array)
            shape, strides = (cgutils.unpack_tuple(builder, v) for v in (made.shape, made.strides))
            return cgutils.get_item_pointer2(context, builder, made.data, shape, strides, "C", index, wraparound=False)

        item = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(item)
        line = ir.VectorType(item, LINE // size).as_pointer()
        source = place(signature.args[0], values[0], (values[1], values[5]))
        target = place(signature.args[2], values[2], values[3:6])
        stored = builder.store(
            builder.load(builder.bitcast(source, line), align=size), builder.bitcast(target, line), LINE
        )
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(given, row, out, k, at, i), code


@intrinsic
def all_written(typingctx):  # type: ignore[no-untyped-def]
    """Make values written past the caches visible to other threads."""

    def code(context, builder, signature, values):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code
