"""Cycles of the accelerator without the accelerator: an analytic model of programs of descriptors."""
