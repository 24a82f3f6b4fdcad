"""Solutions of notebook 04's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import math

import torch


def forward_step(x, f, dt, g, noise):
    return x + f * dt + g * math.sqrt(dt) * noise


def backward_noise(x, x_next, f_next, s_next, dt, g_next):
    mean = x_next - (f_next - g_next**2 * s_next) * dt
    return (x - mean) / (g_next * dt**0.5)


def log_constant(g, d):
    return d * math.log(g[-1] / g[0])


def log_normal(x):
    return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def path_bound(x, f, b, g):
    squares = 0.5 * (b.square() - f.square()).sum(dim=(0, 2))
    return -log_normal(x) + squares + log_constant(g, x.shape[1])


SOLUTIONS = {
    "check_forward_step": forward_step,
    "check_backward_noise": backward_noise,
    "check_log_constant": log_constant,
    "check_path_bound": path_bound,
}


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: x + f * dt + g * dt * noise,
        "grows with √Δt, not with Δt",
    ),
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: x + dt * f + g * noise,
        "the noise lacks its √Δt",
    ),
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: x + f * dt + g * g * dt**0.5 * noise,
        "g multiplies the noise once",
    ),
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: x + f * dt,
        "the noise is missing",
    ),
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: x + f + g * dt**0.5 * noise,
        "the drift lacks its Δt",
    ),
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: x - f * dt + g * dt**0.5 * noise,
        "the drift has the wrong sign",
    ),
    (
        "check_forward_step",
        lambda x, f, dt, g, noise: f * dt + g * dt**0.5 * noise,
        "add it to x",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (y - x - (f + g**2 * s) * dt) / (g * dt**0.5),
        "the sign slip in circulation",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (y - x - (f - g**2 * s) * dt) / (g * dt**0.5),
        "this is −δB",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + (f + g**2 * s) * dt) / (g * dt**0.5),
        "the score has the wrong sign",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y - (f - g**2 * s) * dt) / (g * dt**0.5),
        "the bracket [f − g² s] Δt has the wrong sign",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + (f - g * s) * dt) / (g * dt**0.5),
        "multiplied by g²",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + f * dt) / (g * dt**0.5),
        "the score is missing",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: x - y + (f - g**2 * s) * dt,
        "divide it by g' √Δt",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + (f - g**2 * s) * dt) / (g * dt),
        "not by g' Δt",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + (f - g**2 * s) * dt) / g,
        "not by g' alone",
    ),
    ("check_log_constant", lambda g, d: d * math.log(g[0] / g[-1]), "the sign is turned: −log p_B"),
    ("check_log_constant", lambda g, d: math.log(g[-1] / g[0]), "d is missing: every one"),
    ("check_log_constant", lambda g, d: math.log(g[0] / g[-1]), "the constant of the slides"),
    ("check_log_constant", lambda g, d: d * (g[1:] / g[:-1]).log(), "now sum them"),
    ("check_log_constant", lambda g, d: d / 2 * math.log(g[-1] / g[0]), "too small by 2"),
    ("check_log_constant", lambda g, d: d * math.log((g[-1] / g[0]) ** 2), "too large by 2"),
    ("check_log_constant", lambda g, d: d * g[-1] / g[0], "the logarithm is missing"),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g) - log_constant(g, x.shape[1]),
        "the constant is missing",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g.flip(0)),
        "the constant has the wrong sign",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g) + 2 * log_normal(x),
        "the end has the wrong sign",
    ),
    ("check_path_bound", lambda x, f, b, g: path_bound(x, b, f, g), "the order is turned"),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, torch.zeros_like(f), b, g),
        "− ½‖δF‖² is missing",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, 2**0.5 * f, 2**0.5 * b, g),
        "the squares have a factor ½",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g) + log_normal(x),
        "the end is missing",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g) - x.shape[1] * math.log(2 * math.pi) / 2,
        "d/2 log 2π is missing",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f[:-1], b[:-1], g),
        "the last step is missing",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g).mean(),
        "keep the B paths apart",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: (
            -log_normal(x)
            + 0.5 * (b.square() - f.square()).sum(2).mean(0)
            + log_constant(g, x.shape[1])
        ),
        "sum over the N steps",
    ),
]
