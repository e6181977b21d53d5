"""Upsampling kernels: Sobolev weights, sum-to-one constraints, polyphase components."""
