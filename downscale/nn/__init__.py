"""Torch modules: fixed and learnable up-sampling under the laws."""
