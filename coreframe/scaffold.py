"""A new plugin: a complete distribution, made of the templates that come with this package.

    write(NewPlugin(name="acme-ring", loss="ring"), Path("acme-ring"))

The templates are filled by ``string.Template``, which needs no extra, and whose ``$name`` means
nothing in Python, TOML and Markdown, where braces do.
"""

from __future__ import annotations

import builtins
import datetime
import email.utils
import importlib.metadata
import importlib.resources
import importlib.util
import json
import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import coreframe
from coreframe.errors import ArgumentError, nearest
from coreframe.registry import registry
from coreframe.storage import make_folder, write_folder

LICENSES = ("MIT", "Apache-2.0", "none")

_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    ".gitignore": "gitignore",
    ".github/workflows/ci.yml": "ci.yml",
    "src/$package/__init__.py": "init.py",
    "src/$package/plugin.py": "plugin.py",
    "src/$package/$loss.py": "loss.py",
    "src/$package/$miner.py": "miner.py",
    "tests/test_loss.py": "test_loss.py",
    "tests/test_miner.py": "test_miner.py",
}
"""Path in the distribution -> name of its template."""

_DISTRIBUTION = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)  # of PEP 508
_COMPONENT = re.compile(r"[a-z][a-z0-9_]*")
_FILE_NAMES = {"plugin", "py"}
_CLASS_NAMES = {*coreframe.__all__, *dir(builtins), "Array", "Rows"}
"""What a class of the templates must not be called, since they import it or need it."""


@dataclass(frozen=True, kw_only=True)
class NewPlugin:
    """What a new plugin is called, and whose it is. Raises ArgumentError for a name that clashes.

    Args:
        name: of the distribution, as in ``pip install``. The package is called the same, with
            underscores.
        loss: the registered name of its loss. Default: that of the package, and ``_loss``.
        miner: the registered name of its miner. Default: that of the package, and ``_miner``.
        author: a name, or "Name <mail@example.org>". Default: none; the licence then names "the
            authors of" the distribution.
        license: MIT, Apache-2.0 or none; with none, uploads to PyPI are refused. Default: MIT.
    """

    name: str
    loss: str = ""
    miner: str = ""
    author: str = ""
    license: str = "MIT"

    def __post_init__(self) -> None:
        if not self.loss:
            object.__setattr__(self, "loss", f"{self.package}_loss")
        if not self.miner:
            object.__setattr__(self, "miner", f"{self.package}_miner")
        if self.license not in LICENSES:
            hint = nearest(self.license, LICENSES)
            raise ArgumentError(f"the licence {self.license!r} is not offered.{hint}")
        if problem := next(self._problems(), ""):
            raise ArgumentError(problem)

    @property
    def package(self) -> str:
        """The name to import."""
        return re.sub(r"[-_.]+", "_", self.name).lower()

    @property
    def files(self) -> dict[str, str]:
        """The text of every file by its path in the distribution."""
        words = self._words()
        files = {Template(path).substitute(words): name for path, name in _FILES.items()}
        if self.license != "none":
            files["LICENSE"] = f"LICENSE-{self.license}"
        texts = {path: _template(name).substitute(words) for path, name in files.items()}
        return texts | {f"src/{self.package}/py.typed": ""}

    def _words(self) -> dict[str, str]:
        holder, mail = email.utils.parseaddr(self.author) if "<" in self.author else ("", "")
        holder = holder or self.author
        person = {"name": holder} | ({"email": mail} if mail else {})
        table = ", ".join(f"{key} = {_toml(value)}" for key, value in person.items())
        licensed = self.license != "none"
        return {
            "name": self.name,
            "package": self.package,
            "loss": self.loss,
            "Loss": _class_name(self.loss),
            "miner": self.miner,
            "Miner": _class_name(self.miner),
            "authors": f"authors = [{{ {table} }}]\n" if self.author else "",
            "holder": holder or f"the authors of {self.name}",
            "year": str(datetime.date.today().year),
            "requirement": requirement(coreframe.__version__),
            "license_fields": f'license = "{self.license}"\nlicense-files = ["LICENSE"]'
            if licensed
            else 'classifiers = ["Private :: Do Not Upload"] # without a licence; PyPI refuses it',
            "license_section": f"\n{self.license}" if licensed else "",
        }

    def _problems(self) -> Iterator[str]:
        yield from _name_problems(self.name, self.package)
        for kind, name in (("loss", self.loss), ("miner", self.miner)):
            yield from _component_problems(kind, name, self.package)
        if self.loss == self.miner:
            yield f"loss and miner are both called {self.loss!r}; each has a file of its name"
        if not self.author.isprintable():
            yield f"the author must be one line of text, got {self.author!r}"


def write(plugin: NewPlugin, folder: Path) -> list[str]:
    """Write the distribution to a folder that is not there or is empty; return its files.

    All of it takes its place at once. Raises ArgumentError for a folder that cannot be taken,
    and OutputError if it cannot be written.
    """
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise ArgumentError(f"{folder} is a file; choose another folder with --out")
    if place.is_dir() and any(place.iterdir()):
        raise ArgumentError(
            f"the folder {folder} is not empty, and nothing is overwritten; "
            "choose another with --out"
        )
    if place == Path.cwd():
        raise ArgumentError(
            "the working directory cannot be replaced; choose a folder that is not there with --out"
        )
    make_folder(place.parent)
    files = dict(sorted(plugin.files.items()))
    write_folder(place, {path: text.encode() for path, text in files.items()})
    return list(files)


def requirement(version: str) -> str:
    """Return what a plugin asks of coreframe: this minor release, and not the next.

    >>> requirement("0.3.1")
    'coreframe-ml>=0.3,<0.4'
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"coreframe-ml>={major}.{minor},<{major}.{minor + 1}"


def _template(name: str) -> Template:
    folder = importlib.resources.files("coreframe") / "templates" / "plugin"
    return Template((folder / f"{name}.tmpl").read_text(encoding="utf-8"))


def _toml(text: str) -> str:
    """Return a text as TOML writes it: as JSON does."""
    return json.dumps(text, ensure_ascii=False)


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


# Names that cannot be -------------------------------------------------------------------------


def _name_problems(name: str, package: str) -> Iterator[str]:
    if not _DISTRIBUTION.fullmatch(name) or not name.isascii():
        yield (
            f"{name!r} cannot be the name of a distribution: letters, digits and - _ . between "
            "them, as in acme-losses"
        )
        return
    if not package.isidentifier():
        yield (
            f"{name!r} makes the package {package!r}, which Python cannot import; "
            "begin with a letter"
        )
    if keyword.iskeyword(package):
        yield f"{package!r} is a word of Python, so no package can be called that; try 'my-{name}'"
    if package.partition("_")[0] == "coreframe":
        rest = package.partition("_")[2].replace("_", "-") or "losses"
        yield (
            f"{name!r}: names that begin with coreframe are of coreframe itself; "
            f"try 'acme-{rest}', with your own name for acme"
        )
    if package in sys.stdlib_module_names:
        yield f"{package!r} is a module of Python's standard library; try 'my-{name}'"
    if version := _installed(name):
        yield f"a distribution {name!r} ({version}) is installed here; choose another name"
    if place := _importable(package):
        yield f"{package!r} can be imported here already, from {place}; choose another name"


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _importable(package: str) -> str:
    """Return where a module comes from; a mere folder below the working directory is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    here = Path.cwd()
    return next((p for p in places if spec.origin or here not in Path(p).resolve().parents), "")


def _component_problems(kind: str, name: str, package: str) -> Iterator[str]:
    if not _COMPONENT.fullmatch(name):
        small = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).strip("_").lower()
        hint = f"; try {small!r}" if _COMPONENT.fullmatch(small) else ""
        yield f"the {kind} {name!r} must be small letters, digits and _, as in soft_triplet{hint}"
        return
    if keyword.iskeyword(name) or name in _FILE_NAMES or _class_name(name) in _CLASS_NAMES:
        longer = name if name.endswith(f"_{kind}") else f"{name}_{kind}"
        yield (
            f"the {kind} {name!r} would have the file {name}.py and the class "
            f"{_class_name(name)}, one of which is taken; try 'my_{longer}'"
        )
    for entry in registry().entries({"loss": "losses", "miner": "miners"}[kind]):
        if entry.name == name:
            owner = entry.plugin
            yield (
                f"there is a {kind} {name!r} of {owner.distribution} {owner.version}; with two, "
                f"users would have to write {entry.qualified!r}. Choose another name"
            )
