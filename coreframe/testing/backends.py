"""What a backend promises, and how each promise is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from coreframe import backend as selector
from coreframe import registry
from coreframe.backend import Backend, device_of, library_name, library_of
from coreframe.batch import Batch
from coreframe.errors import BackendUnavailable, UnknownName, nearest
from coreframe.testing import arrays, checks, kit
from coreframe.testing.checks import Check, NotApplicable, Promise, difference
from coreframe.testing.kernel_inputs import OPERATIONS, Call
from coreframe.testing.process import Footprint
from coreframe.testing.shared import SHARED
from coreframe.testing.standard import FUNCTIONS, OPERATORS
from coreframe.testing.suites import Suite

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int8", "bool")
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
NOWHERE = "no-such-device"
METHODS = ("missing", "asarray", "to_numpy", "synchronize", "memory")
MEMBERS = ("name", "xp", "device", *METHODS)
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
    return list(Suite("backend", "", PROMISES, lambda: Subject(backend)).run())


def is_backend(x: Any) -> bool:
    """Say whether a class or an object has the methods of ``coreframe.Backend``."""
    return all(callable(getattr(x, name, None)) for name in METHODS)


class Subject(kit.Subject):
    """A backend's class, and the backend that is made of it."""

    base = Backend

    def __init__(self, component: str | type[Backend] | Backend) -> None:
        self.device_text = ""
        self.registered = ""
        if isinstance(component, str):
            self.registered, _, self.device_text = component.partition(":")
            component = _class_of(self.registered)
        super().__init__(component)
        self.kind: Any = component if isinstance(component, type) else type(component)

    @cached_property
    def made(self) -> Any:
        """The backend, whether it can run here or not."""
        given = self.component
        return given if not isinstance(given, type) else given(self.device_text)

    @property
    def backend(self) -> Any:
        """The backend, if it can run here."""
        if reason := self.made.missing():
            raise NotApplicable(f"it cannot run here: {reason}")
        return self.made

    def has(self, dtype: str) -> bool:
        """Say whether the library has a dtype: JAX has float64 only where it is switched on."""
        wanted = getattr(self.backend.xp, dtype, None)
        if wanted is None:
            return False
        try:
            return bool(self.backend.xp.zeros(1, dtype=wanted).dtype == wanted)
        except (TypeError, ValueError, RuntimeError):
            return False

    @cached_property
    def floats(self) -> list[str]:
        return [dtype for dtype in ("float64", "float32") if self.has(dtype)]

    @property
    def compiles(self) -> bool:
        """Whether every new shape and dtype takes long, so that one dtype must do."""
        return library_name(self.backend.xp) == "jax"

    @cached_property
    def dtypes(self) -> list[str]:
        return [dtype for dtype in DTYPES if self.has(dtype)]

    def here(self, x: Any, what: str) -> Iterator[str]:
        """Yield a sentence if an array is of another library or device than the backend's."""
        if not selector.is_array(x):
            yield f"{what} is {type(x).__name__}, no array"
        elif library_of(x) != library_name(self.backend.xp):
            yield f"{what} is an array of {library_of(x)}"
        elif device_of(x) != self.backend.device:
            yield f"{what} is on the device {device_of(x)}, the backend on {self.backend.device}"

    @cached_property
    def footprint(self) -> Footprint:
        _ = self.backend  # where it cannot run, that is no fault
        return super().footprint

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        backend = self.backend if component is self.component else self.kind(self.device_text)
        rng = np.random.default_rng(41 + variant)
        x, y = (backend.asarray(rng.standard_normal((5, 3)).astype(np.float32)) for _ in range(2))
        backend.synchronize()
        backend.memory()
        return {"x": backend.to_numpy(x), "x + y": backend.to_numpy(x + y)}


def _class_of(name: str) -> type[Backend]:
    """Return the class of a registered backend."""
    try:
        found: type[Backend] = registry.registry().find("backends", name).load()
    except UnknownName:
        known = [entry.name for entry in registry.registry().entries("backends")]
        raise UnknownName(f"no backend is named {name!r}.{nearest(name, known)}") from None
    return found


def _samples(dtype: str) -> dict[str, Any]:
    """Return NumPy arrays of one dtype in every form that memory has."""
    rng = np.random.default_rng(42)
    whole = rng.integers(0, 2 if dtype == "bool" else 100, (4, 6))
    x = (whole if np.dtype(dtype).kind in "ib" else whole / 7 - 5).astype(dtype)
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "ordinary": x,
        "0-d": x[1, 1].reshape(()),
        "empty": x[:0],
        "without columns": x[:, :0],
        "transposed": x.T,
        "every second column": x[:, ::2],
        "backwards": x[::-1],
        "read-only": read_only,
    }


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
        for form, x in _samples(dtype).items():
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
    plain = _samples("float32")["ordinary"]
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
    plain = _samples("float32")["ordinary"]
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
    for form, x in _samples("float32").items():
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
    x = backend.asarray(_samples("float32")["ordinary"])
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
    plain = _samples("float32")["ordinary"].copy()
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


# Computing ----------------------------------------------------------------------------------


def _arguments(backend: Any, dtype: str) -> SimpleNamespace:
    """Return what functions of the standard are called with."""
    rng = np.random.default_rng(43)
    x = rng.standard_normal((3, 4)).astype(dtype)
    place: Callable[[Any], Any] = (lambda a: a) if backend is None else backend.asarray
    return SimpleNamespace(
        x=place(x),
        y=place(rng.standard_normal((3, 4)).astype(dtype)),
        p=place(np.abs(x) + np.asarray(0.5, dtype)),
        v=place(np.sort(x[0])),
        m=place(x > 0),
        i=place(np.asarray([[3, 0], [1, 1], [2, 3]], np.int64)),
        rows=place(np.asarray([2, 0, 2], np.int64)),
        odd=place(np.asarray([[np.nan, np.inf, -np.inf, 1.0]], dtype)),
        device=None if backend is None else backend.device,
    )


def agree(subject: Subject, calls: dict[str, Callable[[Any, Any], Any]]) -> Iterator[str]:
    """Yield a sentence for each call whose result is not NumPy's."""
    import array_api_compat.numpy as numpy_xp

    for dtype in subject.floats[:1] if subject.compiles else subject.floats:
        ours, theirs = _arguments(subject.backend, dtype), _arguments(None, dtype)
        theirs.device = "cpu"
        for what, call in calls.items():
            try:
                got = call(subject.backend.xp, ours)
            except Exception as error:
                yield f"{what}, {dtype}: {checks.explain(error)}"
                continue
            wanted = np.asarray(call(numpy_xp, theirs))
            yield from subject.here(got, f"{what}, {dtype}")
            back = np.asarray(subject.backend.to_numpy(got))
            if back.shape != wanted.shape:
                yield f"{what}, {dtype} has shape {back.shape}, expected {wanted.shape}"
            elif back.dtype.kind != wanted.dtype.kind:
                yield f"{what}, {dtype} returns {back.dtype}, expected {wanted.dtype}"
            elif not np.allclose(back, wanted, TOLERANCE[dtype], TOLERANCE[dtype], equal_nan=True):
                yield f"{what}, {dtype} has other values than NumPy"


@checks.promise(
    PROMISES,
    "Every function of the standard that components use gives what NumPy's gives.",
    fix="Wrap the function in the namespace, as array_api_compat does for others, so that it takes "
    "the arguments of the standard.",
    needs=("construction",),
)
def functions(subject: Subject) -> Iterator[str]:
    yield from agree(subject, FUNCTIONS)


@checks.promise(
    PROMISES,
    "Operators and indices give what NumPy's give, and keep the dtype beside plain numbers.",
    fix="Let arrays have the operators of the standard; a Python number takes the array's dtype.",
    needs=("construction",),
)
def operators(subject: Subject) -> Iterator[str]:
    yield from agree(subject, OPERATORS)
    for dtype in subject.floats:
        x = _arguments(subject.backend, dtype).x
        for what, got in (("x + 1", x + 1), ("2.0 * x", 2.0 * x), ("x / 3", x / 3)):
            if got.dtype != x.dtype:
                yield f"{what} is {got.dtype} where x is {x.dtype}"


@checks.promise(
    PROMISES,
    "The core's operations run on it and give what they give on NumPy.",
    fix="Compare the functions of the standard that the operation named here is written with.",
    needs=("construction",),
)
def operations(subject: Subject) -> Iterator[str]:
    dtype = subject.floats[0]
    for name, (op, calls) in OPERATIONS.items():
        call = max(filter(_is_small, calls(np.dtype(dtype))), key=_entries)
        yield from _operation(subject, name, op.reference, call, dtype)


def _entries(call: Call) -> int:
    return max(x.size for x in call.args if isinstance(x, np.ndarray))


def _is_small(call: Call) -> bool:
    """Say whether a call tells something and is quick: some rows and columns, not thousands."""
    return _entries(call) < 250 and all(x.size for x in call.args if isinstance(x, np.ndarray))


def _operation(
    subject: Subject, name: str, reference: Callable[..., Any], call: Call, dtype: str
) -> Iterator[str]:
    place, keywords = subject.backend.asarray, dict(call.keywords)
    theirs = [np.array(x) if isinstance(x, np.ndarray) else x for x in call.args]
    ours = [place(np.array(x)) if isinstance(x, np.ndarray) else x for x in call.args]
    where = f"{name} of {call.where}, {dtype}"
    try:
        found = reference(*ours, **keywords)
    except Exception as error:
        yield f"{where}: {checks.explain(error)}"
        return
    wanted = reference(*theirs, **keywords)
    found, wanted = (call.seen(x) if call.seen else x for x in (found, wanted))
    for got, expected in zip(_parts(found), _parts(wanted), strict=True):
        if selector.is_array(got):
            yield from subject.here(got, where) if not call.seen else ()
            got = subject.backend.to_numpy(got) if not call.seen else got
        if isinstance(got, str) or np.asarray(got).dtype.kind in "bi":
            same = np.array_equal(got, expected)
        else:
            same = difference(got, expected) <= TOLERANCE[dtype]
        if not same:
            yield f"{where} differs from NumPy's"


def _parts(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


@checks.promise(
    PROMISES,
    "An adapter learns on it what it learns on NumPy: loss, gradients and optimizer, three steps.",
    fix="Mend what the promises above name first; then compare one step with NumPy's in float64.",
    needs=("construction",),
)
def training(subject: Subject) -> Iterator[str]:
    dtype = subject.floats[0]
    got, wanted = _learned(subject.backend, dtype), _learned(None, dtype)
    for step, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        if difference(ours, theirs, 1e-3) > 10 * TOLERANCE[dtype]:
            yield f"{dtype}: the parameters after step {step + 1} are others"
            return


def _learned(backend: Any, dtype: str) -> list[Any]:
    """Return the parameters of a linear adapter after each of three steps."""
    rng = np.random.default_rng(44)
    place: Callable[[Any], Any] = np.asarray if backend is None else backend.asarray
    leave: Callable[[Any], Any] = np.asarray if backend is None else backend.to_numpy
    queries, documents = (rng.standard_normal((8, 5)).astype(dtype) for _ in range(2))
    built = registry.build
    adapter, loss = (
        built("adapters", "coreframe-ml:linear"),
        built("losses", "coreframe-ml:info_nce"),
    )
    optimizer = built("optimizers", "coreframe-ml:adamw", learning_rate=0.1)
    start = adapter.init(np.random.default_rng(45), 5)
    params = {name: place(np.asarray(x, dtype)) for name, x in start.items()}
    state, x, y = optimizer.init(params), place(queries), place(documents)
    found = []
    for _ in range(3):
        moved, pullback = adapter.forward(params, x)
        result = loss.value_and_grad(Batch.pairs(moved, y))
        grads, _ = pullback(result.grads["anchors"])
        params, state = optimizer.update(params, grads, state)
        found.append(np.concatenate([np.ravel(leave(p)) for p in params.values()]))
    return found


PROMISES += [promise for promise in SHARED if promise.name not in OF_FIELDS]
KIT = kit.Kit("backends", Backend, Subject, PROMISES)
