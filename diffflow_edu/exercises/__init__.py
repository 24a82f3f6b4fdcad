"""Checks of the exercises: they print what is right or wrong, return True or False, never raise.

>>> check_forward_step(lambda x, f, dt, g, noise: None)
✗ forward_step: it returned None. Replace the last line of the stub by the formula.
False
"""

from diffflow_edu.exercises.start_here import check_data_side, check_gap, check_leak
from diffflow_edu.exercises.two_sdes import (
    check_backward_noise,
    check_forward_step,
    check_log_constant,
    check_path_bound,
)

__all__ = [
    "check_backward_noise",
    "check_data_side",
    "check_forward_step",
    "check_gap",
    "check_leak",
    "check_log_constant",
    "check_path_bound",
]
