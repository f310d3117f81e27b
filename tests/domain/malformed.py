"""Files of workflows that are wrong, each with the place and the words of the refusal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

NOOP = "nodes: [{id: a, noop: {}}]\n"
ROLE = "nodes: [{id: a, role: tester, %s}]\n"
NODE = "nodes: [{id: a, noop: {}, %s}]\n"
TWO = "nodes: [{id: a, noop: {}}, {id: b, noop: {}, depends_on: [a]}]\n"
OVER = "nodes: [{id: a, command: [b]}, {id: c, role: tester, depends_on: [a], map: '%s'}]\n"
LATER = "nodes: [{id: a, role: tester, %s}, {id: b, noop: {}, depends_on: [a]}]\n"
BESIDE = "nodes: [{id: a, noop: {}}, {id: b, %s}]\n"
ON_AGAIN = "edges: [{from: %s, to: %s, visits_max: 2, when: '%s'}]\n"
COMMAND = "nodes: [{id: a, command: %s}]\n"
FIELDS = 'nodes: [{id: a, command: [b]}, {id: c, role: tester, depends_on: [a], prompt: "{{ %s }}"}]\n'
CODED = TWO.replace("noop: {}", "command: [b]", 1) + "edges: [{from: a, to: b, when: '%s'}]\n"
ASKED = CODED.replace("command: [b]", "gate: good?")
GATE = "nodes: [{id: a, gate: {question: q, %s}}]\n"
MAP = "nodes: [{id: a, noop: {}, map: %s}]\n"


@dataclass(frozen=True)
class Case:
    """`place` is line:column; empty where the whole file is meant."""

    name: str
    content: str | bytes
    place: str
    why: str


def _bomb() -> str:
    levels = "\n".join(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]" for before, name in pairwise("abcdef"))
    return f"a: &a [lol]\n{levels}\n"


def _chain(nodes: int, extra: str = "") -> str:
    lines = [f"  - {{id: n{number}, noop: {{}}, depends_on: [n{max(0, number - 1)}]}}" for number in range(1, nodes)]
    return "\n".join(["nodes:", "  - {id: n0, noop: {}" + extra + "}", *lines]) + "\n"


def _dense(nodes: int) -> str:
    """Everything depends on everything before it."""
    before = [",".join(f"n{other}" for other in range(each)) for each in range(nodes)]
    return "nodes:\n" + "\n".join(f"- {{id: n{n}, noop: {{}}, depends_on: [{b}]}}" for n, b in enumerate(before))


SYNTAX = [
    Case("empty", "", "1:1", "has to be a mapping of fields to values"),
    Case("only a comment", "# nothing\n", "1:1", "has to be a mapping"),
    Case("a list", "- a\n- b\n", "1:1", "has to be a mapping"),
    Case("a text", "hello\n", "1:1", "has to be a mapping"),
    Case("an open bracket", "name: [a\nnodes: []\n", "2:6", "not valid YAML"),
    Case("an open quote", 'name: "abc\n', "2:1", "not valid YAML"),
    Case("a tab as indentation", "nodes:\n\t- id: a\n", "2:1", "not valid YAML"),
    Case("wrong indentation", "nodes:\n  - id: a\n   noop: {}\n", "3:4", "not valid YAML"),
    Case("a colon in a text", "name: a: b\n", "1:8", "not valid YAML"),
    Case("a directive", "%YAML 9.9\n---\nname: a\n", "1:1", "not valid YAML"),
    Case("two documents", NOOP + "---\n" + NOOP, "2:1", "another document"),
    Case("a billion laughs", _bomb(), "1:4", "anchors and aliases are not allowed"),
    Case("an alias to itself", "a: &a [*a]\n", "1:4", "anchors and aliases"),
    Case("an unknown alias", "nodes: *other\n", "1:8", "anchors and aliases"),
    Case("a merge key", "nodes: [{id: a, <<: {noop: {}}}]\n", "1:17", "a merge key"),
    Case("a tag of Python", "name: !!python/object/apply:os.system [id]\n", "1:7", "tags are not allowed"),
    Case("a tag of its own", "name: !secret a\n", "1:7", "tags are not allowed"),
    Case("a usual tag", "name: !!str a\n", "1:7", "tags are not allowed"),
    Case("a key twice", "name: a\n" + NOOP + "name: b\n", "3:1", "'name' stands twice"),
    Case("a key twice in a node", "nodes:\n  - id: a\n    noop: {}\n    id: b\n", "4:5", "'id' stands twice"),
    Case("a key twice in a schema", ROLE % "output_schema: {type: object, type: array}", "1:61", "'type' stands twice"),
    Case("a list as a key", "[a]: b\n", "1:1", "a key that is no plain text"),
    Case("a mapping as a key", "{{a: b}: c}\n", "1:2", "a key that is no plain text"),
    Case("deep brackets", "nodes: " + "[" * 50_000, "1:39", "nested too deeply"),
    Case("deep braces", "{a: " * 30_000, "1:129", "nested too deeply"),
    Case("deep dashes", "- " * 60_000, "1:65", "nested too deeply"),
    Case("NUL", "name: a\x00b\n" + NOOP, "1:8", "'\\x00'"),
    Case("an escape", "name: a\nnodes: \x1b[31m\n", "2:8", "'\\x1b'"),
    Case("half a surrogate", b"name: \xed\xa0\x80\n", "1:7", "is not UTF-8"),
    Case("Latin-1", "name: a\ndescription: fünf\n".encode("latin-1"), "2:15", "is not UTF-8"),
    Case("UTF-16", "name: a\n".encode("utf-16"), "1:1", "is not UTF-8"),
    Case("bytes", bytes(range(128, 256)), "1:1", "is not UTF-8"),
    Case("too large", "# " + "x" * 140_000, "", "is larger than 131072 bytes"),
    Case("too many lines", "a: b\n" * 40_000, "", "is larger than"),
    Case("a list without end", "nodes: [" + "a," * 60_000, "1:100003", "at most 50000 values"),
]

TYPES = [
    Case("no nodes", "name: a\n", "1:1", "nodes is missing"),
    Case("an unknown field", "nmae: a\n" + NOOP, "1:1", "nmae is no field; did you mean 'name'?"),
    Case("a field in capitals", NODE % "Role: x", "1:27", "did you mean 'role'?"),
    Case("a field of another system", NODE % "needs: [b]", "1:27", "nodes[0].needs is no field"),
    Case("an unknown field of an edge", TWO + "edges: [{from: a, to: b, if: x}]\n", "2:26", "edges[0].if is no field"),
    Case("a number as a name", "name: 7\n" + NOOP, "1:7", 'write it in quotes, "7"'),
    Case("yes as a name", "name: yes\n" + NOOP, "1:7", 'write it in quotes, "yes"'),
    Case("nothing as a name", "name:\n" + NOOP, "1:6", "name is missing"),
    Case("nodes as a mapping", "nodes: {a: {noop: {}}}\n", "1:8", "has to be a list"),
    Case("a node as a text", "nodes: [a]\n", "1:9", "has to be a mapping of fields to values: id, depends_on"),
    Case("no nodes in the list", "nodes: []\n", "1:8", "have to be 1 to 2000"),
    Case("a text for a list", NODE % "depends_on: b", "1:39", "has to be a list: write [b]"),
    Case("a number in a list", NODE % "depends_on: [1]", "1:40", 'in quotes, "1"'),
    Case("a prompt that is a list", ROLE % "prompt: [a]", "1:39", "has to be a text"),
    Case("half a step", "nodes: [{id: a, noop: {steps: 1.5}}]\n", "1:31", "whole number from 0"),
    Case("a negative number", "nodes: [{id: a, noop: {steps: -1}}]\n", "1:31", "whole number from 0"),
    Case("a huge number", NOOP + "visits_max: " + "9" * 10_000 + "\n", "2:13", "whole number from 0 to 2147483647"),
    Case("an octal number", NOOP + "visits_max: 0o17\n", "2:13", "whole number"),
    Case("a number of base 60", NOOP + "visits_max: 1:30\n", "2:13", "whole number"),
    Case("a number in quotes", NOOP + 'visits_max: "7"\n', "2:13", "whole number"),
    Case(
        "a negative priority is one", TWO + "edges: [{from: a, to: b, priority: low}]\n", "2:36", "whole number from -"
    ),
    Case("no duration", NODE % "timeout: soon", "1:36", "such as 90, 90s, 30m, 2h or 1d"),
    Case("a duration of nothing", NODE % "timeout: 0s", "1:36", "at least a second"),
    Case("a duration of ages", NODE % "timeout: 9999999999d", "1:36", "has to be a duration"),
    Case("a time of 32 days", NODE % "timeout: 32d", "1:36", "has to be 0 (none) to 2592000"),
    Case("a budget of nothing", NODE % "budget: {usd: 0}", "1:41", "an amount of dollars"),
    Case("a budget below nothing", NODE % "budget: -1", "1:35", "an amount of dollars"),
    Case("a budget with a sign", NODE % "budget: $5", "1:35", "an amount of dollars"),
    Case("an infinite budget", NODE % "budget: .inf", "1:35", "an amount of dollars"),
    Case("network by a number", COMMAND % "{argv: [a], network: 1}", "1:47", "has to be true or false"),
    Case("an unknown outcome", TWO + "edges: [{from: a, to: b, on: [error]}]\n", "2:31", "'error' is none"),
    Case("an unknown join", "nodes: [{id: a, join: most}]\n", "1:23", "one of: all, any, first, quorum"),
    Case("an unknown reaction", NODE % "on_failure: ignore", "1:39", "one of: stop, continue"),
    Case("a schema as a text", ROLE % "output_schema: object", "1:46", "has to be a mapping"),
    Case(
        "yes in a schema", ROLE % "output_schema: {enum: [yes, no]}", "1:54", "nodes[0].output_schema.enum[0] may be a"
    ),
    Case(
        "a huge number in a schema", ROLE % ("output_schema: {maximum: 1" + "0" * 400 + "}"), "1:56", "as JSON writes"
    ),
    Case("infinity in a schema", ROLE % "output_schema: {maximum: .inf}", "1:56", "a number as JSON writes it"),
]

MEANING = [
    Case("a name that is none", "name: My Workflow\n" + NOOP, "1:7", "'My Workflow' has to be 1 to 48"),
    Case("no id", "nodes: [{noop: {}}]\n", "1:9", "nodes[0].id is missing"),
    Case("an empty id", "nodes: [{id: '', noop: {}}]\n", "1:14", "is missing"),
    Case("an id of what is derived", "nodes: [{id: a_1, noop: {}}]\n", "1:14", "'a_1' has to be 1 to 32"),
    Case("an id that leads out", "nodes: [{id: ../a, noop: {}}]\n", "1:14", "'../a' has to be"),
    Case("an id that is too long", "nodes: [{id: " + "a" * 33 + ", noop: {}}]\n", "1:14", "1 to 32"),
    Case("an id twice", "nodes: [{id: a, noop: {}}, {id: a, noop: {}}]\n", "1:33", "'a' is taken by another node"),
    Case("nothing to do", "nodes: [{id: a}]\n", "1:9", "has to say what is done: role, command"),
    Case("two things to do", "nodes: [{id: a, noop: {}, wait: 5m}]\n", "1:9", "only one of wait and noop"),
    Case("a map of a gate", "nodes: [{id: a, gate: q, map: {times: 2}}]\n", "1:9", "done for each item: role, command"),
    Case("a map of nothing", "nodes: [{id: a, map: {times: 2}}]\n", "1:9", "done for each item"),
    Case("a prompt for a command", "nodes: [{id: a, command: [b], prompt: c}]\n", "1:39", "goes with a `role`"),
    Case(
        "an unknown role",
        "nodes: [{id: a, role: testr}]\n",
        "1:23",
        "'testr', which is no role; did you mean 'tester'?",
    ),
    Case("a role that leads out", "nodes: [{id: a, role: ../../tester}]\n", "1:23", "which is no role"),
    Case("an unknown child", ROLE % "children: [tester, nobody]", "1:50", "'nobody', which is no role"),
    Case("an unknown planned role", ROLE % "plans: {roles: [nobody]}", "1:47", "'nobody', which is no role"),
    Case("an unknown planned role, shortly", ROLE % "plans: [nobody]", "1:39", "'nobody', which is no role"),
    Case("an unknown workflow", "nodes: [{id: a, workflow: agnet}]\n", "1:27", "did you mean 'agent'?"),
    Case("a dangling dependency", NODE % "depends_on: [b]", "1:40", "'b', which is no node; there are: a"),
    Case("a dependency twice", TWO.replace("[a]", "[a, a]"), "1:58", "names a node twice"),
    Case("a node that waits for itself", NODE % "depends_on: [a]", "1:39", "in a circle: a"),
    Case("a circle", TWO.replace("{}}, {", "{}, depends_on: [b]}, {"), "1:39", "in a circle: a, b"),
    Case("a circle of edges", TWO + "edges: [{from: b, to: a}]\n", "1:9", "give an edge that leads back `visits_max`"),
    Case("an edge from nowhere", TWO + "edges: [{from: x, to: a}]\n", "2:16", "'x', which is no node; there are: a, b"),
    Case("an edge to nowhere", TWO + "edges: [{from: a, to: bb}]\n", "2:23", "did you mean 'b'?"),
    Case("an edge without an end", TWO + "edges: [{from: a}]\n", "2:9", "edges[0].to is missing"),
    Case(
        "a way back that leads on", TWO + "edges: [{from: a, to: b, visits_max: 2}]\n", "2:23", "leave `visits_max` out"
    ),
    Case("a way back for ever", TWO + "edges: [{from: b, to: a, visits_max: 999}]\n", "2:38", "1 to 20"),
    Case("a way back without a phrase", TWO + "back_edges: [{from: b, to: a}]\n", "2:14", "output_contains is missing"),
    Case("an outcome twice", TWO + "edges: [{from: a, to: b, on: [failed, failed]}]\n", "2:30", "each once"),
    Case("a priority above all", TWO + "edges: [{from: a, to: b, priority: 5000}]\n", "2:36", "-1000 to 1000"),
    Case("no expression", TWO + "edges: [{from: a, to: b, when: 'task.'}]\n", "2:32", "edges[0].when"),
    Case(
        "an expression with more behind it",
        TWO + "edges: [{from: a, to: b, when: 'true) || (true'}]\n",
        "2:32",
        "edges[0].when",
    ),
    Case("an unknown variable", TWO + "edges: [{from: a, to: b, when: 'os.x == 1'}]\n", "2:32", "'os'"),
    Case(
        "an unknown task",
        TWO + "edges: [{from: a, to: b, when: 'tasks.x.output == 1'}]\n",
        "2:32",
        "'x', which is no node",
    ),
    Case("an unknown field of a task", FIELDS % "tasks.a.reslt", "1:79", "'reslt' of tasks.a, and there is no such"),
    Case("what was meant", FIELDS % "tasks['a'].reslt", "1:79", "did you mean 'result'? there are: outcome, output"),
    Case("an unknown field of a command", FIELDS % "tasks.a.result.code", "1:79", "there are: exit_code, output"),
    Case("a field in brackets", FIELDS % "tasks.a.result['code']", "1:79", "'code' of tasks.a.result"),
    Case("a field of a number", FIELDS % "tasks.a.visit.of", "1:79", "'of' of tasks.a.visit, which is a number"),
    Case("an unknown field of a failure", FIELDS % "tasks.a.failure.why", "1:79", "there are: reason, message"),
    Case("an unknown field of the run", FIELDS % "run.inptu", "1:79", "'inptu' of run, and there is no such field"),
    Case("an unknown field of a gate", ASKED % "task.result.chioce == 1", "2:32", "did you mean 'choice'?"),
    Case("a number as a condition", CODED % "task.result.exit_code", "2:32", "compare it: task.result.exit_code == 0"),
    Case("a text as a condition", CODED % "task.outcome", "2:32", 'gives a text; compare it: task.outcome == "..."'),
    Case("a task as a condition", CODED % "tasks.a", "2:32", "gives several fields: outcome, output"),
    Case("a map over a text", OVER % "tasks.a.output", "1:76", "goes through a list: lines(tasks.a.output), or parse"),
    Case("a map over a command", OVER % "tasks.a.result", "1:76", "gives several fields: exit_code, output, report"),
    Case("a map over a number", OVER % "tasks.a.cost_usd", "1:76", "gives a number, and a map goes through a list"),
    Case(
        "lines of a command", OVER % "lines(tasks.a.result)", "1:76", "several fields, to lines(), which needs a text"
    ),
    Case(
        "lines of a number", OVER % "lines(7)", "1:76", "calls 'lines', which needs one text: lines(tasks.list.output)"
    ),
    Case("lines of two texts", OVER % "lines(run.input, run.id)", "1:76", "calls 'lines', which needs one text"),
    Case("lines of nothing", OVER % "lines()", "1:76", "calls 'lines', which needs one text"),
    Case("lines as a method", OVER % "run.input.lines()", "1:76", "calls 'lines', which needs one text"),
    Case("lines of an unknown task", OVER % "lines(tasks.x.output)", "1:76", "'x', which is no node"),
    Case(
        "JSON of a number", FIELDS % "parse_json(tasks.a.visit)", "1:79", "a number, to parse_json(), which needs a t"
    ),
    Case("lines as a condition", CODED % "lines(task.output)", "2:32", "compare it: size(lines(task.output)) > 0"),
    Case("an unknown function", CODED % "split(task.output)", "2:32", "calls 'split'; there are all, contains"),
    Case("no template", ROLE % 'prompt: "{{ run. }}"', "1:39", "nodes[0].prompt"),
    Case("an open template", ROLE % 'prompt: "{{ run.input"', "1:39", "nodes[0].prompt"),
    Case("a template of an item", ROLE % 'prompt: "{{ item }}"', "1:39", "'item'"),
    Case("a template of an unknown task", ROLE % 'prompt: "{{ tasks.b.output }}"', "1:39", "'b', which is no node"),
    Case("a template of a later task", LATER % 'prompt: "{{ tasks.b.output }}"', "1:39", "only after 'a': lead back"),
    Case("a template of a task beside it", BESIDE % "gate: '{{ tasks.a.output }}'", "1:42", "no edges lead to 'b'"),
    Case("a template of its own task", ROLE % 'prompt: "{{ tasks.a.output }}"', "1:39", "which is this one"),
    Case(
        "an argument of a later task",
        LATER.replace("role: tester, %s", "command: {argv: [echo, '{{ tasks.b.output }}']}"),
        "1:40",
        "nodes[0].command.argv[1] names the task of 'b'",
    ),
    Case("files of a later task", LATER % "files: {from: tasks.b.output}", "1:45", "'b', which comes only after 'a'"),
    Case("a map over its own results", MAP % "tasks.a.result", "1:32", "nodes[0].map.over names the task of 'a'"),
    Case(
        "an item of a later task", LATER % "map: {times: 2}, prompt: '{{ tasks.b.output }}'", "1:56", "nodes[0].prompt"
    ),
    Case("a condition on a later task", TWO + ON_AGAIN % ("a", "a", "tasks.b.visit > 1"), "2:47", "only after 'a'"),
    Case(
        "a template of a task that only a loop beside it visits",
        BESIDE % "gate: '{{ tasks.a.output }}'" + ON_AGAIN % ("a", "a", "true"),
        "1:42",
        "no edges lead to 'b'",
    ),
    Case("a template within a template", ROLE % 'prompt: "{{ {{ run.input }} }}"', "1:39", "nodes[0].prompt"),
    Case("a wrong schema", ROLE % "output_schema: {type: thing}", "1:46", "nodes[0].output_schema"),
    Case(
        "a schema from elsewhere",
        ROLE % "output_schema: {$ref: 'http://127.0.0.1/x'}",
        "1:46",
        "nodes[0].output_schema",
    ),
    Case("a plan with a schema", ROLE % "plans: [tester], output_schema: {type: object}", "1:63", "has to be left out"),
    Case(
        "a value in a script",
        COMMAND % "[bash, -ec, \"echo '{{ run.input }}'\"]",
        "1:38",
        "would run what the value contains",
    ),
    Case("a command of nothing", COMMAND % "[]", "1:26", "has to be a program"),
    Case("a command as a text", COMMAND % "pytest -q", "1:26", "has to be a list of words, no shell reads it: write ["),
    Case("a program alone", COMMAND % "make", "1:26", "write [make]"),
    Case("words with quotes", COMMAND % "'grep \"a b\" 7 yes -1'", "1:26", 'write [grep, "a b", "7", "yes", "-1"]'),
    Case("a command for a shell", COMMAND % "'ls | wc -l > n'", "1:26", 'write [bash, -c, "ls | wc -l > n"]'),
    Case("a command in a field", COMMAND % "{argv: ls -la}", "1:33", "nodes[0].command.argv has to be a list of words"),
    Case("a command with a value", COMMAND % "'echo {{ run.input }}'", "1:26", 'write [program, "argument"]'),
    Case("a program with arguments in it", COMMAND % "[ls -la]", "1:27", "program with spaces: write [ls, -la]"),
    Case("a program for a shell", COMMAND % "{argv: [a && b]}", "1:34", 'write [bash, -c, "a && b"]'),
    Case(
        "a report elsewhere", COMMAND % "{argv: [a], report: ../../etc/passwd}", "1:46", "a path within the workspace"
    ),
    Case("an exit code that is none", COMMAND % "{argv: [a], ok_exit_codes: [1, 999]}", "1:53", "0 to 255"),
    Case("a gate without a question", "nodes: [{id: a, gate: {kind: approve}}]\n", "1:23", "question is missing"),
    Case("a choice of one", GATE % "choices: [b]", "1:46", "2 to 20, each once"),
    Case("a default that is no choice", GATE % "choices: [b, c], default: d", "1:63", "one of b, c"),
    Case("choices for an approval", GATE % "kind: approve, choices: [b, c]", "1:61", "`choose` only"),
    Case("a wait for nothing", "nodes: [{id: a, wait: {}}]\n", "1:23", "a signal"),
    Case("a signal that is none", "nodes: [{id: a, wait: {signal: a b}}]\n", "1:32", "has to be 1 to 64"),
    Case("a map over two lists", MAP % "{over: run.x, times: 2}", "1:32", "either `over` or `times`"),
    Case("a map of no list", MAP % "'1 +'", "1:32", "nodes[0].map"),
    Case("a map of too many", MAP % "{times: 10001}", "1:40", "1 to 10000"),
    Case("a first without a number", "nodes: [{id: a, join: first}]\n", "1:23", "how many are enough"),
    Case(
        "a quorum of more than come",
        TWO.replace("[a]}", "[a], join: {mode: quorum, count: 2}}"),
        "1:91",
        "lead there are 1",
    ),
    Case(
        "two ways back at once",
        TWO + "edges: [{from: b, to: a, visits_max: 2}, {from: b, to: b, visits_max: 3}]\n",
        "2:56",
        "edges[1].to is never gone back to: 'b' goes back to 'a' then, and to one node only",
    ),
    Case("files from both", NODE % "files: {none: true, from: \"'a'\"}", "1:34", "either `none` or `from`"),
    Case("attempts without end", NODE % "retry: 1000", "1:34", "0 to 20"),
    Case("a label that is none", NODE % "runs_on: ['gpu big']", "1:37", "'gpu big' has to be 1 to 32"),
    Case("too many nodes", _chain(2_001), "2:3", "have to be 1 to 2000, and there are 2001"),
    Case("too many dependencies", _dense(205), "2:1", "more than 20000 dependencies"),
    Case("a long circle", _chain(1_900, ", depends_on: [n1899]"), "2:36", "in a circle"),
]

CASES = [*SYNTAX, *TYPES, *MEANING]
