"""A bad plugin harms nobody: one warning names it and its version, and all else works."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import bad_plugins
import pytest
from bad_plugins import CHANGING, DAMAGED, FAILING, Bad

from coreframe import isolation, registry
from coreframe.errors import PluginWarning

from .conftest import fresh

EVERY = {**FAILING, **CHANGING}
TWO = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
"""So that one thread is a change, whatever this machine has."""
STATE = """
import gc, json, locale, logging, os, random, signal, sys, warnings
def state():
    import coreframe.errors, numpy, threadpoolctl
    return [
        [str(f) for f in warnings.filters if not (f[1] or f[3])], numpy.geterr(),
        sorted(p["num_threads"] for p in threadpoolctl.threadpool_info()),
        sorted(k for k in os.environ if "THREADS" in k or "COREFRAME" in k or "CUDA" in k),
        locale.setlocale(locale.LC_ALL), str(signal.getsignal(signal.SIGTERM)), os.getcwd(),
        [p for p in sys.path if p == "/nowhere"], len(logging.root.handlers), logging.root.level,
        logging.getLogger("coreframe").disabled,
        type(sys.stdout).__name__, sys.excepthook is sys.__excepthook__, sys.getrecursionlimit(),
        gc.isenabled(), sys.stdin.closed, repr(sys.gettrace()), repr(print), repr(sorted),
        warnings.showwarning.__module__, logging._warnings_showwarning is None,
        signal.getitimer(signal.ITIMER_REAL),
        [os.fstat(number).st_ino > 0 for number in range(3)], coreframe.errors.nearest.__name__,
    ]
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin that works, and is found last."""
    folder = tmp_path_factory.mktemp("good")
    bad_plugins.write(folder, "zz_good", Bad("", "", out=False))
    return folder


class Told(NamedTuple):
    """Losses that were listed, and warnings."""

    names: set[str]
    lines: list[str]


def warned(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the warnings on stderr; a busy machine may add that an import takes long."""
    lines = [line for line in ran.stderr.splitlines() if line.startswith("warning: ")]
    return [line for line in lines if " is still importing after " not in line]


def output(ran: subprocess.CompletedProcess[str], code: int = 0) -> str:
    assert ran.returncode == code, ran.stderr
    return ran.stdout


# One at a time --------------------------------------------------------------------------------


ALONE = ("thread_variables", "seterr", "threads", "closes", "streams")
"""They want a process in which nothing has happened yet."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, good: Path) -> dict[str, Told]:
    """Install each, list losses in a few processes, and return what each brought."""
    found: dict[str, Told] = {}
    for names in [[*FAILING], [name for name in CHANGING if name not in ALONE], *zip(ALONE)]:
        place = tmp_path_factory.mktemp("together")
        bad = [bad_plugins.write(place / name, name, EVERY[name]) for name in names]
        command = ("-m", "coreframe", "list", "losses", "--json")
        ran = fresh(place, *command, plugins=(*bad, good), **TWO)
        known = {entry["name"] for entry in json.loads(output(ran))}
        assert "Traceback" not in ran.stderr
        assert not (place / "imported").exists()
        lines = warned(ran)
        assert len(lines) == len(names), ran.stderr
        found |= {name: Told(known, lines) for name in names}
    return found


@pytest.mark.parametrize("name", EVERY)
def test_one_warning_names_it_and_all_else_works(told: dict[str, Told], name: str) -> None:
    bad = EVERY[name]
    names, lines = told[name]
    assert {"info_nce", "zz_good"} <= names
    start = f"warning: plugin bad-{name.replace('_', '-')}/bad_{name} 1.2"
    own = [line for line in lines if line.startswith(start)]
    assert len(own) == 1, lines
    assert own[0].startswith(f"{start} was left out: " if bad.out else f"{start}, ")
    assert bad.words in own[0]
    assert (name in names) is (bad.offers and not bad.out)


@pytest.mark.parametrize("numpy_first", [False, True])
def test_what_they_change_is_put_back(python, tmp_path, good, numpy_first: bool) -> None:
    """All at once, before or after NumPy is there: the process is as one without plugins."""
    folders = [good]
    for name, bad in CHANGING.items():
        if name not in ("thread", "many_threads", "streams", "closes", "no_streams"):
            folders.append(bad_plugins.write(tmp_path / name, name, bad))
    code = f"""
{STATE}
warnings.simplefilter("default")
{"import numpy, threadpoolctl" if numpy_first else ""}
random.seed(5)
from coreframe import isolation, registry
names = [e.name for e in registry.registry().entries("losses")]
print(json.dumps([names, state(), random.random()]))
"""
    plain = json.loads(output(python("-c", code, **TWO)))
    ran = python("-c", code, plugins=tuple(folders), **TWO)
    names, *after = json.loads(output(ran))
    assert after == plain[1:]
    assert {"seed", "seterr", "zz_good"} <= set(names)
    lines = [line for line in ran.stderr.splitlines() if "PluginWarning: plugin bad-" in line]
    assert len([line for line in lines if " is still " not in line]) == len(folders) - 1


def test_a_warning_of_a_plugin_names_it(python, tmp_path) -> None:
    """At import, in a hook and in a component; its class stays, and filters for it work."""
    source = """
    import warnings
    class Odd(UserWarning):
        def __init__(self, text, number): super().__init__(text)
    warnings.warn("old", FutureWarning)
    warnings.warn(Odd("odd", 2))
    warnings.warn("quiet", DeprecationWarning)
    @hookimpl
    def coreframe_losses():
        warnings.warn("in a hook")
        return {"warns": "bad_warns_component:Loss"}
    """
    folder = bad_plugins.write(tmp_path / "bad", "warns", Bad(source, "", offers=False))
    component = COMPONENT.format(
        top="import warnings\nwarnings.warn('late')", made="pass", rows="pass"
    )
    (folder / "bad_warns_component.py").write_text(component)
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
import coreframe
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("ignore", DeprecationWarning)
    coreframe.build("losses", "warns")
for warning in caught:
    print(warning.category.__name__, warning.message)
warnings.warn("not a plugin's")
"""
    ran = python("-c", code, plugins=(folder,))
    name = "(plugin bad-warns/bad_warns 1.2)"
    assert output(ran).splitlines() == [
        f"FutureWarning old {name}",
        f"Odd odd {name}",
        f"UserWarning in a hook {name}",
        f"UserWarning late {name}",
    ]
    assert "UserWarning: not a plugin's\n" in ran.stderr


def test_all_files_closed_is_no_silent_loss_of_stdout(python, tmp_path) -> None:
    folder = bad_plugins.write(
        tmp_path / "bad", "daemon", Bad("import os\nos.closerange(3, 256)", "")
    )
    ran = python("-m", "coreframe", "list", "losses", "--json", plugins=(folder,))
    assert ran.returncode != 0
    words = "plugin bad-daemon/bad_daemon 1.2 was left out: it closed all files of the process"
    assert words in ran.stderr


def test_threads_defaults_and_random_of_torch_and_jax_are_put_back(write_plugin) -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    write_plugin(
        "acme",
        """
        import jax, torch
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.manual_seed(0)
        torch.set_num_threads(5)
        jax.config.update("jax_enable_x64", not jax.config.jax_enable_x64)
        @hookimpl
        def coreframe_losses(): return {}
        """,
    )
    x64 = jax.config.jax_enable_x64
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    with pytest.warns(PluginWarning) as caught:
        registry.registry()
    assert str(caught[0].message) == (
        "plugin acme/acme 1.0, at import: it changed the number of threads, the state of torch's "
        "random and defaults of torch or JAX, which is put back"
    )
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert jax.config.jax_enable_x64 is x64


def test_a_seeded_generator_goes_on_where_it_was(python, tmp_path) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "seed", CHANGING["seed"])
    code = """
import numpy
numpy.random.seed(3)
first = numpy.random.random()
from coreframe import isolation, registry
registry.registry()
numpy.random.seed(3) if len(__import__("sys").argv) > 1 else None
print(first, numpy.random.random())
"""
    first, second = map(float, output(python("-c", code, plugins=(folder,))).split())
    assert first != second
    plain = output(python("-c", code))
    assert plain.split() == [str(first), str(second)]


def test_a_stdout_that_was_wrapped_still_works(python, tmp_path) -> None:
    """The wrapper is collected late, or it would close the stream that it shares."""
    folder = bad_plugins.write(tmp_path / "bad", "streams", CHANGING["streams"])
    ran = python("-m", "coreframe", "plugins", "--json", plugins=(folder,))
    assert json.loads(output(ran))[-1]["deeds"] == (
        "it changed sys.stdin, sys.stdout or sys.stderr, which is put back"
    )


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_still_has_a_name(python, tmp_path, good, name: str) -> None:
    """Its folder says it; and the damage of one distribution is no other's."""
    bad = bad_plugins.write(tmp_path / "bad", name, DAMAGED[name])
    ran = python("-m", "coreframe", "plugins", "--json", plugins=(bad, good))
    found = {plugin["plugin"]: plugin for plugin in json.loads(output(ran))}
    assert found[f"bad-{name}/bad_{name}"]["state"] == "loaded"
    assert found[f"bad-{name}/bad_{name}"]["version"] == "1.2"
    assert found["bad-zz-good/bad_zz_good"]["state"] == "loaded"


def test_entry_points_that_are_not_utf8_name_themselves(python, tmp_path, good) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "bytes", Bad("", ""))
    text = b"[coreframe]\nbad_bytes = bad_\xffbytes\n"
    (folder / "bad_bytes-1.2.dist-info" / "entry_points.txt").write_bytes(text)
    ran = python("-m", "coreframe", "list", "losses", plugins=(folder, good))
    assert "zz_good" in output(ran)
    assert "plugin bad-bytes/bad_bytes 1.2 was left out: its entry_points.txt" in ran.stderr


def test_a_byte_order_mark_and_a_second_version(python, tmp_path, good) -> None:
    """The mark is passed over; two versions in one folder are told, since one may be imported."""
    mark = bad_plugins.write(tmp_path / "mark", "mark", Bad("", ""))
    text = b"\xef\xbb\xbf[coreframe]\nbad_mark = bad_mark\n"
    (mark / "bad_mark-1.2.dist-info" / "entry_points.txt").write_bytes(text)
    two = bad_plugins.write(tmp_path / "two", "two", Bad("", ""))
    about = shutil.copytree(two / "bad_two-1.2.dist-info", two / "bad_two-1.3.dist-info")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-two\nVersion: 1.3\n")
    ran = python("-m", "coreframe", "list", "losses", plugins=(mark, two, good))
    assert {"mark", "two", "zz_good"} <= set(output(ran).split())
    assert ran.stderr.count("warning: ") == 1
    words = (
        r"warning: plugin bad-two/bad_two 1\.[23]: version 1\.[23] of it is installed in the same"
    )
    assert re.match(words, ran.stderr)


# Slow, hanging, ended -------------------------------------------------------------------------


def test_a_slow_import_is_named_while_it_runs(tmp_path, good) -> None:
    """After five seconds, here sooner; `coreframe plugins` lists it even where it is stopped."""
    assert isolation.SLOW_SECONDS == 5
    slow = bad_plugins.write(tmp_path / "bad", "slow", Bad("import time\ntime.sleep(600)", ""))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COREFRAME_")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (slow, good)))
    # A job in the background ignores SIGINT, and its children too; `preexec_fn` would fork.
    program = (
        "import runpy, signal, sys\n"
        "from coreframe import isolation\n"
        "isolation.SLOW_SECONDS = 0.5\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv = ['coreframe', 'plugins', '--json']\n"
        "runpy.run_module('coreframe', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    # On a slow machine others take longer than half a second, too.
    lines = iter(process.stderr.readline, "")
    assert next(line for line in lines if "bad_slow" in line) == (
        "warning: plugin bad-slow/bad_slow 1.2 is still importing after 0.5 s; "
        "COREFRAME_PLUGINS=-bad-slow/bad_slow leaves it out\n"
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    states = {plugin["plugin"]: plugin["state"] for plugin in json.loads(out)}
    assert states["bad-slow/bad_slow"] == "importing"
    assert states["bad-zz-good/bad_zz_good"] == "found"
    assert states["coreframe-ml/coreframe_losses"] == "loaded"


def test_a_copy_that_a_plugin_forks_does_not_run_the_program_again(python, tmp_path, good) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "forks", Bad("import os\nos.fork()", ""))
    ran = python("-m", "coreframe", "list", "losses", "--json", plugins=(folder, good))
    names = [entry["name"] for entry in json.loads(output(ran))]
    assert {"forks", "zz_good"} <= set(names)
    assert ran.stderr == (
        "warning: plugin bad-forks/bad_forks 1.2 forked the process while importing; "
        "the copy is ended\n"
    )


def test_metadata_is_enough_to_list(python, tmp_path, good) -> None:
    """Even where the import would end the process, which nothing can catch."""
    ends = bad_plugins.write(tmp_path / "ends", "ends", Bad("import os\nos._exit(9)", ""))
    older = bad_plugins.write(tmp_path / "older", "older", FAILING["older"])
    command = ("-m", "coreframe", "plugins")
    assert python(*command, plugins=(ends, good)).returncode == 9
    setting = {"COREFRAME_PLUGINS": "-bad-zz-good"}
    ran = python(*command, "--no-import", "--json", plugins=(ends, older, good), **setting)
    found = {plugin["plugin"]: plugin for plugin in json.loads(output(ran))}
    assert found["bad-ends/bad_ends"]["state"] == "found"
    assert found["bad-older/bad_older"]["state"] == "failed"
    assert "coreframe-ml<0.1" in found["bad-older/bad_older"]["error"]
    assert found["bad-zz-good/bad_zz_good"]["state"] == "off"
    assert found["coreframe-ml/coreframe_losses"]["state"] == "found"


@pytest.mark.parametrize("setting", ["none", ""])
def test_none_imports_nothing_foreign(python, tmp_path, setting: str) -> None:
    writes = bad_plugins.write(tmp_path / "bad", "writes", Bad("open('imported', 'w')", ""))
    command = ("-m", "coreframe", "plugins", "--json")
    states = json.loads(output(python(*command, plugins=(writes,), COREFRAME_PLUGINS=setting)))
    assert {plugin["state"] for plugin in states} == {"loaded", "off"}
    assert not (tmp_path / "imported").exists()
    output(python(*command, plugins=(writes,)))
    assert (tmp_path / "imported").exists()  # the test can fail


# Strictness, warnings as errors, recursion ----------------------------------------------------


@pytest.mark.parametrize("name", ["raises", "prints"])
def test_strict_makes_it_an_error(python, tmp_path, name: str) -> None:
    folder = bad_plugins.write(tmp_path / "bad", name, EVERY[name])
    ran = python("-m", "coreframe", "list", plugins=(folder,), COREFRAME_STRICT="1")
    assert output(ran, 1) == ""
    assert ran.stderr.splitlines()[-1].startswith(f"error: plugin bad-{name}/bad_{name} 1.2")


def test_warnings_as_errors_leave_the_registry_whole(python, tmp_path, good) -> None:
    """A warning at import then is a failure like another; told as an error, once."""
    source = "import warnings\nwarnings.warn('old', DeprecationWarning)"
    warns = bad_plugins.write(tmp_path / "bad", "warns", Bad(source, ""))
    code = """
from coreframe.errors import PluginWarning
from coreframe.registry import registry
try:
    registry()
except PluginWarning as error:
    print(error)
print([e.name for e in registry().entries("losses")][-1])
"""
    told, last = output(python("-W", "error", "-c", code, plugins=(warns, good))).splitlines()
    assert told == (
        "plugin bad-warns/bad_warns 1.2 was left out: DeprecationWarning: old (bad_warns.py:3)"
    )
    assert last == "zz_good"


def test_a_plugin_may_use_the_registry_while_it_is_imported(python, tmp_path, good) -> None:
    """It sees ours and those before it; nothing is imported twice, and all are there afterwards."""
    source = """
    print("once")
    from coreframe import build
    from coreframe.registry import registry
    loss = build("losses", "info_nce")
    seen = [entry.name for entry in registry().entries("losses")]
    """
    asks = bad_plugins.write(tmp_path / "bad", "asks", Bad(source, ""))
    code = """
from coreframe.registry import registry
names = [entry.name for entry in registry().entries("losses")]
import bad_asks
print("zz_good" in names, "zz_good" in bad_asks.seen, "info_nce" in bad_asks.seen)
"""
    ran = python("-c", code, plugins=(asks, good))
    assert output(ran) == "True False True\n"
    assert ran.stderr.count("it printed 'once' to stdout") == 1


# Components -----------------------------------------------------------------------------------

COMPONENT = """
from dataclasses import dataclass
from coreframe import PairwiseLoss
{top}

@dataclass(frozen=True, kw_only=True)
class Loss(PairwiseLoss):
    def __post_init__(self):
        {made}

    def row_terms(self, similarities, positive, negative):
        {rows}
        return similarities[:, 0] * 0, similarities * 0
"""
MUTE = """
        class Mute(Exception):
            def __str__(self): raise SystemExit(0)
        raise Mute"""
IN_COMPONENT = {
    "import_raises": (("1 / 0", "pass", "pass"), "ZeroDivisionError: division by zero"),
    "import_exits": (("raise SystemExit(0)", "pass", "pass"), "failed: SystemExit: 0"),
    "import_needs": (("import fancy_lib", "pass", "pass"), "pip install 'fancy-lib'"),
    "made_raises": (("", "1 / 0", "pass"), "ZeroDivisionError: division by zero"),
    "made_exits": (("", "raise SystemExit(0)", "pass"), "failed: SystemExit: 0"),
    "trains_raises": (("", "pass", "1 / 0"), "ZeroDivisionError: division by zero"),
    "trains_exits": (("", "pass", "raise SystemExit(0)"), "failed: SystemExit: 0"),
    "trains_mute": (("", "pass", MUTE), "failed: Mute: (its text cannot be had: SystemExit)"),
    "trains_nonsense": (("", "pass", "return None, 3"), "AttributeError"),
    "trains_shapes": (("", "pass", "return similarities, similarities[:1]"), ""),
}


TRAIN_EACH = """
import contextlib, io, json, sys
from coreframe import cli
told = {}
for name in sys.argv[1:]:
    arguments = ["train", "pairs.jsonl", "-o", f"out_{name}", "--set", f"losses.0.name={name}"]
    with contextlib.redirect_stderr(io.StringIO()) as text:
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.run(arguments)
    told[name] = code, text.getvalue()
print(json.dumps(told))
"""


def train_each(place: Path, names: list[str], plugins: list[Path]) -> dict[str, tuple[int, str]]:
    """Train with each loss, in one fresh process; return exit codes and what stderr says."""
    rows = [{"anchor": f"a {i}", "positive": f"b {i}"} for i in range(60)]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = {"OPENBLAS_NUM_THREADS": "1"}
    ran = fresh(place, "-c", TRAIN_EACH, *names, plugins=tuple(plugins), **one)
    return {name: (code, text) for name, (code, text) in json.loads(output(ran)).items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    place, folders = tmp_path_factory.mktemp("trained"), []
    for name, (parts, _) in IN_COMPONENT.items():
        bad = Bad("", "", requires=("fancy-lib",))
        folder = bad_plugins.write(place / name, name, bad)
        source = COMPONENT.format(**dict(zip(("top", "made", "rows"), parts, strict=True)))
        (folder / f"bad_{name}_component.py").write_text(source)
        folders.append(folder)
    return train_each(place, list(IN_COMPONENT), folders)


@pytest.mark.parametrize("name", IN_COMPONENT)
def test_a_component_that_fails_is_named(trained: dict[str, tuple[int, str]], name: str) -> None:
    """With distribution and version, whether it is imported, made, or trained with."""
    code, text = trained[name]
    assert code in (1, 2), text
    assert IN_COMPONENT[name][1] in text
    dashed = name.replace("_", "-")
    assert f"bad-{dashed} 1.2" in text or f"bad-{dashed}/bad_{name} 1.2" in text
    assert "Traceback" not in text


def test_what_cannot_be_shown_is_named(python, tmp_path) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "shown", Bad("", ""))
    source = COMPONENT.format(top="", made="pass", rows="pass") + "\nLoss.__signature__ = 5\n"
    (folder / "bad_shown_component.py").write_text(source)
    ran = python("-m", "coreframe", "show", "losses", "shown", plugins=(folder,))
    assert ran.returncode == 1
    assert "; while showing 'shown' of bad-shown 1.2" in ran.stderr


def test_a_backend_that_exits_hides_no_other(python, tmp_path) -> None:
    """`coreframe backends` makes each, to ask whether it can run here."""
    source = """
    @hookimpl
    def coreframe_backends(): return {"ends": "bad_ends:Ends"}
    class Ends:
        def __init__(self): raise SystemExit(0)
    """
    folder = bad_plugins.write(tmp_path / "bad", "ends", Bad(source, "", offers=False))
    quick = {"COREFRAME_PLUGINS": "-coreframe_torch,-coreframe_jax"}
    rows = output(python("-m", "coreframe", "backends", plugins=(folder,), **quick)).splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["cupy", "numpy", "ends"]
    assert rows[-1].endswith("SystemExit: 0 (bad_ends.py:6) of bad-ends 1.2")


def test_fit_names_the_plugin_in_the_error(python, tmp_path) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "fits", Bad("", ""))
    source = COMPONENT.format(top="", made="pass", rows="1 / 0")
    (folder / "bad_fits_component.py").write_text(source)
    code = """
import numpy
from coreframe import Pairs, fit
x = numpy.random.default_rng(0).normal(size=(8, 4))
try:
    fit(Pairs(x, x), epochs=1, loss="fits")
except ZeroDivisionError as error:
    print(error.__notes__)
"""
    told = output(python("-c", code, plugins=(folder,)))
    assert told == "['in plugin bad-fits/bad_fits 1.2 (bad_fits_component.py:12)']\n"


NO_LOSS = "is no dataclass of the kind losses"
WRONG_TARGETS = {
    "function": ("coreframe.errors:nearest", f"'function' of bad-function 1.2 {NO_LOSS}"),
    "text": ("coreframe.plugin:GROUP", f"'text' of bad-text 1.2 {NO_LOSS}"),
    "nowhere": ("nowhere.at_all:Loss", "'nowhere' (nowhere.at_all:Loss) of bad-nowhere 1.2"),
    "no_name": ("bad_no_name:Loss", "has no attribute 'Loss'; while loading 'no_name'"),
}


def test_a_table_with_wrong_targets_is_named_when_it_is_used(python, tmp_path, good) -> None:
    folders = [good]
    for name, (target, _) in WRONG_TARGETS.items():
        source = f"@hookimpl\ndef coreframe_losses(): return {{'{name}': '{target}'}}"
        bad = Bad(source, "", offers=False)
        folders.append(bad_plugins.write(tmp_path / name, name, bad))
    ran = python("-m", "coreframe", "list", "losses", plugins=tuple(folders))
    assert {*WRONG_TARGETS, "zz_good"} <= set(output(ran).split())
    assert ran.stderr == ""
    for name, (code, text) in train_each(tmp_path, list(WRONG_TARGETS), folders).items():
        assert code == 2
        assert WRONG_TARGETS[name][1] in text


def test_a_component_that_changes_the_process_when_it_is_imported(python, tmp_path) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "late", Bad("", ""))
    source = COMPONENT.format(
        top="import numpy\nnumpy.seterr(all='ignore')\nprint('late')", made="pass", rows="pass"
    )
    (folder / "bad_late_component.py").write_text(source)
    code = """
import numpy
from coreframe import build
build("losses", "late")
build("losses", "late")
print(numpy.geterr()["over"])
"""
    ran = python("-c", code, plugins=(folder,))
    assert output(ran) == "warn\n"
    assert ran.stderr.count("PluginWarning: plugin bad-late/bad_late 1.2, importing bad_late_") == 1
    assert "it changed np.seterr, which is put back; it printed 'late' to stdout" in ran.stderr


def test_a_taken_name_is_an_error_only_when_it_is_used(python, tmp_path) -> None:
    folder = bad_plugins.write(tmp_path / "bad", "info_nce", Bad("", ""))
    ran = python("-m", "coreframe", "list", "losses", plugins=(folder,))
    assert output(ran).count(" info_nce ") == 2
    assert ran.stderr == ""
    show = ("-m", "coreframe", "show", "losses")
    ran = python(*show, "info_nce", plugins=(folder,))
    output(ran, 2)
    assert "bad-info-nce/bad_info_nce:info_nce (version 1.2)" in ran.stderr
    assert "InfoNCE" in output(python(*show, "coreframe-ml:info_nce", plugins=(folder,)))


# All together ---------------------------------------------------------------------------------


def test_all_of_them_at_once(python, tmp_path, good) -> None:
    """One warning each, `coreframe plugins` tells what each did, and training goes its way."""
    folders = [good]
    for name, bad in EVERY.items():
        folders.append(bad_plugins.write(tmp_path / "bad" / name, name, bad))
    ran = python("-m", "coreframe", "plugins", "--json", plugins=tuple(folders), **TWO)
    table = {plugin["plugin"]: plugin for plugin in json.loads(output(ran))}
    for name, bad in EVERY.items():
        plugin = table[f"bad-{name.replace('_', '-')}/bad_{name}"]
        assert plugin["state"] == ("failed" if bad.out else "loaded")
        assert plugin["version"] == "1.2"
        assert bool(plugin["error"]) is bad.out
        assert len([x for x in warned(ran) if f"plugin {plugin['plugin']} 1.2" in x]) == 1
    rows = [{"anchor": f"a {i}", "positive": f"b {i}"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("-m", "coreframe", "train", "pairs.jsonl", "--json", "--set", "train.epochs=1")
    ran = python(*command, plugins=tuple(folders), OPENBLAS_NUM_THREADS="1")
    assert ran.returncode in (0, 3), ran.stderr
    assert "kept" in json.loads(ran.stdout) or json.loads(ran.stdout)


RETURNING = """
from dataclasses import dataclass
import coreframe

@dataclass(frozen=True, kw_only=True)
class Loss(coreframe.{base}):
    def mine(self, batch, *, rng):
        return [1, 2]

    def value_and_grad(self, *arguments, **named):
        return [1, 2]
"""


def test_what_a_component_returns_in_training_is_looked_at(python, tmp_path) -> None:
    """A list in place of a result would fail in our code: the plugin is named all the same."""
    folders = []
    for base in ("miner", "loss", "regularizer"):
        folders.append(bad_plugins.write(tmp_path / base, base, Bad("", "")))
        source = RETURNING.format(base=base.title())
        (folders[-1] / f"bad_{base}_component.py").write_text(source)
    code = """
import numpy as np
import bad_miner_component, bad_regularizer_component
from coreframe import Pairs, fit
x = np.random.default_rng(0).normal(size=(40, 4))
for arguments in (
    {"miner": bad_miner_component.Loss()},
    {"loss": "loss"},
    {"regularizers": [bad_regularizer_component.Loss()]},
):
    try:
        fit(Pairs(x, x), epochs=1, **arguments)
    except TypeError as error:
        print(error)
"""
    told = output(python("-c", code, plugins=tuple(folders))).splitlines()
    assert len(told) == 3
    for base, line in zip(("miner", "loss", "regularizer"), told, strict=True):
        assert (
            f"of Loss (bad_{base}_component) of plugin bad-{base}/bad_{base} 1.2 must ret" in line
        )
        assert "got list" in line
