"""Mutants of the scripts in lua/: each is one small change of one file."""
import dataclasses
import hashlib
import pathlib
import re
import subprocess
import tempfile
import time

TOKEN = re.compile(
    r"(?P<blank>\s+)|(?P<comment>--[^\n]*)|(?P<string>'(?:\\.|[^'\\])*')|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%^#<>=(){}\[\];:,.])"
)
KEYWORDS = {
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
}
COMPARISONS = {"==": ["~="], "~=": ["=="], "<": ["<=", ">"], "<=": ["<"], ">": [">=", "<"], ">=": [">"]}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*"}
OPEN, CLOSE = {"(", "{", "["}, {")", "}", "]"}
# What ends an operand of `and` and `or` beside a bracket, to its left and to its right.
BEFORE_OPERAND = {"and", "or", "if", "elseif", "return", "=", ",", "until", "while", "not"}
BEHIND_OPERAND = {"and", "or", "then", "do", ",", "end", "return", "local", "if", "for", "else"}


@dataclasses.dataclass(frozen=True)
class Token:
    kind: str
    text: str
    begin: int
    end: int
    line: int


@dataclasses.dataclass(frozen=True)
class Mutant:
    """`file` with `text` in place of what stood there. `old` and `new` are the lines that differ."""

    file: str
    what: str
    old: str
    new: str
    line: int
    text: str
    id: str


def tokens_of(text):
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise ValueError(f"no Lua that is known here: {text[at:at + 40]!r}")
        if match.lastgroup not in ("blank", "comment"):
            found.append(Token(match.lastgroup, match[0], match.start(), match.end(), text.count("\n", 0, match.start())))
        at = match.end()
    return found


def closing(tokens, at):
    """The bracket that ends what begins at `at`."""
    depth = 0
    for index in range(at, len(tokens)):
        depth += (tokens[index].text in OPEN) - (tokens[index].text in CLOSE)
        if depth == 0:
            return index
    raise ValueError("brackets do not match")


def parts_between(tokens, begin, end):
    """The spans between the commas from `begin` up to `end`, as pairs of tokens."""
    parts, first, depth = [], begin, 0
    for index in range(begin, end + 1):
        text = tokens[index].text
        if index == end or (text == "," and depth == 0):
            if index > first:
                parts.append((tokens[first], tokens[index - 1]))
            first = index + 1
        else:
            depth += (text in OPEN) - (text in CLOSE)
    return parts


def operand_left(tokens, at):
    depth = 0
    for index in range(at - 1, -1, -1):
        text = tokens[index].text
        if depth == 0 and (text in OPEN or text in BEFORE_OPERAND):
            return tokens[index + 1].begin
        depth += (text in CLOSE) - (text in OPEN)
    return tokens[0].begin


def operand_right(tokens, at):
    depth = 0
    for index in range(at + 1, len(tokens)):
        token, last = tokens[index], tokens[index - 1]
        # A line that goes on does so with `and` or `or`.
        is_next_line = token.line != last.line and last.text not in ("and", "or")
        if depth == 0 and (token.text in CLOSE or token.text in BEHIND_OPERAND or is_next_line):
            return last.end
        depth += (token.text in OPEN) - (token.text in CLOSE)
    return tokens[-1].end


def begins_statement(tokens, at):
    return at == 0 or tokens[at].line != tokens[at - 1].line or tokens[at - 1].text in ("then", "else", "do")


def end_of_statement(tokens, at):
    """Where a statement that begins at `at` ends, on its own line; none if it goes on."""
    depth = 0
    for index in range(at, len(tokens)):
        token = tokens[index]
        if depth == 0 and index > at and (token.line != tokens[at].line or token.text in ("end", "else", "elseif")):
            return index - 1
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if token.text == "function":
            return None
    return len(tokens) - 1


def changes_of_sign(tokens, at):
    token, last = tokens[at], tokens[at - 1] if at else None
    if token.text in COMPARISONS:
        for other in COMPARISONS[token.text]:
            yield "comparison", token.begin, token.end, other
    elif token.text in ARITHMETIC and last and (last.kind in ("number", "string") or last.text in CLOSE
                                               or (last.kind == "name" and last.text not in KEYWORDS)):
        yield "arithmetic", token.begin, token.end, ARITHMETIC[token.text]
    elif token.text == "{" or (token.text == "(" and last and last.kind == "name" and last.text not in KEYWORDS):
        # The greater of two is so in any order.
        if token.text == "(" and at > 1 and (tokens[at - 2].text == "function" or last.text in ("max", "min")):
            return
        parts = parts_between(tokens, at + 1, closing(tokens, at))
        for (a, b), (c, d) in zip(parts, parts[1:]):
            yield "swap", a.begin, d.end, ("swap", a.begin, b.end, c.begin, d.end)


def changes_of_word(tokens, at):
    token = tokens[at]
    if token.text in ("and", "or"):
        yield "logic", token.begin, token.end, "or" if token.text == "and" else "and"
        left, right = operand_left(tokens, at), operand_right(tokens, at)
        yield "operand", left, tokens[at + 1].begin, ""
        yield "operand", tokens[at - 1].end, right, ""
    elif token.text == "not":
        yield "negation", token.begin, tokens[at + 1].begin, ""
    elif token.text in ("if", "elseif"):
        then = next(i for i in range(at, len(tokens)) if tokens[i].text == "then")
        yield "condition", tokens[at + 1].begin, tokens[then - 1].end, ("negate",)
    elif token.text in ("true", "false"):
        yield "constant", token.begin, token.end, "false" if token.text == "true" else "true"
    elif token.text in ("max", "min", "floor") and at > 1 and tokens[at - 2].text == "math":
        parts = parts_between(tokens, at + 2, closing(tokens, at + 1))
        for first, last in parts:
            yield "call", tokens[at - 2].begin, tokens[closing(tokens, at + 1)].end, ("keep", first.begin, last.end)
        if token.text != "floor":
            yield "call", token.begin, token.end, "min" if token.text == "max" else "max"


def changes_of_constant(tokens, at):
    token, last, before = tokens[at], tokens[at - 1], tokens[at - 2]
    if token.kind == "number":
        yield "constant", token.begin, token.end, str(int(token.text) + 1)
        # Lua counts from 1, and takes 0 for it where a text begins.
        is_first = token.text == "1" and (before.text in ("sub",) or "WRONGTYPE" in before.text)
        if token.text != "0" and not is_first:
            yield "constant", token.begin, token.end, str(int(token.text) - 1)
        return
    body = token.text[1:-1]
    if last.text == "(" and before.text in ("match", "find"):
        if body.startswith("^"):
            yield "pattern", token.begin, token.end, f"'{body[1:]}'"
        if body.endswith("$"):
            yield "pattern", token.begin, token.end, f"'{body[:-1]}'"
        for sign in re.finditer(r"[*+]", body):
            other = "+" if sign[0] == "*" else "*"
            yield "pattern", token.begin, token.end, f"'{body[:sign.start()]}{other}{body[sign.end():]}'"
    elif not (last.text == "(" and before.text in ("call", "pcall")):
        yield "constant", token.begin, token.end, "''" if body else "'x'"


def changes_of_statement(tokens, at):
    if not begins_statement(tokens, at):
        return
    end = end_of_statement(tokens, at)
    if tokens[at].text == "if":
        # A condition and what it guards, on one line.
        last = next((i for i in range(at, len(tokens)) if tokens[i].line != tokens[at].line), len(tokens)) - 1
        if tokens[last].text == "end":
            yield "statement", tokens[at].begin, tokens[last].end, ""
    elif end is None or tokens[at].text in KEYWORDS - {"return"}:
        return
    elif tokens[at].text == "return":
        yield "statement", tokens[at].begin, tokens[end].end, ""
    elif tokens[at].kind == "name":
        yield "statement", tokens[at].begin, tokens[end].end, ""


def changes(text):
    tokens = tokens_of(text)
    for at, token in enumerate(tokens):
        yield from changes_of_statement(tokens, at)
        if token.kind == "sign":
            yield from changes_of_sign(tokens, at)
        elif token.kind == "name":
            yield from changes_of_word(tokens, at)
        elif at > 1:
            yield from changes_of_constant(tokens, at)
    for at, token in enumerate(tokens):
        # `a, b = b, a`: the other way round.
        if token.text == "=" and (end := end_of_statement(tokens, at)):
            parts = parts_between(tokens, at + 1, end + 1) if end > at else []
            for (a, b), (c, d) in zip(parts, parts[1:]):
                yield "swap", a.begin, d.end, ("swap", a.begin, b.end, c.begin, d.end)


def applied(text, begin, end, by):
    if isinstance(by, str):
        new = by
    elif by[0] == "negate":
        new = f"not ({text[begin:end]})"
    elif by[0] == "keep":
        new = text[by[1] : by[2]]
    else:
        a, b, c, d = by[1:]
        new = text[c:d] + text[b:c] + text[a:b]
    return text[:begin] + new + text[end:], new


def mutants_of(file, text):
    seen = {text}
    for what, begin, end, by in changes(text):
        changed, new = applied(text, begin, end, by)
        if changed in seen:
            continue
        seen.add(changed)
        first, last = text.rfind("\n", 0, begin) + 1, text.find("\n", end)
        last = len(text) if last < 0 else last
        old = text[first:last].strip()
        shown = (text[first:begin] + new + text[end:last]).strip()
        # The same change of the same line elsewhere in the file is another mutant.
        count = text[:first].count(text[first:last])
        name = hashlib.sha256(f"{file}|{old}|{shown}|{count}".encode()).hexdigest()[:8]
        yield Mutant(file, what, old, shown, text.count("\n", 0, begin) + 1, changed, name)


def whole(name, texts):
    """A script with what it includes."""
    text = texts[name]
    for part in ("ask", "turn", "queue", "fence", "holds", "look"):
        text = text.replace(f"-- include {part}.lua\n", texts[f"{part}.lua"])
    return text


class Compiler:
    """A redis-server that says whether a script is Lua at all."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.socket = pathlib.Path(self.folder.name) / "s"
        self.child = subprocess.Popen(
            ["redis-server", "--port", "0", "--save", "", "--unixsocket", str(self.socket)],
            cwd=self.folder.name, stdout=subprocess.DEVNULL,
        )
        while not self.socket.exists():
            if self.child.poll() is not None:
                raise RuntimeError("redis-server does not come up")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()
        self.folder.cleanup()

    def compiles(self, script):
        done = subprocess.run(
            ["redis-cli", "-s", str(self.socket), "-x", "SCRIPT", "LOAD"], input=script, capture_output=True, text=True
        )
        return "ERR" not in done.stdout


def all_mutants(texts):
    for file in sorted(texts):
        yield from mutants_of(file, texts[file])


def is_lua(mutant, texts, compiler):
    changed = dict(texts, **{mutant.file: mutant.text})
    part = f"-- include {mutant.file}\n"
    # What is included is tried in one of the scripts that include it.
    used_in = next((name for name in sorted(texts) if part in texts[name]), mutant.file)
    return compiler.compiles(whole(used_in, changed))
