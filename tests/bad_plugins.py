"""Distributions that are bad, each in its own way, and what coreframe should say of it.

Written to a folder as an installer would leave them; the folder goes on the path of a fresh Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

HEAD = "from coreframe.plugin import hookimpl\n"
GOOD = """
@hookimpl
def coreframe_losses():
    return {"%s": "%s:Loss"}
"""


@dataclass(frozen=True)
class Bad:
    """What a bad plugin does, and the words of the one warning (and whether it is left out)."""

    source: str
    words: str
    out: bool = True
    requires: tuple[str, ...] = ()
    metadata: bytes | None = None
    entry_points: str | None = None
    offers: bool = True  # append a hook that offers a loss of the plugin's name


def write(folder: Path, name: str, bad: Bad) -> Path:
    """Install a distribution called ``bad-NAME`` of one module ``bad_NAME``; return its folder."""
    module = f"bad_{name}"
    about = folder / f"{module}-1.2.dist-info"
    about.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: bad-{name}", "Version: 1.2"]
    lines += [f"Requires-Dist: {requirement}" for requirement in bad.requires]
    text = "\n".join(lines) + "\n"
    (about / "METADATA").write_bytes(text.encode() if bad.metadata is None else bad.metadata)
    (about / "entry_points.txt").write_text(
        bad.entry_points or f"[coreframe]\n{module} = {module}\n"
    )
    offer = GOOD % (name, f"{module}_component") if bad.offers else ""
    (folder / f"{module}.py").write_text(HEAD + dedent(bad.source) + offer)
    return folder


FAILING = {
    "missing": Bad(
        "import a_package_that_is_nowhere",
        "ModuleNotFoundError: No module named 'a_package_that_is_nowhere' (bad_missing.py:2); "
        "bad-missing does not say in its metadata what brings 'a_package_that_is_nowhere'",
    ),
    "needs": Bad(
        "import fancy_lib.core",
        "; bad-needs asks for 'fancy-lib>=2', which is not installed: pip install 'fancy-lib>=2'",
        requires=("numpy>=1", "fancy-lib>=2"),
    ),
    "needs_extra": Bad(
        "import fancy_lib",
        "; bad-needs-extra asks for 'fancy.lib' with its extra 'gpu': "
        "pip install 'bad-needs-extra[gpu]'",
        requires=("numpy", 'fancy.lib; extra == "gpu"'),
    ),
    "misspelt": Bad(
        "@hookimpl\ndef coreframe_loses(): return {}",
        "unknown hook 'coreframe_loses'. Did you mean 'coreframe_losses'? coreframe 0.1.0 knows: "
        "coreframe_losses, coreframe_miners, ",
    ),
    "arguments": Bad(
        "@hookimpl\ndef coreframe_miners(batch): return {}",
        "PluginValidationError: Plugin 'bad-arguments/bad_arguments' for hook 'coreframe_miners'",
    ),
    "no_hook": Bad("x = 1", "it implements no hook; is the decorator @hookimpl", offers=False),
    "nonsense": Bad(
        "@hookimpl\ndef coreframe_losses(): return 7",
        "coreframe_losses must return a mapping, got int",
        offers=False,
    ),
    "wrong_target": Bad(
        "@hookimpl\ndef coreframe_losses(): return {'one': 'no target'}",
        "coreframe_losses: 'no target' is not 'package.module:attribute'",
        offers=False,
    ),
    "endless_table": Bad(
        """
        from collections.abc import Mapping
        class Table(Mapping):
            def __getitem__(self, key): raise RuntimeError("no item")
            def __iter__(self): return iter(["a"])
            def __len__(self): return 1
        @hookimpl
        def coreframe_losses(): return Table()
        """,
        "RuntimeError: no item",
        offers=False,
    ),
    "raises": Bad("raise RuntimeError('no\\nand no')", "RuntimeError: no (bad_raises.py:2)"),
    "raises_in_hook": Bad(
        "@hookimpl\ndef coreframe_losses(): 1 / 0",
        "ZeroDivisionError: division by zero (bad_raises_in_hook.py:3)",
        offers=False,
    ),
    "exits": Bad("import sys\nsys.exit(0)", "SystemExit: 0 (bad_exits.py:3)"),
    "exits_in_hook": Bad(
        "@hookimpl\ndef coreframe_losses(): raise SystemExit('bye')",
        "SystemExit: bye (bad_exits_in_hook.py:3)",
        offers=False,
    ),
    "base": Bad("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd (bad_base.py:3)"),
    "recursive": Bad("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "memory": Bad("raise MemoryError", "MemoryError (bad_memory.py:2)"),
    "mute": Bad(
        "class Mute(Exception):\n    def __str__(self): raise SystemExit(0)\nraise Mute",
        "Mute: (its text cannot be had: SystemExit) (bad_mute.py:4)",
    ),
    "nameless": Bad(
        "class Meta(type):\n    @property\n    def __name__(cls): raise SystemExit(0)\n"
        "class Nameless(Exception, metaclass=Meta): pass\nraise Nameless",
        "was left out: an exception that cannot be shown",
    ),
    "no_module": Bad(
        "raise ModuleNotFoundError('odd', name=5)", "ModuleNotFoundError: odd (bad_no_module.py:2)"
    ),
    "escapes": Bad(
        "raise RuntimeError('\\x1b[2J\\udcff' + 'x' * 10_000)",
        f"RuntimeError: \\x1b[2J\\udcff{'x' * 295}... (bad_escapes.py:2)",
    ),
    "no_text": Bad(
        """
        class Key:
            def __str__(self): return "key"
            def __repr__(self): return "<a key>"
        @hookimpl
        def coreframe_losses(): return {Key(): "a.b:C"}
        """,
        "coreframe_losses: <a key> is not a name (a-z, 0-9 and _)",
        offers=False,
    ),
    "no_repr": Bad(
        """
        class Text(str):
            def __repr__(self): raise RuntimeError("no repr")
        @hookimpl
        def coreframe_losses(): return {Text("Bad Name"): "a.b:C"}
        """,
        "RuntimeError: no repr (bad_no_repr.py:4)",
        offers=False,
    ),
    "heirless": Bad(
        """
        class Base:
            def __init_subclass__(cls): raise RuntimeError("no heirs")
        class Heir(Base): pass
        """,
        "RuntimeError: no heirs (bad_heirless.py:4)",
    ),
    "internal": Bad(
        "import coreframe.was_here_once",
        "; this is coreframe-ml 0.1.0, which has no such module",
    ),
    "awaited": Bad(
        "@hookimpl\nasync def coreframe_losses(): return {}",
        "coreframe_losses must return a mapping, got coroutine",
        offers=False,
    ),
    "syntax": Bad("def broken(:", "SyntaxError: invalid syntax (bad_syntax.py, line 2)"),
    "older": Bad(
        "open('imported', 'w')",
        "it asks for coreframe-ml<0.1, and this is coreframe-ml 0.1.0; "
        "install a version of bad-older that is made for it",
        requires=("coreframe_ml<0.1",),
    ),
    "newer": Bad(
        "open('imported', 'w')",
        "it asks for coreframe-ml~=7.0, and this is coreframe-ml 0.1.0",
        requires=("Coreframe.ML[cli] (~=7.0) ; python_version >= '3'",),
    ),
    "requirement": Bad(
        "open('imported', 'w')",
        "its metadata asks for 'coreframe-ml>>1', which is no requirement",
        requires=("coreframe-ml>>1",),
    ),
    "entry": Bad(
        "",
        "its entry_points.txt has the line 'bad_entry = not a module', which is not",
        entry_points="[console_scripts]\nx = y:z\n[coreframe]\nbad_entry = not a module\n",
    ),
    "no_value": Bad(
        "",
        "its entry_points.txt has the line 'bad_no_value', which is not",
        entry_points="[coreframe]\nbad_no_value\n",
    ),
    "twice": Bad(
        "",
        "its entry_points.txt has 'bad_twice' twice",
        entry_points="[coreframe]\nbad_twice = bad_twice\nbad_twice = json\n",
    ),
    "builtins_at_once": Bad(
        "import builtins\nbuiltins.len = builtins.zip = builtins.all = None\n1 / 0",
        ". Also, it changed functions of Python, which is put back",
    ),
    "failing_and_changing": Bad(
        "import os, warnings\nwarnings.simplefilter('ignore')\nprint('hello')\n1 / 0",
        "ZeroDivisionError: division by zero (bad_failing_and_changing.py:5). Also, it changed "
        "the warning filters, which is put back; it printed 'hello' to stdout, which went to ",
    ),
}
"""They are left out."""

CHANGING = {
    "prints": Bad("print('hello')", "it printed 'hello' to stdout, which went to std", out=False),
    "prints_in_hook": Bad(
        "@hookimpl\ndef coreframe_losses():\n    print('{}')\n    return {}",
        "in coreframe_losses: it printed '{}' to stdout",
        out=False,
        offers=False,
    ),
    "prints_deep": Bad(
        """
        import ctypes, os
        os.system("echo from a program")
        os.write(1, b"from the system\\n")
        ctypes.CDLL(None).printf(b"from C\\n")
        """,
        "it printed 'from a program\\nfrom the system\\nfrom C' to stdout",
        out=False,
    ),
    "filters": Bad(
        "import warnings\nwarnings.simplefilter('ignore')", "the warning filters", out=False
    ),
    "filters_lost": Bad(
        "import warnings\nwarnings.resetwarnings()", "the warning filters", out=False
    ),
    "seterr": Bad("import numpy\nnumpy.seterr(all='ignore')", "np.seterr", out=False),
    "seed": Bad(
        "import random, numpy\nrandom.seed(0)\nnumpy.random.seed(0)",
        "the state of random and the state of np.random",
        out=False,
    ),
    "threads": Bad(
        "import threadpoolctl, numpy\nthreadpoolctl.threadpool_limits(1)",
        "the number of threads",
        out=False,
    ),
    "thread_variables": Bad(
        "import os\nos.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')\nimport numpy",
        "variables of threads, devices or coreframe and the number of threads",
        out=False,
    ),
    "variables": Bad(
        "import os\nos.environ.update(COREFRAME_CHECKS='1', CUDA_VISIBLE_DEVICES='')",
        "variables of threads, devices or coreframe, which is put back",
        out=False,
    ),
    "locale": Bad(
        "import locale\nlocale.setlocale(locale.LC_ALL, 'C.UTF-8')", "the locale", out=False
    ),
    "signals": Bad(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal handlers", out=False
    ),
    "timer": Bad(
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 60)", "timers of signals", out=False
    ),
    "directory": Bad("import os\nos.chdir('/')", "the working directory", out=False),
    "umask": Bad("import os\nos.umask(0o777)", "it changed the umask,", out=False),
    "path": Bad("import sys\nsys.path.insert(0, '/nowhere')", "sys.path", out=False),
    "logging": Bad(
        "import logging\nlogging.basicConfig(level=logging.DEBUG)", "it changed logging,", out=False
    ),
    "logging_off": Bad(
        "import logging.config\nlogging.config.dictConfig({'version': 1})",
        "it changed logging,",
        out=False,
    ),
    "closes": Bad(
        "import sys\nsys.stdout.close()",
        "it changed sys.stdin, sys.stdout or sys.stderr,",
        out=False,
    ),
    "closes_input": Bad(
        "import sys\nsys.stdin.close()", "it changed sys.stdin, sys.stdout or sys.", out=False
    ),
    "no_streams": Bad(
        "import sys\nsys.stdin.detach()\nsys.stdout = sys.stderr = None",
        "it changed sys.stdin, sys.stdout or sys.stderr,",
        out=False,
    ),
    "descriptors": Bad(
        "import os\nfor number in range(3): os.close(number)",
        "it changed file descriptor 0 and file descriptor 2, which is put back",
        out=False,
    ),
    "builtins": Bad(
        "import builtins\nbuiltins.print = None\ndel builtins.sorted",
        "it changed functions of Python,",
        out=False,
    ),
    "functions": Bad(
        "import coreframe.errors\ncoreframe.errors.nearest = None",
        "it changed functions of coreframe or NumPy,",
        out=False,
    ),
    "modules": Bad(
        "import sys\nfor name in list(sys.modules):\n"
        "    if name.startswith('coreframe'): del sys.modules[name]",
        "it changed loaded modules of coreframe or NumPy,",
        out=False,
    ),
    "tracing": Bad(
        "import sys, threading\nsys.settrace(print)\nsys.setprofile(None)\n"
        "threading.settrace(print)",
        "it changed tracing or profiling,",
        out=False,
    ),
    "captures": Bad(
        "import logging\nlogging.captureWarnings(True)", "it changed the warning filters", out=False
    ),
    "streams": Bad(
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)",
        "sys.stdout or sys.stderr",
        out=False,
    ),
    "hook": Bad(
        "import sys, threading\nsys.excepthook = threading.excepthook = sys.displayhook = print",
        "a hook of Python such as sys.excepthook",
        out=False,
    ),
    "limits": Bad(
        "import gc, sys\nsys.setrecursionlimit(50_000)\ngc.disable()",
        "the recursion limit and garbage collection",
        out=False,
    ),
    "many_threads": Bad(
        "import threading\nfor i in range(9):\n"
        "    threading.Thread(target=threading.Event().wait, name=str(i), daemon=True).start()",
        "it started the thread '0', the thread '1', the thread '2' and 6 more, which runs on",
        out=False,
    ),
    "thread": Bad(
        "import threading\n"
        "threading.Thread(target=threading.main_thread().join, name='busy').start()",
        "it started the thread 'busy' (the program ends after it), which runs on",
        out=False,
    ),
}
"""They stay, and what they changed is put back."""

DAMAGED = {
    "latin": Bad("", "", metadata=b"Metadata-Version: 2.1\nName: bad-latin\nAuthor: J\xfcrgen\n"),
    "empty": Bad("", "", metadata=b""),
}
"""Their metadata cannot be read, but their folder tells the name and version."""
