"""The fast proofs: which of them a mutant is shown, in which order, and what came of it."""
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time


@dataclasses.dataclass(frozen=True)
class Proof:
    """Tests of one test program. Those that catch most in the shortest time come first: a mutant that is caught is not shown the rest."""

    name: str
    words: tuple
    environment: tuple = ()
    # Tests with these in their names are left out.
    without: tuple = ()
    # `--lib`, or the name of a file in tests/.
    program: str = "--lib"
    # What takes more of a processor does not end by itself: it is caught.
    cpu_s: int = 60
    # How long it takes at most on a machine that has other things to do; the same.
    limit_s: int = 300


CONFORMANCE = ("every", "claims", "refused", "foreign")
SCRIPTS = Proof("scripts", tuple(f"store::conformance::{name}" for name in CONFORMANCE))
LIVES_BY_SCRIPTS = Proof("model of the scripts", ("store::conformance::the_model",))
DAYS = Proof("days", ("proxy::simulation::no_day",), (("LOCKGATE_DAYS", "40"),), cpu_s=300, limit_s=600)
FOR_LUA = [SCRIPTS, LIVES_BY_SCRIPTS, DAYS]

UNITS = Proof("unit tests", ("locks::", "store::", "coordinator::"), without=("simulation", "conformance"))
FEW_LIVES = Proof("lives", ("locks::simulation",), (("LOCKGATE_SEEDS", "300"),))
FEW_DAYS = Proof("days", ("proxy::simulation",), (("LOCKGATE_DAYS", "15"),))
# What CI plays of lives and days.
LIVES = Proof("more lives", ("locks::simulation",), cpu_s=120)
MORE_DAYS = Proof("more days", ("proxy::simulation::no_day",), cpu_s=300, limit_s=900)


def for_rust(file, is_brief):
    """What a change of that file is shown: whatever runs it."""
    of_scripts, of_lives = [SCRIPTS, LIVES_BY_SCRIPTS] * ("/store/" in file), [FEW_LIVES] * ("/locks/" in file)
    whole = [] if is_brief else [LIVES] * ("/locks/" in file) + [MORE_DAYS]
    return [UNITS, *of_scripts, *of_lives, FEW_DAYS, *whole]


# Tests of the whole program on real servers, by what they are about.
OF_ALL = ("locks_family", "locks_queue", "locks_release")
WITH_SERVERS = {
    "src/coordinator/deadlock": ("deadlocks",),
    "src/coordinator/nodes": ("locks_nodes", "locks_order"),
    "src/coordinator/peers": ("locks_nodes", "locks_order"),
    "src/coordinator/queue": ("locks_queue", "locks_nodes", "locks_family"),
    "src/coordinator/watch": ("locks_hints", "locks_nodes", "upstream_misfit"),
    "src/coordinator/bound": ("locks_upstream", "locks_family"),
    "src/coordinator/set_nx": ("set_nx", "set_nx_queue"),
    "src/coordinator/house": ("locks_nodes", "locks_crash"),
}


def with_servers(file):
    """What a change of that file is shown that no fast proof notices."""
    programs = next((programs for place, programs in WITH_SERVERS.items() if file.startswith(place)), OF_ALL)
    return [Proof(program, (), program=program, cpu_s=300) for program in programs]


@dataclasses.dataclass(frozen=True)
class Outcome:
    # The proof that failed; none where all passed.
    caught_by: str | None
    seconds: float
    # What the proof said that failed.
    told: str = ""


@dataclasses.dataclass(frozen=True)
class Built:
    """Test programs by name, or what does not compile."""

    programs: dict
    # Pairs of a file and a line.
    errors: frozenset
    # What the compiler says of it.
    told: str


def lines_of(span):
    """Where something stands that the compiler tells of, and the macros around it."""
    while span:
        yield from ((span["file_name"], number) for number in range(span["line_start"], span["line_end"] + 1))
        span = span["expansion"] and span["expansion"]["span"]


def built(folder, environment, programs):
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json"]
    for program in programs:
        command += ["--lib"] if program == "--lib" else ["--test", program]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    paths, errors, told = {}, set(), []
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            kind = message["target"]["kind"]
            paths["--lib" if "lib" in kind else message["target"]["name"]] = message["executable"]
        elif message.get("reason") == "compiler-message" and message["message"]["level"] == "error":
            told.append(message["message"]["rendered"])
            for span in message["message"]["spans"]:
                errors.update(lines_of(span) if span["is_primary"] else [])
    if done.returncode and not errors:
        sys.exit("the tree does not build:\n" + "\n".join(told) + done.stderr)
    return Built(paths, frozenset(errors) if done.returncode else frozenset(), "\n".join(told))


# A change may make a loop fill all memory there is.
MEMORY_MAX = 8 << 30


def passes(proof, programs, folder, environment):
    """Whether its tests pass, whether they ended by themselves, and what they said. Whatever they have begun ends with them."""
    told = tempfile.TemporaryFile()
    environment = dict(environment, RUST_BACKTRACE="0", **dict(proof.environment))

    def bounded():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
        resource.setrlimit(resource.RLIMIT_CPU, (proof.cpu_s, proof.cpu_s))

    child = subprocess.Popen(
        [programs[proof.program], "--quiet", *proof.words, *(f"--skip={word}" for word in proof.without)],
        cwd=folder, env=environment, start_new_session=True, preexec_fn=bounded,
        stdin=subprocess.DEVNULL, stdout=told, stderr=told,
    )
    status = None
    try:
        status = child.wait(timeout=proof.limit_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
    told.seek(0)
    has_ended = status not in (None, -signal.SIGXCPU, -signal.SIGKILL)
    return status == 0, has_ended, told.read().decode(errors="replace")


def shown_to(proofs, programs, folder, environment):
    began = time.monotonic()
    for proof in proofs:
        has_passed, has_ended, told = passes(proof, programs, folder, environment)
        if not has_passed:
            return Outcome(proof.name if has_ended else f"{proof.name} (no end)", time.monotonic() - began, told)
    return Outcome(None, time.monotonic() - began)
