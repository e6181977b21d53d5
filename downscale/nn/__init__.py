"""Torch modules: fixed and learnable up-sampling under the laws (knows kernels and fields, no file and no dask)."""

from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.upsample import SobolevUpsample

__all__ = ["ConservativeConvTranspose2d", "SobolevUpsample"]
