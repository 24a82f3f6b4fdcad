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


def diffflow_loss(drift, score, times, g, x, noise, **slip):
    return loss_of_each(drift, score, times, g, x, noise, **slip).mean()


def loss_of_each(drift, score, times, g, x, noise, score_sign=1, moves=True, there=1, last=None):
    nats = -log_constant(1 / g, x.shape[1]) * torch.ones(len(x), dtype=x.dtype)
    for i in range(len(noise))[:last]:
        dt = times[i + 1] - times[i]
        x_next = forward_step(x, drift(x, times[i]), dt, g[i], noise[i])
        y, t = (x_next, times[i + 1]) if there else (x, times[i])
        b = backward_noise(x, x_next, drift(y, t), score_sign * score(y, t), dt, g[i + 1])
        nats = nats + 0.5 * (b**2 - noise[i] ** 2).sum(1)
        x = x_next if moves else x
    return nats - log_normal(x)


def last_state(drift, score, times, g, x, noise):
    for i, z in enumerate(noise):
        x = forward_step(x, drift(x, times[i]), times[i + 1] - times[i], g[i], z)
    return x


def half_log(case):
    return 0.5 * math.log(2 * math.pi) * case[4].shape[1]


SOLUTIONS = {
    "check_diffflow_loss": diffflow_loss,
    "check_forward_step": forward_step,
    "check_backward_noise": backward_noise,
    "check_log_constant": log_constant,
    "check_path_bound": path_bound,
}


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    ("check_diffflow_loss", loss_of_each, "one number a particle"),
    ("check_diffflow_loss", lambda *case: loss_of_each(*case).sum(), "not the sum"),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case) - log_constant(case[3], case[4].shape[1]),
        "the constant is missing",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case) - 2 * log_constant(case[3], case[4].shape[1]),
        "the constant has the wrong sign",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case) - log_constant(case[3], case[4].shape[1] - 1),
        "the constant lacks its d",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case) - half_log(case),
        "d/2 log 2π is missing",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case) + log_normal(last_state(*case)).mean(),
        "the end is missing",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case) + case[5].square().sum((0, 2)).mean() / 2,
        "N d/2 nats too big",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case, score_sign=-1),
        "the score has the wrong sign",
    ),
    ("check_diffflow_loss", lambda *case: diffflow_loss(*case, score_sign=0.5), "half of g² s"),
    ("check_diffflow_loss", lambda *case: diffflow_loss(*case, moves=False), "does not move on"),
    ("check_diffflow_loss", lambda *case: diffflow_loss(*case, there=0), "begins at x_{i+1}"),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case, last=-1),
        "the last step is missing",
    ),
    (
        "check_diffflow_loss",
        lambda *case: diffflow_loss(*case[:5], torch.randn_like(case[5])),
        "another answer each time",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + (f - g**2 * s / 2) * dt) / (g * dt**0.5),
        "half of g² s belongs",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (y - x + (f - g**2 * s) * dt) / (g * dt**0.5),
        "x and x_next have changed places",
    ),
    (
        "check_backward_noise",
        lambda x, y, f, s, dt, g: (x - y + (f - g**2 * s) * dt) / g * dt**0.5,
        "mind the order of operations",
    ),
    (
        "check_path_bound",
        lambda x, f, b, g: path_bound(x, f, b, g) - log_constant(g, x.shape[1] - 1),
        "the constant lacks its d",
    ),
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
        "a slip of the slides",
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
