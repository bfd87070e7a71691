"""A small module for LangChain: any ``Embeddings``, adapted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from coreframe.artefact import TrainedAdapter
from coreframe.export.python_module import read_module, write_module
from coreframe.export.target import Map, Target

FILE = "adapted_embeddings.py"
DOCSTRING = (
    "Adapted embeddings for LangChain. Needs numpy and langchain-core; adapter.npz beside it."
)
CLASS = '''\
from langchain_core.embeddings import Embeddings


class AdaptedEmbeddings(Embeddings):
    """Wraps embeddings: queries and documents each go through their own side of the adapter."""

    def __init__(self, base, adapter=None):
        self.base = base
        self.adapter = Adapter(adapter or Path(__file__).with_name("adapter.npz"))

    def embed_query(self, text):
        return self.adapter([self.base.embed_query(text)], "query")[0].tolist()

    def embed_documents(self, texts):
        found = self.base.embed_documents(texts)
        return self.adapter(found, "document").tolist() if found else []

    async def aembed_query(self, text):
        return self.adapter([await self.base.aembed_query(text)], "query")[0].tolist()

    async def aembed_documents(self, texts):
        found = await self.base.aembed_documents(texts)
        return self.adapter(found, "document").tolist() if found else []
'''


@dataclass(frozen=True, kw_only=True)
class LangChain(Target):
    """``adapted_embeddings.py`` with the class AdaptedEmbeddings, and ``adapter.npz``."""

    name: ClassVar[str] = "langchain"

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        write_module(adapter, folder, FILE, DOCSTRING, CLASS)

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        return read_module(folder, FILE)

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        return [
            "import sys",
            'sys.path.append("FOLDER")',
            "from adapted_embeddings import AdaptedEmbeddings",
            "embeddings = AdaptedEmbeddings(base)  # any Embeddings of LangChain",
        ]
