"""The registry: what it takes from plugins, what it refuses, and what it says."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import types
import warnings

import numpy as np
import pytest

import coreframe
from coreframe import build, config, isolation, process_state, registry
from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    ConfigError,
    PluginError,
    PluginWarning,
    UnknownName,
)
from coreframe.plugin import RETIRED, Retired
from coreframe.testing import target

LOSS = """
@hookimpl
def coreframe_losses():
    return {{{table}}}
"""


def loss_table(table: str) -> str:
    return LOSS.format(table=table)


def entries(kind: str = "losses") -> list[str]:
    return [entry.qualified for entry in registry.registry().entries(kind)]


def plugin(key: str) -> registry.Plugin:
    return next(p for p in registry.registry().plugins if p.key == key)


def refused(key: str, kind: str = "losses") -> str:
    """Ask for a kind, expect one warning, which names the plugin, and return what it says."""
    with pytest.warns(PluginWarning) as caught:
        found = entries(kind)
    assert len(caught) == 1
    assert found == entries(kind)  # without a second warning
    assert not [name for name in found if name.startswith(key)]
    start = f"plugin {key} 1.0 was left out: "
    message = str(caught[0].message)
    assert message.startswith(start)
    assert plugin(key).state == "failed"
    assert plugin(key).kinds == []
    assert "coreframe-ml/coreframe_losses:info_nce" in entries()
    return message.removeprefix(start)


# Taken and refused --------------------------------------------------------------------------


def test_a_table_is_taken(write_plugin) -> None:
    key = write_plugin("acme", loss_table('"one": "acme:One", "two": "acme.two:Two"'))
    assert entries()[-2:] == [f"{key}:one", f"{key}:two"]
    assert plugin(key).state == "loaded"
    assert plugin(key).kinds == ["losses"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (loss_table('"Soft Margin": "acme:One"'), "'Soft Margin' is not a name (a-z, 0-9 and _)"),
        (loss_table('"one:two": "acme:One"'), "'one:two' is not a name"),
        (loss_table('3: "acme:One"'), "3 is not a name"),
        (loss_table('"one": "acme.One"'), "'acme.One' is not 'package.module:attribute'"),
        (loss_table('"one": int'), "<class 'int'> is not 'package.module:attribute'"),
        (
            "@hookimpl\ndef coreframe_losses(): return ['acme:One']",
            "coreframe_losses must return a mapping, got list",
        ),
        ("@hookimpl\ndef coreframe_losses(): 1 / 0", "ZeroDivisionError: division by zero (acme."),
        ("def coreframe_losses(): return {}", "it implements no hook; is the decorator @hookimpl"),
        (
            "@hookimpl\ndef coreframe_loses(): return {}",
            "unknown hook 'coreframe_loses'. Did you mean 'coreframe_losses'?",
        ),
        (
            "@hookimpl\ndef coreframe_kernel(): return {}",
            "unknown hook 'coreframe_kernel'. Did you mean 'coreframe_kernels'?",
        ),
        (
            "@hookimpl\ndef xyz(): return {}",
            "unknown hook 'xyz'. coreframe 0.1.0 knows: coreframe_losses, corefr",
        ),
        ("@hookimpl\ndef coreframe_losses(name): return {}", "PluginValidationError"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (acme.py:3)"),
        ("raise RuntimeError", "RuntimeError (acme.py:2)"),
        ("def broken(:", "SyntaxError: invalid syntax (acme.py, line 2)"),
    ],
)
def test_what_is_wrong_is_said(write_plugin, source: str, words: str) -> None:
    assert words in refused(write_plugin("acme", source))


def test_a_hook_may_take_fewer_arguments_than_it_is_offered(write_plugin) -> None:
    write_plugin("acme", "@hookimpl\ndef coreframe_kernels(): return {'acme:mine': 'acme:mine'}")
    assert registry.registry().kernels("numpy")["acme:mine"] == "acme:mine"


def test_a_kernel_may_be_keyed_by_a_class(write_plugin) -> None:
    write_plugin("acme", "@hookimpl\ndef coreframe_kernels(backend): return {'a.b:C': 'acme:c'}")
    assert registry.registry().kernels("numpy")["a.b:C"] == "acme:c"


def test_a_hook_of_a_later_version_may_be_marked_optional(write_plugin) -> None:
    key = write_plugin(
        "acme",
        "@hookimpl(optionalhook=True)\ndef coreframe_future(): return {}\n"
        + loss_table('"one": "acme:One"'),
    )
    assert f"{key}:one" in entries()


def test_a_plugin_is_in_or_out_as_a_whole(write_plugin) -> None:
    key = write_plugin(
        "acme", loss_table('"one": "acme:One"') + "@hookimpl\ndef coreframe_miners(): 1 / 0"
    )
    assert f"{key}:one" in entries()
    refused(key, "miners")
    assert f"{key}:one" not in entries()


def test_what_it_did_is_kept_from_its_import_to_its_hooks(write_plugin) -> None:
    source = """
import gc, sys
sys.setrecursionlimit(5000)
@hookimpl
def coreframe_miners():
    gc.disable()
    return {}
"""
    key = write_plugin("acme", source)
    with pytest.warns(PluginWarning) as caught:
        entries("miners")
    assert plugin(key).deeds == (
        "it changed the recursion limit, which is put back; "
        "it changed garbage collection, which is put back"
    )
    assert [str(x.message).partition(": ")[0] for x in caught] == [
        f"plugin {key} 1.0, at import", f"plugin {key} 1.0, in coreframe_miners",
    ]  # fmt: skip


def test_two_plugins_may_give_their_entry_point_one_name(write_plugin) -> None:
    """Even that of our own: pluggy's loader would drop the later one without a word."""
    write_plugin("acme", loss_table('"one": "acme:One"'), entry="coreframe_losses")
    write_plugin("other", loss_table('"two": "other:Two"'), entry="coreframe_losses")
    found = entries()
    assert "acme/coreframe_losses:one" in found
    assert "other/coreframe_losses:two" in found
    assert "coreframe-ml/coreframe_losses:info_nce" in found


def test_the_remains_of_a_failed_installation_do_no_harm(write_plugin) -> None:
    write_plugin("acme", loss_table('"one": "acme:One"'), metadata=False)
    assert "acme/acme:one" in entries()
    assert plugin("acme/acme").version == "1.0"  # as its folder says


def test_a_stand_in_for_a_library_does_no_harm(write_plugin, monkeypatch) -> None:
    """Programs put an empty module in the place of one that they do without."""
    for library in ("numpy", "torch", "jax"):
        monkeypatch.setitem(sys.modules, library, types.ModuleType(library))
    key = write_plugin("acme", loss_table('"one": "acme:One"'))
    assert f"{key}:one" in entries()


def test_an_interrupt_is_passed_on(write_plugin) -> None:
    write_plugin("acme", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.registry()


def test_a_slow_import_is_named_and_its_time_is_told(write_plugin, monkeypatch, caplog) -> None:
    """The plugin waits until it has been named, however busy the machine is."""
    monkeypatch.setattr(isolation, "SLOW_SECONDS", 0.1)
    source = f"""
import threading
[x.join() for x in threading.enumerate() if x.name == {process_state.TIMER!r}]
"""
    key = write_plugin("acme", source + loss_table('"one": "acme:One"'))
    with pytest.warns(PluginWarning, match=f"plugin {key} 1.0 is still importing after 0.1 s; CO"):
        registry.registry()
    assert re.fullmatch(rf"plugin {key} 1\.0 took \d+\.\d s to import", caplog.messages[-1])
    assert plugin(key).seconds >= 0.1
    assert f"{key}:one" in entries()


# Settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "on"),
    [
        (None, {"acme", "other"}),
        ("", set()),
        ("none", set()),
        ("acme", {"acme"}),
        (" acme , other ", {"acme", "other"}),
        ("acme/acme", {"acme"}),
        ("-acme", {"other"}),
        ("-acme/acme", {"other"}),
        ("-acme,-other", set()),
        ("acme,-other", {"acme"}),
    ],
)
def test_the_variable_chooses_plugins(write_plugin, monkeypatch, setting, on) -> None:
    write_plugin("acme", loss_table('"one": "acme:One"'))
    write_plugin("other", loss_table('"one": "other:One"'))
    if setting is not None:
        monkeypatch.setenv("COREFRAME_PLUGINS", setting)
    found = [p for p in registry.registry().plugins if p.state == "loaded"]
    assert {p.distribution for p in found} == on | {"coreframe-ml"}
    assert all(p.state in ("loaded", "off") for p in registry.registry().plugins)
    assert ("acme" in sys.modules) is ("acme" in on)  # what is off is not even imported


def test_a_built_in_plugin_can_be_switched_off_by_its_name(write_plugin, monkeypatch) -> None:
    monkeypatch.setenv("COREFRAME_PLUGINS", "-coreframe_miners")
    assert entries("miners") == []
    assert entries("losses")


def test_a_misspelt_name_in_the_variable_is_said(write_plugin, monkeypatch) -> None:
    write_plugin("acme", loss_table('"one": "acme:One"'))
    monkeypatch.setenv("COREFRAME_PLUGINS", "-acm")
    with pytest.warns(PluginWarning, match="names 'acm', which is not installed. Did you mean"):
        registry.registry()


def test_a_misspelt_group_is_said_where_the_plugin_is_named(write_plugin, monkeypatch) -> None:
    write_plugin("acme-losses", loss_table('"one": "acme_losses:One"'), group="coreframes")
    what = "is installed and has no entry point of the group 'coreframe', only of 'coreframes'"
    with pytest.raises(UnknownName, match=f"'acme-losses'. The distribution {what}"):
        target.suites("acme-losses")
    monkeypatch.setenv("COREFRAME_PLUGINS", "-acme-losses")
    registry.reset()
    with pytest.warns(PluginWarning, match=f"names 'acme-losses', which {what}"):
        registry.registry()


@pytest.mark.parametrize("source", ["import nowhere", "@hookimpl\ndef coreframe_losses(): 1 / 0"])
def test_strict_raises(write_plugin, monkeypatch, source: str) -> None:
    write_plugin("acme", source)
    monkeypatch.setenv("COREFRAME_STRICT", "1")
    with pytest.raises(PluginError, match=r"plugin acme/acme 1\.0 was left out: "):
        entries()


# Names --------------------------------------------------------------------------------------


def test_a_name_offered_twice_is_an_error_only_when_it_is_used(write_plugin) -> None:
    write_plugin("acme", loss_table('"info_nce": "acme:One", "one": "coreframe:Mined"'))
    assert len(entries()) == len(set(entries()))
    assert registry.registry().find("losses", "one").name == "one"
    with pytest.raises(AmbiguousName) as caught:
        build("losses", "info_nce")
    assert str(caught.value) == (
        "'info_nce' is offered by several plugins; write one of: "
        "coreframe-ml/coreframe_losses:info_nce (version 0.1.0), acme/acme:info_nce (version 1.0)"
    )
    for name in ("coreframe-ml:info_nce", "coreframe-ml/coreframe_losses:info_nce"):
        assert build("losses", name, temperature=0.2).temperature == 0.2
    assert registry.registry().find("losses", "acme:info_nce").target == "acme:One"


def test_the_qualified_name_works_without_a_clash(write_plugin) -> None:
    assert type(build("losses", "coreframe-ml:info_nce")).__name__ == "InfoNCE"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("info_nec", "no loss is named 'info_nec'. Did you mean 'info_nce'?"),
        ("coreframe-ml:info_nec", "Did you mean 'coreframe-ml:info_nce'"),
        ("zzz", "no loss is named 'zzz'. Known: contrastive, "),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(write_plugin, name: str, words: str) -> None:
    with pytest.raises(UnknownName) as caught:
        build("losses", name)
    assert words in str(caught.value)


def test_an_unknown_name_tells_of_plugins_that_failed(write_plugin) -> None:
    write_plugin("acme", "import nowhere")
    with (
        pytest.warns(PluginWarning),
        pytest.raises(UnknownName, match=r"\(Left out because they failed: acme/acme 1\.0\.\)"),
    ):
        build("losses", "one")


def test_an_unknown_kind_gets_the_nearest_one(write_plugin) -> None:
    with pytest.raises(UnknownName, match=r"no kind of component 'loses'\. Did you mean 'losses'"):
        build("loses", "info_nce")


def test_an_error_on_import_says_whose_it_is(write_plugin) -> None:
    write_plugin("acme", loss_table('"one": "acme:One"'))
    with pytest.raises(ImportError, match="module 'acme' has no attribute 'One'") as caught:
        build("losses", "one")
    assert caught.value.__notes__ == ["while loading 'one' (acme:One) of acme 1.0"]


def test_the_text_of_an_error_is_not_taken_for_advice(write_plugin) -> None:
    source = "def __getattr__(name): raise ValueError('one; two')\n"
    write_plugin("acme", loss_table('"one": "acme:One"') + source)
    with pytest.raises(ValueError, match="one; two") as caught:
        build("losses", "one")
    assert caught.value.__notes__[0] == "while loading 'one' (acme:One) of acme 1.0"


def test_unknown_and_missing_parameters_are_named(write_plugin) -> None:
    with pytest.raises(ArgumentError) as caught:
        build("losses", "info_nce", temprature=0.1, width=3)
    assert "info_nce takes no parameter 'temprature'. Did you mean 'temperature'?" in str(
        caught.value
    )
    assert "info_nce takes no parameter 'width'. It takes: " in str(caught.value)
    with pytest.raises(ArgumentError, match="constant needs 'value'"):
        build("schedulers", "constant")


# Kernels and threads ------------------------------------------------------------------------


def test_kernels_of_others_come_with_the_first_use_of_the_registry(write_plugin) -> None:
    write_plugin("acme", "@hookimpl\ndef coreframe_kernels(backend): return {'acme:a': 'acme:top'}")
    assert "acme:a" not in registry.kernel_table("numpy")
    assert "acme" not in sys.modules
    registry.registry()
    assert registry.kernel_table("numpy")["acme:a"] == "acme:top"


def test_our_operations_take_kernels_from_us_alone(write_plugin) -> None:
    ours = dict(registry.kernel_table("numpy"))
    write_plugin(
        "acme",
        f"@hookimpl\ndef coreframe_kernels(backend): return dict.fromkeys({list(ours)}, 'acme:x')",
    )
    registry.reset()
    with pytest.warns(PluginWarning, match="only coreframe itself may; it is not used") as caught:
        assert registry.registry().kernels("numpy") == ours
    assert len(caught) == len(ours)


def test_many_threads_get_one_registry(write_plugin) -> None:
    """Each plugin is imported once, and a broken one warned of once."""
    write_plugin("acme", "import time\ntime.sleep(0.05)\nraise RuntimeError('no')")
    start = threading.Barrier(16)
    found: list[tuple[int, int]] = []

    def ask() -> None:
        start.wait()
        one = registry.registry()
        found.append((id(one), len(one.entries("losses"))))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert len(caught) == 1


def test_a_callback_by_name_follows_a_run(write_plugin) -> None:
    write_plugin(
        "acme",
        "from coreframe.callbacks import Callback\n"
        "seen = []\n"
        "class Watch(Callback):\n"
        "    def on_end(self, run): seen.append(run.epochs)\n"
        "@hookimpl\n"
        "def coreframe_callbacks(): return {'watch': 'acme:Watch'}",
    )
    registry.reset()
    x = np.random.default_rng(0).standard_normal((8, 4))
    coreframe.fit(coreframe.Pairs(x, x), epochs=2, callbacks=["watch"])
    assert importlib.import_module("acme").seen == [2]


# Hooks over time ----------------------------------------------------------------------------

RETIRED_HOOK = "@hookimpl\ndef coreframe_criteria(): return {'one': 'acme:One'}\n"


@pytest.fixture
def retired(monkeypatch) -> None:
    entry = Retired(now="coreframe_losses", until="0.2")
    monkeypatch.setitem(RETIRED, "coreframe_criteria", entry)


def test_a_retired_hook_still_works_and_warns(write_plugin, retired) -> None:
    key = write_plugin("acme", RETIRED_HOOK)
    with pytest.warns(DeprecationWarning, match="coreframe_criteria") as caught:
        found = entries()
    assert f"{key}:one" in found
    assert plugin(key).kinds == ["losses"]
    assert [str(warning.message) for warning in caught] == [
        f"plugin {key} 1.0 implements 'coreframe_criteria', which is 'coreframe_losses' now; "
        "the old name is not called any more from coreframe 0.2 on"
    ]


def test_a_plugin_may_offer_the_old_and_the_new_hook(write_plugin, retired) -> None:
    """It serves two versions, and is asked by the new name, without a warning."""
    key = write_plugin("acme", RETIRED_HOOK + loss_table('"two": "acme:Two"'))
    assert f"{key}:two" in entries()
    assert f"{key}:one" not in entries()


def test_a_hook_that_was_never_one_is_unknown(write_plugin) -> None:
    assert "unknown hook 'coreframe_criteria'" in refused(write_plugin("acme", RETIRED_HOOK))


def test_a_retired_hook_that_raises_is_told_by_its_new_name(write_plugin, retired) -> None:
    key = write_plugin("acme", "@hookimpl\ndef coreframe_criteria(): return 3")
    with (
        pytest.warns(DeprecationWarning, match="coreframe_criteria"),
        pytest.warns(PluginWarning, match="coreframe_losses must return"),
    ):
        entries()
    assert plugin(key).state == "failed"


# Whose error it is --------------------------------------------------------------------------


def test_a_module_belongs_to_the_plugin_with_the_longest_common_name(write_plugin) -> None:
    one = write_plugin("acme", loss_table('"one": "shared.first.losses:One"'))
    two = write_plugin("other", loss_table('"two": "shared.second:Two", "j": "json:loads"'))
    entries()
    owner = registry.registry().owner
    assert owner("shared.first.losses").key == one
    assert owner("shared.first.helpers").key == one
    assert owner("shared.second.deep.inside").key == two
    assert owner("other").key == two
    for module in ("json", "json.decoder", "coreframe.loss", "numpy", "sharedx", "__main__"):
        assert owner(module) is None


LACKING = """
from dataclasses import dataclass
from coreframe import PairwiseLoss
@dataclass(frozen=True, kw_only=True)
class One(PairwiseLoss):
    pass
"""


def test_a_class_that_lacks_a_method_is_named(write_plugin) -> None:
    """Python's error comes from no code of the plugin."""
    write_plugin("acme", LACKING + loss_table('"one": "acme:One"'))
    with pytest.raises(TypeError, match="row_terms") as caught:
        build("losses", "one")
    assert caught.value.__notes__ == ["while making 'one' of acme 1.0"]
    words = r"losses\[0\].name: 'one' of acme 1.0 lacks the method row_terms"
    with pytest.raises(ConfigError, match=words):
        config.parse({"losses": [{"name": "one"}]})


def test_what_is_not_finite_names_the_plugin(write_plugin) -> None:
    rows = "    def row_terms(self, s, p, n): return s[:, 0] * float('nan'), s * float('nan')"
    write_plugin("acme", LACKING.replace("    pass", rows) + loss_table('"one": "acme:One"'))
    x = np.random.default_rng(0).standard_normal((8, 4))
    run = coreframe.fit(coreframe.Pairs(x, x), epochs=1, loss="one")
    words = "value and gradient of One (acme) of plugin acme/acme 1.0 are NaN or infinite"
    assert words in run.findings[0]


def test_an_error_of_ours_gets_no_note(write_plugin) -> None:
    write_plugin("acme", loss_table('"one": "acme:One"'))
    entries()
    with pytest.raises(ZeroDivisionError) as caught, registry.naming_plugins():
        1 / 0  # noqa: B018
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(SystemExit), registry.naming_plugins():
        sys.exit(3)


def test_a_callback_that_fails_is_left_out_by_name(write_plugin) -> None:
    write_plugin(
        "acme",
        "from coreframe.callbacks import Callback\n"
        "class Watch(Callback):\n"
        "    def on_step(self, status): 1 / 0\n"
        "@hookimpl\n"
        "def coreframe_callbacks(): return {'watch': 'acme:Watch'}",
    )
    x = np.random.default_rng(0).standard_normal((8, 4))
    words = r"the callback Watch failed in on_step.* in plugin acme/acme 1\.0 \(acme.py:4\)"
    with pytest.warns(PluginWarning, match=words):
        coreframe.fit(coreframe.Pairs(x, x), epochs=1, callbacks=["watch"])


def test_exit_in_a_component_is_an_error_and_an_interrupt_is_none(write_plugin) -> None:
    source = "import sys\nclass One:\n    def __init__(self, how): raise how\n"
    write_plugin("acme", source + loss_table('"one": "acme:One"'))
    with pytest.raises(PluginError, match=r"plugin acme/acme 1\.0 failed: SystemExit: 0 \(acme.p"):
        build("losses", "one", how=SystemExit(0))
    with pytest.raises(KeyboardInterrupt):
        build("losses", "one", how=KeyboardInterrupt())
    with pytest.raises(ValueError, match="no") as caught:
        build("losses", "one", how=ValueError("no"))
    assert caught.value.__notes__ == ["in plugin acme/acme 1.0 (acme.py:4)"]
