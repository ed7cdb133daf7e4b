"""Hardware has a configuration; one that is asked for has to be that."""

from __future__ import annotations

from dataclasses import replace

from rtl.config import PRESETS, AcceleratorConfig


def require_config(what: str, found: AcceleratorConfig, wanted: AcceleratorConfig | None) -> None:
    """Raise RuntimeError if `what` has another configuration than the one wanted, if any.

    How it came to be built (`vendor`) does not matter: registers do not tell.
    """
    if wanted is not None and replace(wanted, vendor=found.vendor) != found:
        raise RuntimeError(f"{what} does not have this configuration but {_named(found)}")


def _named(config: AcceleratorConfig) -> str:
    for name, preset in PRESETS.items():
        if replace(preset, vendor=config.vendor) == config:
            return f"that of --preset {name}"
    return str(config)
