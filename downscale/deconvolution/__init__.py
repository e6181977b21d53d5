"""Deconvolution: point-spread functions of instruments, their blur, and its regularised inverses."""
