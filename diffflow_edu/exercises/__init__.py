"""Checks of the exercises: they print what is right or wrong, return True or False, never raise.

>>> check_forward_step(lambda x, f, dt, g, noise: None)
✗ forward_step: it returned None. Replace the last line of the stub by the formula.
False
"""

from diffflow_edu.exercises.adjoint import (
    check_adjoint_sweep,
    check_denoise,
    check_flexible_grid,
    check_memory,
    check_network_units,
    check_reverse_step,
    check_sample_loop,
)
from diffflow_edu.exercises.colour import (
    check_gaussian_bits,
    check_pictures_an_hour,
    check_spike_bits,
    check_unpadded,
)
from diffflow_edu.exercises.ddpm import (
    check_ddim_step,
    check_ddpm_sample,
    check_gaussian_kl,
    check_jump,
    check_reverse_drift,
)
from diffflow_edu.exercises.flows import (
    check_coupling_inverse,
    check_coupling_log_det,
    check_coupling_log_prob,
    check_flow_log_prob,
    check_least_leak,
    check_log_p_rate,
)
from diffflow_edu.exercises.images import check_bits_per_dim, check_dequantise, check_frechet
from diffflow_edu.exercises.likelihood import (
    check_best_look,
    check_compare,
    check_excess,
    check_family_drift,
    check_importance_weighted,
    check_ode_log_prob,
    check_raw_nats,
    check_tight_bound,
)
from diffflow_edu.exercises.machines import (
    check_chance_level,
    check_mode_survival,
    check_outcome,
    check_r_max,
    check_verdict,
)
from diffflow_edu.exercises.scores import (
    check_annealed_langevin,
    check_denoising_loss,
    check_euler_maruyama,
    check_gaussian_score,
    check_langevin_step,
    check_noise_levels,
)
from diffflow_edu.exercises.start_here import (
    check_data_side,
    check_gap,
    check_leak,
    check_walk_back,
)
from diffflow_edu.exercises.two_sdes import (
    check_backward_noise,
    check_diffflow_loss,
    check_forward_step,
    check_log_constant,
    check_path_bound,
)

__all__ = [
    "check_adjoint_sweep",
    "check_annealed_langevin",
    "check_backward_noise",
    "check_best_look",
    "check_bits_per_dim",
    "check_chance_level",
    "check_compare",
    "check_coupling_inverse",
    "check_coupling_log_det",
    "check_coupling_log_prob",
    "check_data_side",
    "check_ddim_step",
    "check_ddpm_sample",
    "check_denoise",
    "check_denoising_loss",
    "check_dequantise",
    "check_diffflow_loss",
    "check_euler_maruyama",
    "check_excess",
    "check_family_drift",
    "check_flexible_grid",
    "check_flow_log_prob",
    "check_forward_step",
    "check_frechet",
    "check_gap",
    "check_gaussian_bits",
    "check_gaussian_kl",
    "check_gaussian_score",
    "check_importance_weighted",
    "check_jump",
    "check_langevin_step",
    "check_leak",
    "check_least_leak",
    "check_log_constant",
    "check_log_p_rate",
    "check_memory",
    "check_mode_survival",
    "check_network_units",
    "check_noise_levels",
    "check_ode_log_prob",
    "check_outcome",
    "check_path_bound",
    "check_pictures_an_hour",
    "check_r_max",
    "check_raw_nats",
    "check_reverse_drift",
    "check_reverse_step",
    "check_sample_loop",
    "check_spike_bits",
    "check_tight_bound",
    "check_unpadded",
    "check_verdict",
    "check_walk_back",
]
