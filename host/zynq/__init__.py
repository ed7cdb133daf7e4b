"""The accelerator on a Zynq-7000, from Linux on its own processor."""
