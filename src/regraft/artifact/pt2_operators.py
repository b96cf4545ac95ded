"""Operators that a program may use: torch's own, on tensors and numbers, none of which reads files or writes memory of others.

A name is missing here until somebody has looked at what it does: among `aten` are operators that open files
(`from_file`) or take addresses on trust (`set_`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

SCALARS: Mapping[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.truediv": operator.truediv,
    "_operator.mod": operator.mod,
    "_operator.neg": operator.neg,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.lt": operator.lt,
    "_operator.le": operator.le,
    "_operator.gt": operator.gt,
    "_operator.ge": operator.ge,
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "math.trunc": math.trunc,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_sqrt": math.sqrt,
    "torch.sym_ite": lambda when, then, otherwise: then if when else otherwise,
}
"""What it computes, on numbers: sizes, and what is computed of them."""

SILENT = frozenset(
    {
        "torch.ops.aten._assert_tensor_metadata.default",
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten.sym_constrain_range.default",
        "torch.ops.aten.sym_constrain_range_for_size.default",
    }
)
"""Statements about shapes that compute nothing."""

_MAKE = """
arange.default arange.start arange.start_step eye.default full.default full_like.default lift_fresh.default
lift_fresh_copy.default new_full.default new_ones.default new_zeros.default one_hot.default ones.default
ones_like.default scalar_tensor.default tril.default triu.default zeros.default zeros_like.default
"""
_SHAPE = """
_to_copy.default _unsafe_view.default alias.default cat.default chunk.default clone.default constant_pad_nd.default
contiguous.default detach.default detach_.default expand.default expand_as.default flatten.using_ints flip.default
item.default movedim.int numpy_T.default pad.default permute.default repeat.default repeat_interleave.self_int
reshape.default roll.default select.int slice.Tensor split.Tensor split_with_sizes.default squeeze.default squeeze.dim
squeeze.dims stack.default swapaxes.default sym_numel.default sym_size.int sym_storage_offset.default t.default
to.device to.dtype to.dtype_layout to.other transpose.int type_as.default unbind.int unflatten.int unfold.default
unsafe_chunk.default unsafe_split.Tensor unsqueeze.default view.default view_as.default
"""
_INDEX = """
copy.default copy_.default embedding.default fill_.Scalar gather.default index.Tensor index_copy.default
index_put.default index_put_.default index_select.default masked_fill.Scalar masked_fill.Tensor masked_fill_.Scalar
masked_fill_.Tensor scatter.src scatter.value select_scatter.default slice_scatter.default take_along_dim.default where.Scalar
where.ScalarOther where.ScalarSelf where.self
"""
_ELEMENT = """
__and__.Scalar __and__.Tensor __or__.Tensor abs.default add.Scalar add.Tensor add_.Scalar add_.Tensor bitwise_and.Tensor
bitwise_and_.Tensor bitwise_not.default bitwise_or.Tensor bitwise_or_.Tensor ceil.default clamp.Tensor clamp.default
clamp_max.default clamp_min.default cos.default div.Scalar div.Tensor div.Tensor_mode div_.Tensor eq.Scalar eq.Tensor
erf.default exp.default floor.default floor_divide.default ge.Scalar ge.Tensor gt.Scalar gt.Tensor isnan.default
le.Scalar le.Tensor log.default log1p.default logical_and.default logical_not.default logical_or.default
logical_xor.default lt.Scalar lt.Tensor max.other maximum.default min.other minimum.default mul.Scalar mul.Tensor
mul_.Scalar mul_.Tensor nan_to_num.default ne.Scalar ne.Tensor neg.default pow.Scalar pow.Tensor_Scalar
pow.Tensor_Tensor reciprocal.default remainder.Scalar round.default rsqrt.default rsub.Scalar sign.default sin.default
sqrt.default square.default sub.Scalar sub.Tensor sub_.Scalar sub_.Tensor tanh.default
"""
_ACTIVATE = """
dropout.default elu.default gelu.default hardtanh.default leaky_relu.default log_sigmoid.default mish.default
relu.default relu_.default sigmoid.default silu.default silu_.default softplus.default
"""
_REDUCE = """
_softmax.default all.default all.dim amax.default amin.default any.default any.dim argmax.default argmin.default
cummax.default cumsum.default linalg_vector_norm.default log_softmax.int logsumexp.default max.default max.dim
mean.default mean.dim min.default min.dim norm.ScalarOpt_dim prod.dim_int softmax.int sort.default std.dim sum.default
sum.dim_IntList topk.default var.correction var.dim
"""
_LAYERS = """
_weight_norm.default adaptive_avg_pool1d.default addmm.default avg_pool1d.default baddbmm.default batch_norm.default bmm.default
conv1d.default conv1d.padding conv2d.default conv2d.padding convolution.default dot.default einsum.default
group_norm.default gru.input layer_norm.default linear.default lstm.input matmul.default max_pool1d.default
max_pool2d.default mm.default mv.default native_layer_norm.default outer.default rms_norm.default
scaled_dot_product_attention.default
"""

OPERATORS = frozenset(" ".join((_MAKE, _SHAPE, _INDEX, _ELEMENT, _ACTIVATE, _REDUCE, _LAYERS)).split())
"""Names in torch's library `aten`, overload included."""
