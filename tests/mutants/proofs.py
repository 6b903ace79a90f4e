"""The fast proofs: which of them a mutant is shown, in which order, and what came of it."""
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time


@dataclasses.dataclass(frozen=True)
class Proof:
    """Tests of one test program. Those that catch most in the shortest time come first: a mutant that is caught is not shown the rest."""

    name: str
    words: tuple
    environment: tuple = ()
    # `--lib`, or the name of a file in tests/.
    program: str = "--lib"
    # How long it takes at most on a machine that has other things to do. What runs longer does not end by itself: it is caught.
    limit_s: int = 300


CONFORMANCE = ("every", "claims", "refused", "foreign")
SCRIPTS = Proof("scripts", tuple(f"store::conformance::{name}" for name in CONFORMANCE))
LIVES_BY_SCRIPTS = Proof("model of the scripts", ("store::conformance::the_model",))
DAYS = Proof("days", ("proxy::simulation::no_day",), (("LOCKGATE_DAYS", "40"),), limit_s=600)
FOR_LUA = [SCRIPTS, LIVES_BY_SCRIPTS, DAYS]


@dataclasses.dataclass(frozen=True)
class Outcome:
    # The proof that failed; none where all passed.
    caught_by: str | None
    seconds: float


def built(folder, environment, programs, is_quick=False):
    """Builds test programs, quick ones where they run for long, and returns their paths by name."""
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json"]
    if is_quick:
        command += ["--config", "profile.dev.package.lockgate.opt-level=1"]
    for program in programs:
        command += ["--lib"] if program == "--lib" else ["--test", program]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the tree does not build")
    paths = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            kind = message["target"]["kind"]
            paths["--lib" if "lib" in kind else message["target"]["name"]] = message["executable"]
    return paths


def passes(proof, programs, folder, environment):
    """Whether its tests pass in time. Whatever it has begun ends with it."""
    environment = dict(environment, RUST_BACKTRACE="0", **dict(proof.environment))
    child = subprocess.Popen(
        [programs[proof.program], "--quiet", *proof.words], cwd=folder, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        return child.wait(timeout=proof.limit_s) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()


def shown_to(proofs, programs, folder, environment):
    began = time.monotonic()
    for proof in proofs:
        if not passes(proof, programs, folder, environment):
            return Outcome(proof.name, time.monotonic() - began)
    return Outcome(None, time.monotonic() - began)
