"""Mutants of the Rust code, as cargo-mutants lists them. All that are drawn stand in one build: each function that is changed has its
body once as it is and once for each change, and a number in the environment says which one runs."""
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import proofs

# The environment variable that chooses a mutant by its number; none for the code as it is.
CHOICE = "CHOSEN_MUTANT"
SWITCH = f"""//! Which mutant runs; 0 for the code as it is.

/// Its number.
pub fn chosen() -> u32 {{
    static CHOSEN: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var("{CHOICE}").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
    *CHOSEN
}}
"""
# What a look for brackets has to step over.
OPAQUE = re.compile(r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\x?[0-9a-fA-F{}u]*.|[^\\\'])\'', re.S)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """`file` with `text` in place of what stands between `begin` and `end`. `old` and `new` are what a reader sees of it."""

    file: str
    what: str
    old: str
    new: str
    line: int
    text: str
    begin: int
    end: int
    # Where the function stands that it changes; None for a constant.
    function: tuple | None
    id: str


def offsets_of(text):
    lines = [0]
    for match in re.finditer(r"\n", text):
        lines.append(match.end())
    # cargo-mutants counts columns in characters, from 1.
    return lambda place: lines[place["line"] - 1] + place["column"] - 1


def as_lines(text, begin, end, replacement):
    """The lines that a change touches, before and after it."""
    first = text.rfind("\n", 0, begin) + 1
    last = text.find("\n", end)
    old, new = text[first:last], text[first:begin] + replacement + text[end:last]
    return tuple("\n".join(line.strip() for line in part.splitlines() if line.strip()) for part in (old, new))


def all_mutants(root):
    """Every mutant that cargo-mutants knows, as .cargo/mutants.toml asks."""
    command = ["cargo", "mutants", "--list", "--json"]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("cargo-mutants does not list its mutants: scripts/setup-mutants.sh installs it")
    texts, seen = {}, collections.Counter()
    for entry in json.loads(done.stdout):
        file, of = entry["file"], entry["function"]
        name = of["function_name"] if of else ""
        text = texts.setdefault(file, (root / file).read_text())
        at = offsets_of(text)
        begin, end = at(entry["span"]["start"]), at(entry["span"]["end"])
        function = (at(of["span"]["start"]), at(of["span"]["end"])) if of else None
        what = re.sub(r"^[^ ]*: ", "", entry["name"])
        if entry["genre"] == "FnValue":
            old, new = f"{name} {of['return_type']}".strip(), entry["replacement"]
        else:
            old, new = as_lines(text, begin, end, entry["replacement"])
        known = f"{file}|{name}|{old}|{new}"
        seen[known] += 1
        id = hashlib.sha256(f"{known}|{seen[known]}".encode()).hexdigest()[:8]
        yield Mutant(file, what, old, new, entry["span"]["start"]["line"], entry["replacement"], begin, end, function, id)


def body_of(text, begin):
    """Where the first body behind `begin` opens and closes; its brackets are not part of it."""
    at, opened, depth = begin, None, 0
    while at < len(text):
        if match := OPAQUE.match(text, at):
            at = match.end()
            continue
        if text[at] == "{":
            opened = at + 1 if depth == 0 else opened
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return opened, at
        at += 1
    raise ValueError("a body does not end")


def is_const(text, mutant):
    """Whether it is worked out before a number can choose."""
    return not mutant.function or re.search(r"\bconst (unsafe )?fn\b", text[mutant.function[0] : body_of(text, mutant.function[0])[0]])


def outermost(mutants):
    """Mutants by the outermost function that one of them changes."""
    groups = []
    for mutant in sorted(mutants, key=lambda mutant: (mutant.function[0], -mutant.function[1])):
        if groups and mutant.function[0] < groups[-1][0][1]:
            groups[-1][1].append(mutant)
        else:
            groups.append((mutant.function, [mutant]))
    return groups


def changed(text, mutant, begin=0, end=None):
    return text[begin : mutant.begin] + mutant.text + text[mutant.end : end]


def with_all(text, numbered):
    """The text with every one of `numbered` ({mutant: number}) in it, and the lines at which each stands."""
    out, at, lines = [], 0, []

    def put(part):
        out.append(part)

    def line():
        return sum(part.count("\n") for part in out) + 1

    for function, mutants in outermost(numbered):
        opened, closed = body_of(text, function[0])
        put(text[at:opened])
        first = line()
        numbers = [numbered[mutant] for mutant in mutants]
        others = " && ".join(f"chosen_mutant != {number}" for number in numbers)
        put(f"\n match crate::mutant::chosen() {{ chosen_mutant if {others} => {{\n{text[opened:closed]}\n }}\n")
        lines.append((first, line(), mutants))
        for place, mutant in enumerate(mutants):
            first = line()
            case = numbered[mutant] if place + 1 < len(mutants) else "_"
            put(f" {case} => {{\n{changed(text, mutant, opened, closed)}\n }}\n")
            lines.append((first, line(), [mutant]))
        put(" }\n")
        at = closed
    put(text[at:])
    return "".join(out), lines


class Tree:
    """A copy of the project in which mutants are built. The project itself is never changed."""

    def __init__(self, root):
        self.root, self.folder = root, root / "target" / "mutants"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, check=True, stdout=subprocess.PIPE
        )
        self.files = [name.decode() for name in listed.stdout.split(b"\0") if name and (root / name.decode()).is_file()]
        (self.folder / "build").mkdir(parents=True, exist_ok=True)
        # What tests look for beside their programs is the project's.
        for name in ("test-servers", "test-venv"):
            link = self.folder / "build" / name
            if not link.is_symlink():
                link.symlink_to(root / "target" / name)

    def holds(self, texts):
        """The files are the project's but for `texts`. What is the same keeps its time, so that little is built anew."""
        for name in self.files:
            to, source = self.folder / name, self.root / name
            wanted = texts[name].encode() if name in texts else source.read_bytes()
            if not to.exists() or to.read_bytes() != wanted:
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(wanted)
                shutil.copymode(source, to)

    def text(self, file):
        return (self.root / file).read_text()

    def with_mutants(self, numbered):
        """All of them are in the tree from here on. Returns the lines at which each stands, by file."""
        by_file, texts, lines = collections.defaultdict(dict), {}, {}
        for mutant, number in numbered.items():
            by_file[mutant.file][mutant] = number
        for file, those in by_file.items():
            texts[file], lines[file] = with_all(self.text(file), those)
        library = self.text("src/lib.rs")
        texts["src/lib.rs"] = library.replace("pub mod app;\n", "pub mod app;\npub mod mutant;\n", 1)
        (self.folder / "src").mkdir(exist_ok=True)
        switch = self.folder / "src" / "mutant.rs"
        if not switch.exists() or switch.read_text() != SWITCH:
            switch.write_text(SWITCH)
        self.holds(texts)
        return lines

    def with_one(self, mutant):
        self.holds({mutant.file: changed(self.text(mutant.file), mutant)})


@dataclasses.dataclass
class Batch:
    """What became of the mutants that were to be built: their numbers in one build, and those that only stand alone."""

    mutants: list
    programs: dict
    together: dict
    alone: list
    # No compiler takes them.
    unviable: list


def environment_of(tree, number=0):
    return dict(os.environ, CARGO_TARGET_DIR=str(tree.folder / "build"), **{CHOICE: str(number)})


def built_together(tree, mutants, programs):
    """Builds as many of the mutants as stand together."""
    # Whatever is worked out by the compiler, or is of a type without a name, cannot be chosen later.
    alone = [mutant for mutant in mutants if is_const(tree.text(mutant.file), mutant) or "-> impl" in mutant.old]
    together = {mutant: number for number, mutant in enumerate(mutants, 1) if mutant not in alone}
    unviable = []
    while True:
        lines = tree.with_mutants(together)
        built = proofs.built(tree.folder, environment_of(tree), programs)
        if not built.errors:
            return Batch(mutants, built.programs, together, alone, unviable)
        guilty = set()
        for file, line in built.errors:
            places = [mutants for first, last, mutants in lines.get(file, []) if first <= line <= last]
            own = min(places, key=len, default=[])
            # An error in one's own copy is one's own; one in the body as it is may be due to any.
            (unviable if len(own) == 1 else alone).extend(mutant for mutant in own if mutant not in guilty)
            guilty.update(own)
        if not guilty:
            sys.exit(f"the tree does not build, and no mutant stands there:\n{built.told}")
        print(f"{len(guilty)} mutants do not build", file=sys.stderr, flush=True)
        together = {mutant: number for mutant, number in together.items() if mutant not in guilty}


def built_alone(tree, mutant, programs):
    """The programs with this one in them; none where it does not build."""
    tree.with_one(mutant)
    built = proofs.built(tree.folder, environment_of(tree), programs)
    return None if built.errors else built.programs
