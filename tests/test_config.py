"""Build parameters: checks, presets, JSON and the CSR words."""

from dataclasses import replace

import pytest

from rtl.config import PRESETS, AcceleratorConfig
from rtl.isa import config_from_words, config_words


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_json_round_trip(name):
    config = AcceleratorConfig.preset(name)
    assert AcceleratorConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pe": "popcount"},
        {"burst_beats": 256},
        {"burst_beats": 2},
        {"outstanding": 1},
        {"managers": 2},
        {"chip_kib": 16},
        {"chip_kib": 2032},
    ],
)
def test_words_round_trip(name, change):
    config = AcceleratorConfig.preset(name, **change)
    words = config_words(config)
    assert all(0 <= word < 1 << 32 for word in words)
    # The vendor changes how cells are built and nothing that a host can see.
    assert config_from_words(words) == replace(config, vendor="generic")


def test_words_of_no_configuration_are_refused():
    w0, w1, w2 = config_words(AcceleratorConfig())
    with pytest.raises(ValueError, match="kind 9"):
        config_from_words((w0 & ~0xFF0000 | 9 << 16, w1, w2))
    with pytest.raises(ValueError, match="clusters is 0"):
        config_from_words((w0 & ~0xFF, w1, w2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("clusters", value) for value in (0, 21, True, 1.0, "1")),
        *(("rows", value) for value in (0, 1, 3, 32)),
        *(("stream_depth", value) for value in (32, 100, 32768)),
        *(("result_depth", value) for value in (8, 48, 16384)),
        *(("burst_beats", value) for value in (0, 1, 12, 512)),
        *(("outstanding", value) for value in (0, 3, 32)),
        *(("managers", value) for value in (0, 3)),
        *(("queue_depth", value) for value in (1, 3, 32)),
        *(("chip_kib", value) for value in (-16, 8, 2048)),
        *(("pe", value) for value in ("", "dsp")),
        *(("vendor", value) for value in ("", "ice40")),
    ],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=rf"AcceleratorConfig\.{field} is {value!r}, must be"):
        AcceleratorConfig(**{field: value})


def test_unknown_preset_and_field_are_named():
    with pytest.raises(ValueError, match=r"unknown preset 'huge'.*tiny"):
        AcceleratorConfig.preset("huge")
    with pytest.raises(ValueError, match="wings"):
        AcceleratorConfig.from_json('{"wings": 2}')


def test_derived_sizes():
    config = AcceleratorConfig.preset("zc706")
    assert config.bit_macs_per_cycle == 184_320
    assert (config.weight_tile_beats, config.table_load_cycles) == (144, 256)
    assert (2 * config.stream_slot, 2 * config.result_slot) == (config.stream_depth, config.result_depth)
