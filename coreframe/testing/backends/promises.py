"""What a backend promises, and how each promise is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from coreframe import backend as selector
from coreframe.backend import Backend, library_name
from coreframe.errors import BackendUnavailable
from coreframe.testing import arrays, checks, kit
from coreframe.testing.backends import computing
from coreframe.testing.backends.standard import FUNCTIONS
from coreframe.testing.backends.subject import (
    MEMBERS,
    METHODS,
    NOWHERE,
    TOLERANCE,
    Subject,
    samples,
)
from coreframe.testing.checks import Check, NotApplicable, Promise, difference
from coreframe.testing.shared import SHARED

OF_FIELDS = (
    "form",
    "copies",
    "representation",
    "configuration",
    "presets",
    "documentation",
    "examples",
)
"""Promises of dataclasses, which a backend need not be."""

PROMISES: list[Promise] = []


def check_backend(backend: str | type[Backend] | Backend) -> list[Check]:
    """Check all promises of a backend, on the device that is given.

    ``backend`` is a registered name ("numpy", "torch:cuda"), a class, which is made for its default
    device, or a backend itself. Takes some seconds. Where the backend cannot run on this machine,
    what needs it is not checked.
    """
    return list(KIT.suite(backend).run())


def is_backend(x: Any) -> bool:
    """Say whether a class or an object has the methods of ``coreframe.Backend``."""
    return all(callable(getattr(x, name, None)) for name in METHODS)


# Made and asked -----------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Its class is made with a device text, or none, and has all that coreframe.Backend names.",
    fix="Write __init__(self, device: str = '') that imports nothing and keeps the text; name, xp "
    "and device; missing, asarray, to_numpy, synchronize and memory.",
)
def construction(subject: Subject) -> Iterator[str]:
    for member in MEMBERS:
        if not hasattr(subject.kind, member) and not (
            member in ("name", "device", "xp") and member in vars(subject.made)
        ):
            yield f"{subject.kind.__name__} has no {member}"
    for arguments in ((), ("",)):
        subject.kind(*arguments)


@checks.promise(
    PROMISES,
    "Its name is the one that selects it: a lower-case word.",
    fix="Set name to the key of the table that coreframe_backends returns: letters a-z, digits, _.",
    needs=("construction",),
)
def name(subject: Subject) -> Iterator[str]:
    found = subject.made.name
    if not isinstance(found, str) or not found.isidentifier() or found != found.lower():
        yield f"name is {found!r}"
    elif subject.registered and found != subject.registered.rpartition("/")[2]:
        yield f"it is registered as {subject.registered!r}, and calls itself {found!r}"


@checks.promise(
    PROMISES,
    "missing() returns None, or a sentence that says what is not here; it never raises.",
    fix="Look with importlib.util.find_spec, and turn the library's own errors about devices into "
    "a text that says what to install.",
    needs=("construction",),
)
def missing(subject: Subject) -> Iterator[str]:
    first, again = subject.made.missing(), subject.made.missing()
    if first is not None and (not isinstance(first, str) or not first.strip()):
        yield f"missing() returns {first!r}"
    if first != again:
        yield f"missing() returns {first!r}, and then {again!r}"


@checks.promise(
    PROMISES,
    "A device that is not there is an error that names it, not a silent change to another.",
    fix="Raise coreframe.errors.BackendUnavailable in __init__ for a text that cannot be a device, "
    "and return a text from missing() for a device that is not there; put the text into both.",
    needs=("construction",),
)
def unknown_device(subject: Subject) -> Iterator[str]:
    _ = subject.backend
    try:
        reason = subject.kind(NOWHERE).missing()
    except BackendUnavailable as error:
        reason = str(error)
    if reason is None:
        yield f"the device {NOWHERE!r} is accepted"
    elif NOWHERE not in reason:
        yield f"the error does not name the device {NOWHERE!r}: {reason}"


@checks.promise(
    PROMISES,
    "The text of its device makes the same backend again.",
    fix="Accept in __init__ what str(device) gives, so that a run can follow the arrays it gets.",
    needs=("construction",),
)
def reopened(subject: Subject) -> Iterator[str]:
    text = str(subject.backend.device)
    again = subject.kind(text)
    if reason := again.missing():
        yield f"the device {text!r} of the backend itself cannot be used: {reason}"
    elif again.device != subject.backend.device:
        yield f"the device {text!r} gives a backend on {again.device}"


# Arrays in and out --------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "xp is the Array API namespace of its arrays, with all functions that components use.",
    fix="Return the namespace that array_api_compat knows, or the library itself if it follows the "
    "standard, 2023.12 or newer.",
    needs=("construction",),
)
def namespace(subject: Subject) -> Iterator[str]:
    xp = subject.backend.xp
    found = selector.namespace(x=subject.backend.asarray(np.zeros(2, np.float32)))
    if found is not xp:
        yield f"xp is {library_name(xp)} ({xp.__name__}), but its arrays say {found.__name__}"
    lacking = [each for each in FUNCTIONS if not callable(getattr(xp, each, None))]
    if lacking:
        yield f"xp has no {', '.join(lacking)}"
    values = ("inf", "nan", "bool", "int8", "int32", "int64", "float32", "newaxis")
    if lacking := [each for each in values if not hasattr(xp, each)]:
        yield f"xp has no {', '.join(lacking)}"


@checks.promise(
    PROMISES,
    "asarray takes numbers, booleans and nested lists.",
    fix="Send what is no array through numpy.asarray first: coreframe.backend.to_numpy does.",
    needs=("construction",),
)
def numbers(subject: Subject) -> Iterator[str]:
    xp, backend = subject.backend.xp, subject.backend
    for x, shape, kind in (
        (2.5, (), "real floating"),
        (3, (), "integral"),
        (True, (), "bool"),
        ([1.0, 2.0], (2,), "real floating"),
        ([[1, 2], [3, 4]], (2, 2), "integral"),
    ):
        got = backend.asarray(x)
        yield from subject.here(got, f"asarray({x!r})")
        if tuple(got.shape) != shape or not xp.isdtype(got.dtype, kind):
            yield f"asarray({x!r}) is {got.dtype} {tuple(got.shape)}, expected {kind} {shape}"
        elif not np.array_equal(backend.to_numpy(got), x):
            yield f"asarray({x!r}) holds {backend.to_numpy(got)}"


@checks.promise(
    PROMISES,
    "What goes in by asarray comes out by to_numpy: every dtype, shape and layout in memory.",
    fix="Keep dtype and shape; copy what the library cannot take as it is (read-only arrays, "
    "negative strides); return a numpy.ndarray, from a device by way of the host.",
    needs=("construction",),
)
def round_trip(subject: Subject) -> Iterator[str]:
    backend = subject.backend
    for dtype in subject.dtypes:
        for form, x in samples(dtype).items():
            placed = backend.asarray(x)
            yield from subject.here(placed, f"asarray of {form} {dtype}")
            back = backend.to_numpy(placed)
            if not isinstance(back, np.ndarray | np.generic):
                yield f"{form} {dtype}: to_numpy returns {type(back).__name__}"
            elif (back.dtype, back.shape) != (x.dtype, x.shape):
                yield f"{form} {dtype} {x.shape} comes back as {back.dtype} {back.shape}"
            elif not np.array_equal(back, x):
                yield f"{form} {dtype} comes back with other values"


@checks.promise(
    PROMISES,
    "to_numpy takes what the library makes: slices, transposed views, results.",
    fix="Copy to the host in a form that NumPy takes, whatever the strides.",
    needs=("construction",),
)
def views(subject: Subject) -> Iterator[str]:
    backend, xp = subject.backend, subject.backend.xp
    plain = samples("float32")["ordinary"]
    x = backend.asarray(plain)
    for what, got, wanted in (
        ("a slice", x[1:3, ::2], plain[1:3, ::2]),
        ("a transposed view", xp.matrix_transpose(x), plain.T),
        ("a sum", xp.sum(x), plain.sum()),
        ("a comparison", x > 0, plain > 0),
    ):
        back = np.asarray(backend.to_numpy(got))
        if back.shape != np.shape(wanted) or difference(back, wanted) > TOLERANCE["float32"]:
            yield f"{what} comes out wrong"


@checks.promise(
    PROMISES,
    "asarray(x, dtype=...) returns that dtype, whatever comes in.",
    fix="Pass dtype on to the library, for arrays of its own too.",
    needs=("construction",),
)
def dtype(subject: Subject) -> Iterator[str]:
    backend, xp = subject.backend, subject.backend.xp
    plain = np.asarray([[0, 1], [2, 3]], np.int64)
    own = backend.asarray(plain)
    for wanted in subject.dtypes:
        for what, x in (("a list", plain.tolist()), ("NumPy's int64", plain), ("its own", own)):
            got = backend.asarray(x, dtype=getattr(xp, wanted))
            if got.dtype != getattr(xp, wanted):
                yield f"asarray({what}, dtype={wanted}) is {got.dtype}"
            elif not np.array_equal(backend.to_numpy(got), plain.astype(wanted)):
                yield f"asarray({what}, dtype={wanted}) has other values"


@checks.promise(
    PROMISES,
    "asarray takes arrays of its own and of every other library that is installed.",
    fix="Bring foreign arrays in by coreframe.backend.to_numpy, which knows their devices.",
    needs=("construction",),
)
def other_libraries(subject: Subject) -> Iterator[str]:
    plain = samples("float32")["ordinary"]
    for library, place in {**arrays.libraries(), "itself": subject.backend.asarray}.items():
        got = subject.backend.asarray(place(plain))
        yield from subject.here(got, f"asarray of an array of {library}")
        if not np.array_equal(subject.backend.to_numpy(got), plain):
            yield f"an array of {library} changes its values"


@checks.promise(
    PROMISES,
    "Nothing that goes in is written to, and what is read-only stays so.",
    fix="Copy before the library may write: torch.from_numpy and the like share memory.",
    needs=("construction",),
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    backend = subject.backend
    for form, x in samples("float32").items():
        before, flag = x.copy(), x.flags.writeable
        placed = backend.asarray(x)
        back = backend.to_numpy(2 * placed + 1)
        if x.flags.writeable != flag or not np.array_equal(x, before):
            yield f"{form}: the array that went in was changed"
        if not np.array_equal(backend.to_numpy(placed), before):
            yield f"{form}: a result of it changed the array"
        if form == "read-only" and isinstance(back, np.ndarray) and back.flags.writeable:
            back[...] = 0
            if not np.array_equal(x, before):
                yield "what to_numpy returns shares memory with an array that is read-only"


@checks.promise(
    PROMISES,
    "Arrays come to its device and stay there through operations.",
    fix="Name the device in every call that makes an array; device is what an array of the library "
    "gives as its own.",
    needs=("construction",),
)
def device(subject: Subject) -> Iterator[str]:
    backend, xp = subject.backend, subject.backend.xp
    x = backend.asarray(samples("float32")["ordinary"])
    if problems := list(subject.here(x, "asarray(x)")):
        yield from problems
        return
    for what, got in (
        ("asarray(1.0)", backend.asarray(1.0)),
        ("x + 1", x + 1),
        ("xp.sum(x)", xp.sum(x)),
        ("x @ x.T", x @ xp.matrix_transpose(x)),
        ("xp.zeros_like(x)", xp.zeros_like(x)),
        ("xp.zeros(3, device=...)", xp.zeros(3, device=backend.device)),
        ("xp.argsort(x)", xp.argsort(x)),
    ):
        yield from subject.here(got, what)


@checks.promise(
    PROMISES,
    "synchronize() waits and returns nothing; memory() is a number of bytes.",
    fix="Return None where there is nothing to wait for, and 0 where the memory is not known.",
    needs=("construction",),
)
def clock(subject: Subject) -> Iterator[str]:
    backend = subject.backend
    if (found := backend.synchronize()) is not None:
        yield f"synchronize() returns {found!r}"
    bytes_ = backend.memory()
    if type(bytes_) is not int or bytes_ < 0:
        yield f"memory() returns {bytes_!r}"


@checks.promise(
    PROMISES,
    "Arrays go by DLPack to other libraries and come from them.",
    fix="Pass __dlpack__ and from_dlpack of the library through unchanged.",
    needs=("construction",),
)
def dlpack(subject: Subject) -> Iterator[str]:
    backend = subject.backend
    plain = samples("float32")["ordinary"].copy()
    x = backend.asarray(plain)
    if not hasattr(x, "__dlpack__") or not hasattr(backend.xp, "from_dlpack"):
        raise NotApplicable("the library has no DLPack")
    if not selector.on_host(x):
        again = backend.xp.from_dlpack(x)
    else:
        if not np.array_equal(np.from_dlpack(x), plain):
            yield "numpy.from_dlpack reads other values"
        again = backend.xp.from_dlpack(plain)
    yield from subject.here(again, "xp.from_dlpack(x)")
    if not np.array_equal(backend.to_numpy(again), plain):
        yield "xp.from_dlpack reads other values"


PROMISES += computing.PROMISES
PROMISES += [promise for promise in SHARED if promise.name not in OF_FIELDS]

KIT = kit.Kit("backends", Backend, Subject, PROMISES)
