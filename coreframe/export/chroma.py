"""A small module for Chroma: any embedding function, adapted, and registered by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coreframe.artefact import TrainedAdapter
from coreframe.export.python_module import read_module, write_module
from coreframe.export.target import Map, Target

FILE = "adapted_function.py"
DOCSTRING = (
    "An adapted embedding function for Chroma. Needs numpy and chromadb; adapter.npz beside it."
)
CLASS = '''\
from chromadb.utils.embedding_functions import (
    EmbeddingFunction,
    known_embedding_functions,
    register_embedding_function,
)


@register_embedding_function
class AdaptedFunction(EmbeddingFunction):
    """Wraps an embedding function: queries and documents go through their own sides.

    A collection stores the folder of the adapter and the configuration of the base, so that it
    opens again without either being named, where this module has been imported.
    """

    def __init__(self, base, folder=None):
        self.base = base
        self.folder = Path(folder or Path(__file__).parent).absolute()
        self.adapter = Adapter(self.folder / "adapter.npz")

    def __call__(self, input):
        return list(self.adapter(self.base(input), "document"))

    def embed_query(self, input):
        return list(self.adapter(self.base.embed_query(input), "query"))

    @staticmethod
    def name():
        return "coreframe_adapted"

    def get_config(self):
        base = {"name": self.base.name(), "config": self.base.get_config()}
        return {"base": base, "folder": str(self.folder)}

    @staticmethod
    def build_from_config(config):
        base = known_embedding_functions[config["base"]["name"]]
        return AdaptedFunction(base.build_from_config(config["base"]["config"]), config["folder"])

    def default_space(self):
        return "SPACE"

    def validate_config_update(self, old_config, new_config):
        if old_config["base"]["name"] != new_config["base"]["name"]:
            raise ValueError("the base of an adapted embedding function cannot be changed")
'''
SPACES = {"cosine": "cosine", "dot": "ip"}


@dataclass(frozen=True, kw_only=True)
class Chroma(Target):
    """``adapted_function.py`` with the class AdaptedFunction, and ``adapter.npz``."""

    name: ClassVar[str] = "chroma"

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        space = SPACES.get(adapter.similarity, "l2")
        write_module(adapter, folder, FILE, DOCSTRING, CLASS.replace("SPACE", space))

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        return read_module(folder, FILE)

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        return [
            "import sys",
            'sys.path.append("FOLDER")',
            "from adapted_function import AdaptedFunction",
            "function = AdaptedFunction(base)  # any embedding function of Chroma",
            'collection = client.create_collection("adapted", embedding_function=function)',
        ]

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        return [
            "The collection stores the folder's path; import adapted_function before you open it "
            "again, and do not move the folder."
        ]
