"""The sketch pad in JupyterLab: drawn on with the mouse and by keyboard, trained by its button."""

from __future__ import annotations

import pytest

PAD = """
from diffflow_edu.player.sketch import sketch
pad = sketch(steps=2, warm_start=60)
pad
"""


def picture(pad) -> str:
    """The pixels of the pad's own canvas, as text, once the frames asked for are drawn."""
    return pad.locator("canvas").first.evaluate(
        """canvas => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(
            () => r(canvas.toDataURL()))))"""
    )


def draw(page, pad, points) -> None:
    """Draw one stroke with the mouse; points in shares of the canvas, from its upper left."""
    box = pad.locator("canvas").first.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def status(pad) -> str:
    """What the pad says."""
    return pad.get_by_role("status").first.inner_text()


@pytest.fixture
def notebook(open_notebook):
    """A notebook with an empty pad, run, its kernel answering."""
    opened = open_notebook(PAD)
    opened.run_all()
    opened.pad = opened.page.locator(".diffflow-sketch")
    opened.pad.locator("canvas").wait_for()
    return opened


def test_a_drawing_by_mouse_trains_and_its_samples_and_player_appear(notebook):
    page, pad = notebook.page, notebook.pad
    train = pad.get_by_role("button", name="Train")
    empty = picture(pad)
    assert train.is_disabled()
    assert "choose a drawing" in status(pad)

    draw(page, pad, [(0.2, 0.3), (0.5, 0.8), (0.8, 0.3)])
    draw(page, pad, [(0.5, 0.2)])  # a dot
    drawn = picture(pad)
    assert drawn != empty
    assert status(pad) == "2 strokes on the pad."
    assert pad.locator("canvas").get_attribute("aria-label") == "Sketch pad: 2 strokes"

    pad.get_by_role("button", name="undo").click()
    assert status(pad) == "1 stroke on the pad."
    one = picture(pad)
    assert one not in (drawn, empty)
    pad.get_by_role("button", name="clear").click()
    assert picture(pad) == empty
    pad.get_by_role("button", name="undo").click()  # clear can be taken back, too
    assert picture(pad) == one

    train.click()
    page.wait_for_function(
        "pad => pad.querySelector('canvas').getAttribute('aria-label').includes('1000 samples')",
        arg=pad.element_handle(),
    )
    assert picture(pad) != one
    pad.locator(".diffflow-player canvas").wait_for()
    assert status(pad).startswith("Trained in ")
    assert pad.get_by_role("note", include_hidden=True).first.is_hidden()
    assert pad.locator("[id]").count() == 0

    # a new stroke takes the samples off, and the pad can be trained again
    draw(page, pad, [(0.2, 0.1), (0.8, 0.1)])
    assert status(pad) == "2 strokes on the pad."
    assert "samples" not in pad.locator("canvas").first.get_attribute("aria-label")
    assert train.is_enabled()
    assert notebook.complaints == []


def test_a_preset_chosen_by_keyboard_is_drawn_and_trains(notebook):
    page, pad = notebook.page, notebook.pad
    empty = picture(pad)
    pad.get_by_label("drawing").focus()
    page.keyboard.press("s")  # typed letters choose in a native select, as do the arrows
    assert pad.get_by_label("drawing").input_value() == "star"
    star = picture(pad)
    assert star != empty
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert pad.get_by_label("brush").input_value() == "0.035"
    assert picture(pad) != star
    page.keyboard.press("Control+z")  # the drawing, not the brush
    assert picture(pad) == empty
    pad.get_by_label("drawing").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    pad.get_by_role("button", name="Train").focus()
    page.keyboard.press("Space")
    pad.locator(".diffflow-player canvas").wait_for()
    assert status(pad).startswith("Trained in ")
    # JupyterLab saw none of these keys
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 1
    assert notebook.complaints == []


def test_when_the_kernel_restarts_the_pad_says_so_and_still_draws(notebook):
    page, pad = notebook.page, notebook.pad
    draw(page, pad, [(0.2, 0.3), (0.8, 0.3)])
    train = pad.get_by_role("button", name="Train")
    assert train.is_enabled()
    page.locator("[data-jp-item-name=restart] >> visible=true").first.click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    note = pad.get_by_role("note")
    note.wait_for()
    assert "needs a running kernel" in note.inner_text()
    assert train.is_disabled()
    draw(page, pad, [(0.2, 0.6), (0.8, 0.6)])
    assert status(pad) == "2 strokes on the pad."


@pytest.mark.parametrize("pointer", ["touch", "pen"])
def test_a_finger_and_a_pen_draw_and_the_page_stays_where_it_is(open_notebook, pointer):
    notebook = open_notebook(PAD, has_touch=True)
    notebook.run_all()
    page, pad = notebook.page, notebook.page.locator(".diffflow-sketch")
    canvas = pad.locator("canvas").first
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    empty = picture(pad)
    canvas.evaluate(
        "c => c.addEventListener('pointerdown', e => { c.dataset.pointer = e.pointerType; })"
    )
    box = canvas.bounding_box()
    way = [(box["x"] + 60, box["y"] + 60 + 20 * k) for k in range(10)]  # down, as if to scroll
    devtools = page.context.new_cdp_session(page)
    kinds = ["Start" if pointer == "touch" else "Pressed"] + ["Move"] * 8 + ["End"]
    for kind, (x, y) in zip(kinds, way, strict=True):
        if pointer == "touch":
            points = [] if kind == "End" else [{"x": x, "y": y}]
            devtools.send(
                "Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points}
            )
        else:
            name = {"Move": "Moved", "End": "Released"}.get(kind, kind)
            pen = {"pointerType": "pen", "button": "left", "buttons": int(kind != "End")}
            devtools.send(
                "Input.dispatchMouseEvent",
                {"type": f"mouse{name}", "x": x, "y": y, "clickCount": 1} | pen,
            )
    page.wait_for_function(
        "pad => pad.querySelector('[role=status]').textContent === '1 stroke on the pad.'",
        arg=pad.element_handle(),
    )
    assert canvas.get_attribute("data-pointer") == pointer
    assert picture(pad) != empty
    assert canvas.bounding_box() == box  # the finger drew, it did not scroll
    assert notebook.complaints == []


def test_stop_ends_training_and_what_was_learned_plays_while_cells_can_be_run(open_notebook):
    long = PAD.replace("steps=2, warm_start=60", "'star', steps=100000, warm_start=50")
    notebook = open_notebook(long, "1 + 1")
    notebook.run_all()
    page, pad = notebook.page, notebook.page.locator(".diffflow-sketch")
    stop = pad.get_by_role("button", name="stop training")
    assert stop.is_hidden()
    pad.get_by_role("button", name="Train").click()
    page.wait_for_function(
        "pad => pad.querySelector('canvas').getAttribute('aria-label').includes('1000 samples')",
        arg=pad.element_handle(),
    )
    assert status(pad) == "Training, 30 s of processor time at most. Stop keeps what is learned."
    # Another cell answers while the pad trains.
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(1)
    cell.locator(".cm-content").focus()  # no click: the pad above it may just be growing
    page.wait_for_function("c => c.matches('.jp-mod-active')", arg=cell.element_handle())
    page.keyboard.press("Control+Enter")
    page.wait_for_function("c => /\\[3\\]/.test(c.textContent)", arg=cell.element_handle())
    assert stop.is_visible(), "training ended before it could be stopped"
    stop.focus()
    page.keyboard.press("Space")
    pad.locator(".diffflow-player canvas").wait_for()
    assert status(pad).startswith("Stopped after ")
    assert status(pad).endswith("This is what was learned by then.")
    assert stop.is_hidden()
    assert pad.get_by_role("button", name="Train").is_enabled()
    assert notebook.complaints == []
