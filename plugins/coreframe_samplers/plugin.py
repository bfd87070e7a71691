"""The samplers of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_samplers() -> Table:
    return {
        "m_per_class": "coreframe_samplers.m_per_class:MPerClass",
        "no_duplicates": "coreframe_samplers.no_duplicates:NoDuplicates",
        "ordered": "coreframe_samplers.ordered:Ordered",
        "shuffled": "coreframe_samplers.shuffled:Shuffled",
    }
