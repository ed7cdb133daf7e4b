"""Schedules: PFQ's switches on loss sequences worked out by hand."""

import json

import pytest

from host.quantise import Precision
from host.schedules import (
    FracTrainSchedule,
    LossIndicator,
    PFQSchedule,
    PlannedSchedule,
    Stage,
    StaticSchedule,
    cyclic_stages,
)
from host.training.config import TrainConfig

STAGES = [Precision(3, 6), Precision(4, 6), Precision(6, 8), Precision(8, 8)]


def turns(losses, epsilon=0.05, alpha=0.3):
    indicator = LossIndicator(epsilon, alpha)
    return [epoch for epoch, loss in enumerate(losses, 1) if indicator.update(loss)]


def test_first_possible_turning_point_is_the_fifth_epoch():
    assert turns([1.0] * 4) == []
    assert turns([1.0] * 12) == [5, 10]


def test_each_older_loss_is_compared_with_the_latest():
    # S = 1. The latest against the first of the window: 0.0625 > 0.05, although no step is larger than 0.015625.
    losses = [1.03125, 1.015625, 1.0, 0.984375, 0.96875]
    assert turns(losses) == []
    # The next window begins at 1.015625: 1.015625 - 0.96875 = 0.046875, S = 0.9948; 0.0471 <= 0.05.
    assert turns([*losses, 0.96875]) == [6]


def test_the_threshold_itself_is_a_turning_point():
    # The mean of the five is 1, so S = 1; the largest distance is 1.125 - 0.875 = 0.25 exactly.
    losses = [1.125, 1.0, 1.0, 1.0, 0.875]
    assert turns(losses, epsilon=0.25) == [5]
    assert turns(losses, epsilon=0.2499) == []


def test_normaliser_is_the_mean_of_the_first_ten_epochs_only():
    # S = (9 * 2 + 12) / 10 = 3, then frozen; the early epochs jump, so none of them is a turning point.
    early = [4.0, 0.0] * 4 + [2.0, 12.0]
    # |0.15 - 0| / 3 = 0.05 <= 0.0501; with all losses averaged S would be 2 and the ratio 0.075.
    assert turns([*early, 0.15, 0.15, 0.15, 0.15, 0.0], epsilon=0.0501) == [15]
    assert turns([*early, 0.16, 0.15, 0.15, 0.15, 0.0], epsilon=0.0501) == []


def test_window_is_cleared_and_threshold_decays_twice():
    indicator = LossIndicator(0.05, 0.3)
    thresholds = []
    for _ in range(15):
        if indicator.update(1.0):
            thresholds.append(indicator.epsilon)
            assert indicator.window == []
    assert thresholds == pytest.approx([0.015, 0.0045, 0.0045])


def test_decayed_threshold_decides():
    # After the switch at epoch 5 the threshold is 0.015: a last difference of 0.02 no longer passes (S = 1.002).
    assert turns([1.0] * 5 + [1.02, 1.0, 1.0, 1.0, 1.0]) == [5]
    assert turns([1.0] * 5 + [1.02, 1.0, 1.0, 1.0, 1.0, 1.0]) == [5, 11]


def test_loss_of_zero_is_a_plateau():
    assert turns([0.0] * 5) == [5]


def pfq(**options):
    settings = {"epsilon": 0.05, "alpha": 0.3, "indicator_every": 2, "total": 100, "guard": 1.0} | options
    return PFQSchedule(STAGES, **settings)


def feed(schedule, losses):
    """Precision of each step, and the switches."""
    used, switches = [], []
    for loss in losses:
        used.append(schedule.precision)
        if (switch := schedule.observe(loss)) is not None:
            switches.append(switch)
    return used, switches


def test_pfq_switches_in_the_next_iteration():
    used, switches = feed(pfq(), [1.0] * 40)
    assert [(switch.iteration, switch.stage, switch.forced) for switch in switches] == [
        (10, 1, False),
        (20, 2, False),
        (30, 3, False),
    ]
    assert used == [STAGES[0]] * 10 + [STAGES[1]] * 10 + [STAGES[2]] * 10 + [STAGES[3]] * 10
    assert [switch.precision for switch in switches] == STAGES[1:]


def test_pfq_judges_epoch_means():
    # Iterations jump, their means over two do not.
    _, switches = feed(pfq(), [0.5, 1.5] * 5)
    assert [switch.iteration for switch in switches] == [10]
    assert feed(pfq(indicator_every=1), [0.5, 1.5] * 5)[1] == []


def test_guard_forces_the_stages_left():
    falling = [float(100 - i) for i in range(100)]
    _, switches = feed(pfq(guard=0.7, total=100), falling)
    assert [(switch.iteration, switch.forced) for switch in switches] == [(70, True), (80, True), (90, True)]
    assert feed(pfq(guard=1.0, total=100), falling)[1] == []


def test_guard_leaves_an_early_schedule_alone():
    _, switches = feed(pfq(guard=0.7), [1.0] * 100)
    assert [(switch.iteration, switch.forced) for switch in switches] == [(10, False), (20, False), (30, False)]


@pytest.mark.parametrize("cut", [0, 3, 11, 25, 80])
def test_state_survives_json(cut):
    losses = [1 / (i + 1) for i in range(100)]
    whole = feed(pfq(guard=0.7), losses)
    first = pfq(guard=0.7)
    before = feed(first, losses[:cut])
    second = pfq(guard=0.7)
    second.load_state(json.loads(json.dumps(first.state())))
    after = feed(second, losses[cut:])
    assert (before[0] + after[0], before[1] + after[1]) == whole


def test_static_never_switches():
    schedule = StaticSchedule(Precision(8, 8))
    assert feed(schedule, [1.0] * 20) == ([Precision(8, 8)] * 20, [])
    schedule.load_state(schedule.state())
    with pytest.raises(ValueError, match="another schedule"):
        schedule.load_state({"stage": 1})


def test_fractrain_raises_its_targets_where_pfq_would_raise_its_bits():
    targets = [1.8, 2.2, 2.6, 3.0]
    how = {"epsilon": 0.05, "alpha": 0.3, "indicator_every": 2, "total": 100, "guard": 0.7}
    schedule = FracTrainSchedule(targets, Precision(8, 8), **how)
    # A plateau of five indicator epochs; then means of 1 and 1.1 in turn, too far apart for the second threshold of
    # 0.015: only the guard is left, after 70 + 30 / 3 and 70 + 60 / 3 iterations.
    losses = [1.0] * 10 + [1.0, 1.0, 1.1, 1.1] * 20 + [1.0] * 10
    used, switches = [], []
    for loss in losses:
        used.append(schedule.cp)
        assert schedule.precision == Precision(8, 8)
        if (switch := schedule.observe(loss)) is not None:
            switches.append((switch.iteration, switch.stage, switch.cp, switch.forced))
    assert switches == [(10, 1, 2.2, False), (80, 2, 2.6, True), (90, 3, 3.0, True)]
    assert used == [1.8] * 10 + [2.2] * 70 + [2.6] * 10 + [3.0] * 10


def test_planned_stages_begin_where_they_are_planned():
    stages = [Stage(0, Precision(3, 6)), Stage(4, Precision(4, 6)), Stage(5, Precision(8, 8), cp=2.0)]
    schedule = PlannedSchedule(stages)
    used, switches = feed(schedule, [1.0] * 8)
    assert used == [Precision(3, 6)] * 4 + [Precision(4, 6)] + [Precision(8, 8)] * 3
    assert [(switch.iteration, switch.stage, switch.forced, switch.cp) for switch in switches] == [
        (4, 1, False, None),
        (5, 2, False, 2.0),
    ]
    again = PlannedSchedule(stages)
    again.load_state(json.loads(json.dumps(schedule.state())))
    assert (again.precision, again.cp) == (Precision(8, 8), 2.0)


def test_cpt_cycles_the_forward_width():
    # Two cycles of 8: 3 + 5 (1 - cos(pi t / 8)) / 2 = 3, 3.19, 3.73, 4.54, 5.5, 6.46, 7.27, 7.81; of 5.5 the even 6.
    cycle = [3, 3, 4, 5, 6, 6, 7, 8]
    schedule = PlannedSchedule(cyclic_stages(Precision(3, 8), Precision(8, 8), 2, 17))
    used, switches = feed(schedule, [1.0] * 17)
    assert [precision.fw for precision in used] == [*cycle, *cycle, 3]
    assert {precision.bw for precision in used} == {8}
    assert [switch.iteration for switch in switches] == [2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16]
    assert [switch.stage for switch in switches] == list(range(1, 13))


def test_cpt_needs_an_iteration_a_cycle():
    assert len(cyclic_stages(Precision(3, 8), Precision(8, 8), 5, 5)) == 1
    with pytest.raises(ValueError, match="6 cycles of precision do not fit into 5 iterations"):
        cyclic_stages(Precision(3, 8), Precision(8, 8), 6, 5)


@pytest.mark.parametrize(
    ("settings", "total", "missed"),
    [
        ({"schedule": "static"}, 1, []),
        # The guard acts after 0.8, 0.867 and 0.933 of the run at the latest, in whole iterations: 10, 11 and 12.
        ({}, 12, ["FW8/BW8"]),
        ({}, 13, ["FW8/BW8"]),
        ({}, 15, []),
        ({"guard": 1.0}, 15, ["FW8/BW8"]),
        ({"guard": 1.0}, 16, []),
        ({"guard": 1.0, "indicator_every": 5}, 50, ["FW6/BW8", "FW8/BW8"]),
        # At 2.4 of 3.
        ({"schedule": "fractrain"}, 3, ["cp 2.2 %", "cp 2.6 %", "cp 3 %"]),
        ({"schedule": "fractrain", "switch": (1, 2, 3)}, 4, []),
        ({"schedule": "dfq"}, 1, []),
        # Cycles of 4 end at 3 + 5 * 0.854, of 16 at 3 + 5 * 0.99.
        ({"schedule": "cpt", "cycles": 2}, 8, ["FW8/BW8"]),
        ({"schedule": "cpt", "cycles": 2}, 32, []),
    ],
)
def test_stages_that_a_run_is_too_short_for(settings, total, missed):
    assert TrainConfig.of(board="golden", **settings).schedule.out_of_reach(total) == missed
