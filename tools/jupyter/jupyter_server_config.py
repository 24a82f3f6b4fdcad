"""Opening a notebook and saving it, not run, leaves git clean. Read by `make lab` and on Binder."""

c = get_config()  # noqa: F821


def store_what_the_builder_stores(model: dict, **_: object) -> None:
    """Leave out the kernel's exact Python version, and the state of widgets where there is none."""
    if model["type"] != "notebook":
        return
    metadata = model["content"]["metadata"]
    metadata.get("language_info", {}).pop("version", None)
    widgets = metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    if not widgets.get("state"):
        metadata.pop("widgets", None)


c.ContentsManager.pre_save_hook = store_what_the_builder_stores
