"""What this package offers, by name. The components are imported when they are used."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_losses() -> Table:
    return {"soft_margin": "soft_margin_plugin.soft_margin:SoftMargin"}


@hookimpl
def coreframe_miners() -> Table:
    return {"threshold": "soft_margin_plugin.threshold:Threshold"}
