"""Write tables and pictures of the README and of docs/: python -m tools.readme [--tables]."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from benchmarks import ledger  # noqa: E402
from diffflow_edu import metrics, pretrained, toy, zoo  # noqa: E402
from diffflow_edu.figures import film_strip  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
ASSETS = ROOT / "notebooks" / "assets"
TITLES = {
    "olympic_rings": "five crossing rings, width 0.01",
    "four_rings": "four rings, width 0.01",
    "rotated_gaussian": "thin ring, width 0.001",
    "checkerboard": "checkerboard",
    "fractal_tree": "fractal tree",
}
ZOO_SETS = ("olympic_rings", "four_rings", "rotated_gaussian", "checkerboard")


def example(readme: str) -> str:
    """The Python of the README's three lines."""
    return re.search(r"<!-- example.*?```python\n(.*?)```", readme, re.DOTALL)[1]


COURSE = {
    "00_start_here": "the player, the map, the notation, four numbers for a model",
    "01_normalizing_flows": "change of variables, coupling flows, FFJORD, and what a bijection "
    "must leak",
    "02_scores_and_langevin": "what a score is, why it is weak far from the data, and noise levels "
    "that repair it",
    "03_ddpm": "the bound term by term, and a grid that knows how thin the data is",
    "04_diffflow": "two SDEs, one loss, derived line by line, trained live",
    "05_adjoint_and_grids": "memory against N, Algorithm 2 derived, written and beside its code, "
    "what a gradient costs",
    "06_three_machines": "flow, DDPM and DiffFlow from the same particles, the noise dial, the "
    "ledger of claims",
    "07_likelihood": "the λ family, the probability flow, three numbers for one model, Theorem 1",
    "08_mnist": "U-Nets, dequantisation, bits/dim and FID with their traps, digits on their way, "
    "the command for a GPU",
    "09_cifar10": "colour patches beside a Gaussian, what bits/dim and FID can and cannot say, the "
    "cost ledger, the command for a GPU",
    "11_time_grids": "an excursion from 05: fixed and flexible grids, few steps first, the last "
    "step",
    "12_real_data": "an excursion from 07: rows of real numbers, test nats, early stopping, and "
    "what a comparison rests on",
}
NAMES = {
    "03_ddpm": "DDPM and the reverse SDE",
    "04_diffflow": "DiffFlow",
    "05_adjoint_and_grids": "The stochastic adjoint",
    "06_three_machines": "Three machines, one ring",
    "08_mnist": "MNIST",
    "09_cifar10": "CIFAR-10",
}


def course_table() -> str:
    """One row a notebook, with the time and memory that benchmarks/notebooks.py found."""
    record = json.loads((ROOT / "benchmarks" / "results" / "notebooks.json").read_text("utf-8"))
    lines = ["| notebook | | time, memory |", "|---|---|---|"]
    for stem, about in COURSE.items():
        number, _, plain = stem.partition("_")
        name = NAMES.get(stem, plain.replace("_", " ").capitalize()).replace("langevin", "Langevin")
        used = record["notebooks"][f"{stem}.ipynb"]
        cost = f"{used['cpu_seconds']:.0f} s, {used['peak_bytes'] / 1e9:.1f} GB"
        lines.append(f"| [{number} {name}](notebooks/{stem}.ipynb) | {about} | {cost} |")
    lines += [
        "",
        f"Processor time and peak memory of the kernel, {record['machine']}, at a load of "
        f"{record['load']:g} (1 is this measurement alone); other processors have needed up to "
        "three times as long.",
    ]
    return "\n".join(lines)


def zoo_table() -> str:
    """One row per set and N, DDPM beside DiffFlow, from the cards of the weights."""
    shown = {f"{k}/{d}/{n}" for k in ("ddpm", "diffflow") for d in ZOO_SETS for n in (5, 10, 30)}
    cards = {name: pretrained(*split(name)).card for name in zoo.names() if name in shown}
    lines = [
        "| data | N | gap, DDPM | gap, DiffFlow | leak, DDPM | leak, DiffFlow "
        "| W2, DDPM | W2, DiffFlow | floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for density in ZOO_SETS:
        title = TITLES[density]
        for steps in (5, 10, 30):
            a, b = (cards[f"{kind}/{density}/{steps}"]["metrics"] for kind in ("ddpm", "diffflow"))
            cells = [f"{m['gap']:.2f}" for m in (a, b)]
            cells += [f"{m['leak']:.1%}" for m in (a, b)]
            cells += [f"{m['sliced_w2']:.3f}" for m in (a, b)]
            cells.append(f"{a['sliced_w2_floor']:.3f}")
            lines.append(f"| {title} | {steps} | " + " | ".join(cells) + " |")
    seconds = [card["seconds"] for card in cards.values()]
    machines = sorted({card["machine"] for card in cards.values()})
    lines.append("")
    lines.append(
        f"Trained in {min(seconds):.0f} to {max(seconds):.0f} s each on {'; '.join(machines)}."
    )
    return "\n".join(lines)


def results_lines() -> str:
    """Five lines of results, from cards, adjoint.json and ledger.json."""

    def of(kind: str, steps: int) -> dict[str, float]:
        return pretrained(kind, "olympic_rings", steps).card["metrics"]

    lines = ["On five crossing rings, 10 000 samples; gap in nats above the exact entropy:", ""]
    for steps in (5, 10, 30):
        ours, theirs = of("diffflow", steps), of("ddpm", steps)
        lines.append(
            f"- N = {steps}: DiffFlow's gap is {ours['gap']:.2f} and {ours['leak']:.1%} of its "
            f"samples leak; a DDPM's gap is {theirs['gap']:.2f}, and {theirs['leak']:.1%} leak."
        )
    path = ROOT / "benchmarks" / "results"
    memory = json.loads((path / "adjoint.json").read_text("utf-8"))
    kept = {way: memory["results"][way]["saved_mebibytes"] for way in ("loss", "autograd")}
    lines.append(
        f"- The stochastic adjoint at N = {memory['setting']['steps']} keeps {kept['loss']:.0f} "
        f"MiB of activations, autograd {kept['autograd']:.0f} MiB, for the same gradient."
    )
    claims = json.loads((path / "ledger.json").read_text("utf-8"))["claims"]
    counts = Counter(claim["verdict"] for claim in claims)
    words = {"holds": "hold", "holds when …": "hold under conditions", "mixed": "are mixed"}
    said = ", ".join(f"{n} {words.get(verdict, verdict)}" for verdict, n in counts.most_common())
    lines.append(f"- Of the paper's {len(claims)} claims that fit into the plane: {said}.")
    return "\n".join(lines)


def split(name: str) -> tuple[str, str, int]:
    """The arguments of `pretrained` for a name of the zoo."""
    kind, density, steps = name.split("/")
    return kind, density, int(steps)


def adjoint_table() -> str:
    """Step time and memory from benchmarks/results/adjoint.json."""
    report = json.loads((ROOT / "benchmarks" / "results" / "adjoint.json").read_text("utf-8"))
    ways = {
        "step by step": "Algorithm 2 step by step, 12 N network units",
        "autograd": "autograd through all steps",
        "bound": "`bound`, one number a particle, 8 N",
        "loss": "`loss`, the mean, 7 N",
    }
    lines = [
        "| gradient by | step time, ratio | activations, MiB | peak resident, MiB |",
        "|---|---|---|---|",
    ]
    for way, title in ways.items():
        row = report["results"][way]
        lines.append(
            f"| {title} | {row['time_against_step_by_step']:.2f} "
            f"| {row['saved_mebibytes']:.0f} | {row['resident_rise_mebibytes']:.0f} |"
        )
    m = report["machine"]
    lines.append("")
    lines.append(
        f"Ratios of medians over {report['setting']['rounds']} interleaved rounds, "
        f"{m['threads']} thread of {m['processor']}, torch {m['torch']}."
    )
    return "\n".join(lines)


def ledger_table() -> str:
    """Claim, verdict and numbers, from benchmarks/results/ledger.json."""
    report = json.loads((ROOT / "benchmarks" / "results" / "ledger.json").read_text("utf-8"))
    lines = [
        "| the paper says | verdict here | by condition: mean effect, comparisons for it "
        "| threshold | rests on |",
        "|---|---|---|---|---|",
    ]
    for claim in report["claims"]:
        numbers = "; ".join(ledger.in_words(w, c) for w, c in claim["conditions"].items())
        verdict = ledger.shown_verdict(claim)
        basis = f"{claim['threshold']} | {claim['rests_on']}"
        lines.append(f"| {claim['says']} | **{verdict}** | {numbers} | {basis} |")
    left_out = "" if report["trainings_at_20"] else "; N = 20 was left out, not trained"
    lines += [
        "",
        f"Judged on {report['machine']}{left_out}. *3 trainings*: each side was trained three "
        "times, and the spread is over them; *1 training, 3 draws*: each side was trained once, "
        "and the spread is over draws of data and noise, so that another training may differ by "
        "more.",
    ]
    return "\n".join(lines)


TABULAR_TITLES = {
    "gaussian": "full-covariance Gaussian",
    "coupling": "CouplingFlow",
    "cnf": "CNF",
    "ddpm": "DDPM, bound",
    "diffflow": "DiffFlow, bound",
}


def tabular_table() -> str:
    """BSDS300 patches from benchmarks/results/tabular.json, and the paper's table below."""
    report = json.loads((ROOT / "benchmarks" / "results" / "tabular.json").read_text("utf-8"))
    models = report["sets"]["bsds300_patches"]["models"]
    lines = [
        "| BSDS300 patches (regenerated), 63-d | test −log p, nats | ahead of the Gaussian "
        "| CPU-seconds |",
        "|---|---|---|---|",
    ]
    for name, title in TABULAR_TITLES.items():
        if name not in models:
            continue
        record = models[name]
        for key, how in (("test", ""), ("test_at_100_steps", " on 100 steps"), ("test_ode", "")):
            if key not in record:
                continue
            m = record[key]
            what = f"{title.removesuffix(', bound')}, ODE" if key == "test_ode" else title + how
            at_most = "≤ " if "bound" in what else ""
            ahead = f"{m['gain']:.1f} ± {m['gain_error']:.1f}" if "gain" in m else "–"
            seconds = record.get("cpu_seconds", "–") if key == "test" else ""
            lines.append(
                f"| {what} | {at_most}{m['nats']:.1f} ± {m['error']:.1f} | {ahead} | {seconds} |"
            )
    machine = models["coupling"]["machine"]
    lines += ["", f"{report['sets']['bsds300_patches']['note'].split(';')[0]}; {machine}, seed 0."]
    paper = dict(report["paper"])
    sets = [name.upper() for name in paper.pop("sets")]
    lines += ["", "| the paper, test −log p, nats | " + " | ".join(sets) + " |"]
    lines.append("|---|" + "---|" * len(sets))
    for name, row in paper.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    return "\n".join(lines)


def toy_report() -> dict[str, Any]:
    """benchmarks/results/toy.json."""
    return json.loads((ROOT / "benchmarks" / "results" / "toy.json").read_text("utf-8"))


def toy_table(report: dict[str, Any]) -> str:
    """One row a machine, one column a set: gap, leak and W2, means over the seeds there are."""
    sets = list(report["floors"])
    lines = [
        "| machine | N | passes | " + " | ".join(TITLES[name] for name in sets) + " |",
        "|---|---|---|" + "---|" * len(sets),
    ]
    for name, cells in report["cells"].items():
        row = report["setting"]["rows"][name]
        passes = {f"{cell['evaluations']['mean']:.0f}" for cell in cells.values()}
        numbers = sorted(passes, key=int)
        span = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        shown = [toy_cell(cells.get(s), report["floors"][s]["entropy"]) for s in sets]
        lines.append(f"| {row['title']} | {row['N'] or '–'} | {span} | " + " | ".join(shown) + " |")
    floors = [f"0 · 0% · {report['floors'][name]['sliced_w2']:.3f}" for name in sets]
    lines.append("| the data itself | – | – | " + " | ".join(floors) + " |")
    seconds = [record["cpu_seconds"] for record in report["records"]]
    seeds = sorted({cell["seeds"] for cells in report["cells"].values() for cell in cells.values()})
    how_many = " or ".join(map(str, seeds)) + (" seeds" if seeds != [1] else " seed")
    spread = "; ± is half the range over seeds" if seeds[-1] > 1 else ""
    lines.append("")
    lines.append(
        f"{len(report['records'])} runs, {how_many} a cell{spread}. Training was planned for "
        f"{report['setting']['seconds']:.0f} CPU-seconds and took {min(seconds):.0f} to "
        f"{max(seconds):.0f}, on {'; '.join(report['setting']['machines'])}."
    )
    return "\n".join(lines)


def toy_cell(cell: dict[str, Any] | None, entropy: float) -> str:
    """gap (by the ODE) · leak · W2 of one machine on one set; a dash for what there is not."""
    if cell is None:
        return "–"
    several = cell["seeds"] > 1
    ode = ""
    if "log_prob" in cell and abs(cell["log_prob"]["mean"] + cell["bound"]["mean"]) > 1e-9:
        ode = f" ({-cell['log_prob']['mean'] - entropy:.2f})"

    def shown(what: str, form: str) -> str:
        if what not in cell:
            return "–"
        value = format(cell[what]["mean"], form)
        return f"{value} ± {cell[what]['spread']:{form}}" if several and what == "gap" else value

    return f"{shown('gap', '.2f')}{ode} · {shown('leak', '.1%')} · {shown('sliced_w2', '.3f')}"


RECIPES = {
    "plain": "Adam at 5e-3, noise .3 at most, 500 particles",
    "lr_double": "learning rate 1e-2",
    "drift_slower": "the drift learns at .3 of the score's rate",
    "batch_half": "250 particles a step, hence more steps",
    "antithetic": "antithetic noise, δ and −δ",
    "score_again": "an update of the score alone on each cached path",
    "score_end": "the score alone in the last third of the time",
    "subset": "half of the score terms a step, drawn anew",
    "learned_noise": "the noise of every step learned, too",
    "smooth_in_t": "a penalty on a drift that changes from step to step",
    "quieter": "noise .2 at most",
    "muon": "Muon for the inner matrices",
    "muon_quieter": "Muon, noise .2 at most",
}


def recipes_table() -> str:
    """What was tried to make DiffFlow sharper, from benchmarks/results/recipes.json."""
    report = json.loads((ROOT / "benchmarks" / "results" / "recipes.json").read_text("utf-8"))
    lines = ["| one change | gap | leak | W2 | updates |", "|---|---|---|---|---|"]
    for name, title in RECIPES.items():
        runs = [run for run in report["runs"] if run["name"] == name]
        gap, leak, w2 = (
            ", ".join(format(run["metrics"][what], form) for run in runs)
            for what, form in (("gap", ".3f"), ("leak", ".1%"), ("sliced_w2", ".3f"))
        )
        updates = ", ".join(str(run["updates"]) for run in runs)
        lines.append(f"| {title} | {gap} | {leak} | {w2} | {updates} |")
    machines = sorted({run["machine"] for run in report["runs"]})
    lines += [
        "",
        f"Ten steps on the crossing rings, {report['seconds']} CPU-seconds each whatever a step "
        f"costs; {'; '.join(machines)}; seed 0, and 1 where there are two numbers.",
    ]
    return "\n".join(lines)


def time_table() -> str:
    """Time to few leaks from scratch, from benchmarks/results/time_to_leak.json."""
    report = json.loads((ROOT / "benchmarks" / "results" / "time_to_leak.json").read_text("utf-8"))
    lines = ["| recipe | seed | CPU-seconds | updates | leak | gap |", "|---|---|---|---|---|---|"]
    enough = [row for row in report["ours"]["rows"] if row["updates"] == report["ours"]["updates"]]
    for title, rows in (("ours, ten steps", enough), ("public code", report["public"]["rows"])):
        for row in rows:
            lines.append(
                f"| {title} | {row['seed']} | {row['cpu_seconds']:.0f} | {row['updates']} "
                f"| {row['leak']:.1%} | {row['gap']:.2f} |"
            )
    lines += ["", f"`{report['command']}` on {report['machine']}."]
    return "\n".join(lines)


DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}


def images_table() -> str:
    """What training on images costs, from benchmarks/results/images.json: time, then memory."""
    report = json.loads((ROOT / "benchmarks" / "results" / "images.json").read_text("utf-8"))
    steps = [
        "| training step | precision, layout | seconds | images/s | TFLOP/s | share of matmul |"
    ]
    steps.append("|---|---|---|---|---|---|")
    memory = ["| memory of a gradient, MiB, at N = | 5 | 10 | 20 | 30 | 50 | 50 over 5 |"]
    memory.append("|---|---|---|---|---|---|---|")
    notes = []
    for device, records in report.items():
        for key, record in records.items():
            part, name = key.split(", ")
            where, setting = f"{name} on {DEVICES[device]}", record["setting"]
            if part == "steps":
                for row in record["rows"]:
                    kind = {"ddpm": "DDPM", "diffflow": f"DiffFlow, N = {setting['steps']}"}
                    steps.append(
                        f"| {kind[row['kind']]}, {where} | {row['variant']} | {row['seconds']:g} | "
                        f"{row['images_per_second']:g} | {row['tflops']:g} | "
                        f"{row['share_of_peak']:.0%} |"
                    )
                peaks = " and ".join(f"{v:g} ({k})" for k, v in record["peak_tflops"].items())
                notes.append(
                    f"{where}: {record['machine']}; steps of {setting['batch']} pictures, medians "
                    f"of {setting['rounds']} interleaved rounds; one large matrix product reaches "
                    f"{peaks} TFLOP/s; memory of {setting['few']} pictures"
                )
            elif part == "memory":
                for way, rows in record["ways"].items():
                    cells = [f"{row['peak_mebibytes']:.0f}" for row in rows.values()]
                    ratio = record["n_50_over_n_5"][way]
                    memory.append(f"| {way}, {where} | {' | '.join(cells)} | {ratio:.2f} |")
            else:
                for row in record["rows"]:
                    kind = {"ddpm": "DDPM", "diffflow": "DiffFlow"}[row["kind"]]
                    notes.append(
                        f"{kind} through torch.compile, {where}: {row['seconds']:g} s a step "
                        f"instead of {row['seconds_before']:g}, after a first one of "
                        f"{row['first_step_seconds']:g} s"
                    )
    return "\n".join([*steps, "", *memory, "", ". ".join(notes) + "."])


TABLES = {
    "course": course_table,
    "results": results_lines,
    "zoo": zoo_table,
    "recipes": recipes_table,
    "time": time_table,
    "toy": lambda: toy_table(toy_report()),
    "ledger": ledger_table,
    "tabular": tabular_table,
    "images": images_table,
    "adjoint": adjoint_table,
}


def pages() -> list[Path]:
    """The README and the pages that it leads to."""
    return [README, *sorted(DOCS.glob("*.md"))]


def everything() -> str:
    """The text of all pages."""
    return "\n".join(page.read_text("utf-8") for page in pages())


def with_table(page: str, name: str) -> str:
    """A page with the table between its two marks replaced, if it has that table."""
    pattern = rf"(<!-- {name} table: [^\n]*-->\n).*?(<!-- end of {name} table -->)"
    if not re.search(pattern, page, re.DOTALL):
        return page
    table = TABLES[name]()
    return re.sub(pattern, lambda m: m[1] + "\n" + table + "\n\n" + m[2], page, flags=re.DOTALL)


def rewritten(page: str) -> str:
    """A page as it should be."""
    for name in TABLES:
        page = with_table(page, name)
    return page


def draw_pictures(readme: str) -> None:
    """The film strips: pretrained models on the rings, and the README's own example."""
    density = toy.load("olympic_rings")
    x = density.sample(4000, seed=1)
    names = {"DDPM": "ddpm", "DiffFlow": "diffflow"}
    models = {title: pretrained(kind, "olympic_rings", steps=10) for title, kind in names.items()}
    paths = {title: model.encode(x, seed=0) for title, model in models.items()}
    title = "DDPM stirs, DiffFlow steers: five crossing rings on their way to noise"
    save(film_strip(paths, color=density.mode, title=title), "rings.png")

    names = {}
    exec(example(readme), names)
    path = names["model"].sample(4000, seed=0)
    save(film_strip(path, title="Your own points, from data to noise and back"), "own_points.png")
    print(
        f"sliced W2 to the points: {metrics.sliced_w2(path.start, to_tensor(names['points'])):.3f}"
    )


def to_tensor(points):  # noqa: ANN001, ANN201
    """The example's array as a float32 tensor."""
    import torch

    return torch.from_numpy(points).float()


def save(figure: matplotlib.figure.Figure, name: str) -> None:
    """Write a small PNG, all or nothing."""
    from PIL import Image

    ASSETS.mkdir(exist_ok=True)
    path = ASSETS / name
    figure.savefig(path, dpi=110)
    image = Image.open(path).convert("RGB").quantize(48)
    temporary = path.with_suffix(".part")
    image.save(temporary, format="PNG", optimize=True)
    temporary.replace(path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    if "--tables" not in sys.argv:
        draw_pictures(README.read_text("utf-8"))
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), "utf-8")
