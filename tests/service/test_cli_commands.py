"""The command line: what it imports, how it reads arguments, how it writes data and refusals."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest
from crewlog.cli import about, money, output, repository, starting, wording
from crewlog.cli.exits import ExitCode, code_of, lines_of
from crewlog.cli.main import main
from crewlog.cli.options import Output
from crewlog.cli.starting import Request
from crewlog.domain import errors
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.names import RUN_ID_CHARACTERS_MAX, check_name
from crewlog.v1.agent_pb2 import ToolUse
from crewlog.v1.body_pb2 import BlobRef, Body
from crewlog.v1.entry_pb2 import Entry
from crewlog.v1.run_pb2 import RunView

HEAVY = ("grpc", "anthropic", "nats", "google.protobuf", "opentelemetry", "jwt", "uvicorn")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Crewlog = Callable[..., Done]


@pytest.fixture
def crewlog(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Crewlog:
    """Runs the command as its entry point does, in this process."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["crewlog", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, captured.out, captured.err)

    return run


class TestStart:
    def test_help_imports_nothing_that_takes_time(self) -> None:
        code = f"""
import sys
from crewlog.cli.main import app
try:
    app(["--help"], prog_name="crewlog")
except SystemExit as end:
    assert end.code == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
        done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
        assert "Runs crews of coding agents" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["-h"], ["replay", "-h"]])
    def test_help_is_no_error(self, crewlog: Crewlog, arguments: list[str]) -> None:
        assert crewlog(*arguments).returncode == ExitCode.OK

    @pytest.mark.parametrize("arguments", [["bogus"], ["show"], ["runs", "--limit", "x"], ["runs", "-o", "xml"]])
    def test_arguments_that_cannot_be_read_are_a_usage_error(self, crewlog: Crewlog, arguments: list[str]) -> None:
        done = crewlog(*arguments)
        assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
        assert "Traceback" not in done.stderr

    def test_the_version_is_data(self, crewlog: Crewlog) -> None:
        assert crewlog("version").stdout == f"crewlog {about.release()}\n"
        assert json.loads(crewlog("version", "-o", "json").stdout)["crewlog"] == about.release()

    def test_without_a_platform_it_says_how_to_start_one(self, crewlog: Crewlog, tmp_path: Path) -> None:
        done = crewlog("runs", "--data-dir", str(tmp_path / "none"))
        assert (done.returncode, done.stdout) == (ExitCode.UNAVAILABLE, "")
        assert done.stderr.splitlines() == [
            f"crewlog: no crewlog is running on {tmp_path / 'none'}",
            "  start it with `crewlog up`, or name one with --data-dir or --address",
        ]

    def test_an_address_where_nobody_answers(self, crewlog: Crewlog) -> None:
        done = crewlog("runs", "--address", "127.0.0.1:1", "--token", "x")
        assert done.returncode == ExitCode.UNAVAILABLE
        assert done.stderr.startswith("crewlog: the gateway does not answer")
        assert len(done.stderr.splitlines()) == 2

    @pytest.mark.parametrize(("given", "status"), [("40s", ExitCode.UNAVAILABLE), ("40 weeks", ExitCode.USAGE)])
    def test_how_long_a_command_may_take(self, crewlog: Crewlog, given: str, status: ExitCode) -> None:
        done = crewlog("runs", "--timeout", given, "--address", "127.0.0.1:1", "--token", "x")
        assert done.returncode == status
        assert "such as 90, 90s" in done.stderr or status != ExitCode.USAGE

    def test_what_the_system_refuses_is_one_line(self, crewlog: Crewlog) -> None:
        done = crewlog("up", "--data-dir", "/proc/crewlog")
        assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
        assert done.stderr.startswith("crewlog: ")
        assert len(done.stderr.splitlines()) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "code"),
        [
            (errors.NotAuthenticated, ExitCode.NOT_AUTHENTICATED),
            (errors.NotPermitted, ExitCode.NOT_AUTHENTICATED),
            (errors.Unavailable, ExitCode.UNAVAILABLE),
            (errors.InvalidCommand, ExitCode.USAGE),
            (errors.NotFound, ExitCode.FAILED),
            (errors.Conflict, ExitCode.FAILED),
        ],
    )
    def test_each_has_its_exit_status(self, kind: type[errors.Refused], code: ExitCode) -> None:
        assert code_of(kind("no")) is code

    def test_what_to_do_is_said_and_nothing_is_said_twice(self) -> None:
        refusal = InvalidCommand(
            "run_id 'A' is bad", what_to_do="choose", violations={"run_id": "is bad", "model": "no"}
        )
        assert list(lines_of(refusal)) == ["crewlog: run_id 'A' is bad", "  model: no", "  choose"]


class TestOutput:
    def test_a_table_is_as_wide_as_its_content(self) -> None:
        assert output.table(("name", ">cost"), [("a", "$1.00"), ("longer", "$10.00")]) == [
            "NAME      COST",
            "a        $1.00",
            "longer  $10.00",
        ]

    def test_json_names_fields_as_the_protos_do_and_defaults_stand_there(self) -> None:
        shown = output.to_json(RunView(run_id="a", spent_usd_micros=5))
        assert (shown["run_id"], shown["spent_usd_micros"], shown["workflow"]) == ("a", "5", "")

    def test_hashes_are_hexadecimal_and_text_is_text(self) -> None:
        assert output.to_json(Entry(previous_hash=b"\xab\xcd"), with_defaults=False) == {"previous_hash": "abcd"}
        call = ToolUse(input_json=Body(inline="{é}".encode()))
        assert output.to_json(call, with_defaults=False) == {"input_json": {"text": "{é}"}}
        assert output.to_json(ToolUse(input_json=Body(inline=b"\xff")), with_defaults=False) == {
            "input_json": {"inline": "/w=="}
        }
        blob = ToolUse(input_json=Body(blob=BlobRef(sha256=b"\x01", size_bytes=1)))
        assert output.to_json(blob, with_defaults=False)["input_json"]["blob"]["sha256"] == "01"

    def test_lists_are_an_array_or_lines(self) -> None:
        views = [RunView(run_id="a"), RunView(run_id="b")]
        for form in (Output.JSON, Output.JSONL):
            file = io.StringIO()
            output.write_messages(views, form, file=file)
            text = file.getvalue()
            found = json.loads(text) if form is Output.JSON else [json.loads(line) for line in text.splitlines()]
            assert [each["run_id"] for each in found] == ["a", "b"]

    @pytest.mark.parametrize(
        ("micros", "shown"),
        [
            (0, "$0.00"),
            (7, "$0.000007"),
            (960, "$0.0010"),
            (41_200, "$0.0412"),
            (1_500_000, "$1.50"),
            (-5, "-$0.000005"),
        ],
    )
    def test_money_is_told_from_nothing(self, micros: int, shown: str) -> None:
        assert wording.money(micros) == shown

    @pytest.mark.parametrize(
        ("micros", "shown"),
        [
            (0, "0 µs"),
            (950, "950 µs"),
            (1_500, "2 ms"),
            (1_250_000, "1.2 s"),
            (125_000_000, "2 min 05 s"),
            (-1, "0 µs"),
        ],
    )
    def test_durations(self, micros: int, shown: str) -> None:
        assert wording.duration(micros) == shown


class TestRunArguments:
    @pytest.mark.parametrize(
        ("dollars", "micros"),
        [("0.50", 500_000), ("2", 2_000_000), ("0", 0), ("0.000001", 1), (".5", 500_000), ("5.", 5_000_000)],
    )
    def test_dollars(self, dollars: str, micros: int) -> None:
        assert money.usd_micros(dollars) == micros
        assert Decimal(micros) / 1_000_000 == Decimal(dollars)

    @pytest.mark.parametrize("dollars", ["", "abc", "-1", "nan", "inf", "0.0000001", "1,5", "1e30", "$5", "5 EUR"])
    def test_what_is_no_amount_is_refused(self, dollars: str) -> None:
        with pytest.raises(InvalidCommand, match="no amount of dollars"):
            money.usd_micros(dollars)

    @pytest.mark.parametrize("text", ["Fix the failing test!", "ü", "-", "x" * 10_000, "a\nb" * 40, "..", "ПРИВЕТ"])
    def test_a_new_run_id_is_a_good_one(self, text: str) -> None:
        run_id = starting.new_run_id(text)
        check_name("run_id", run_id, RUN_ID_CHARACTERS_MAX)
        assert run_id != starting.new_run_id(text)

    def test_words_of_the_task_are_in_the_run_id(self) -> None:
        assert starting.new_run_id("Fix the failing test, please").startswith("fix-the-failing-test-")

    def test_a_name_is_sent_as_a_name_and_a_file_in_full(self, tmp_path: Path) -> None:
        assert starting.to_command(Request("do it", tmp_path, "feature")).workflow_name == "feature"
        file = tmp_path / "mine.yaml"
        file.write_text("name: mine\nnodes:\n  - id: a\n    noop: {steps: 1}\n")
        command = starting.to_command(Request("do it", tmp_path, str(file)))
        assert [node.node_id for node in command.workflow.nodes] == ["a"]

    def test_a_dash_reads_the_task_from_standard_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("from a file\n"))
        assert starting.to_command(Request("-", tmp_path)).input == "from a file\n"

    def test_an_empty_task_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidCommand, match="the task is empty"):
            starting.to_command(Request("  ", tmp_path))


class TestRepository:
    @pytest.fixture
    def repo(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "repo"
        (path / "src").mkdir(parents=True)
        (path / "a.txt").write_text("a")
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
            identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
            subprocess.run(("git", *identity, *arguments), cwd=path, check=True)
        yield path

    def test_a_place_inside_is_the_repository(self, repo: Path) -> None:
        assert repository.look_at(repo / "src").path == repo
        assert not repository.look_at(repo).has_uncommitted_changes

    def test_looking_changes_nothing(self, repo: Path) -> None:
        hook = repo / ".git" / "hooks" / "post-index-change"
        hook.write_text("#!/bin/sh\ntouch ../ran\n")
        hook.chmod(0o755)
        (repo / "a.txt").write_text("b")
        (repo / "new.txt").write_text("c")
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in repo.rglob("*") if path.is_file()}
        assert repository.look_at(repo).has_uncommitted_changes
        after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in repo.rglob("*") if path.is_file()}
        assert before == after

    @pytest.mark.parametrize("place", ["nowhere", "plain", "bare"])
    def test_what_has_no_working_tree_is_refused(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "plain").mkdir()
        subprocess.run(("git", "init", "-q", "--bare", str(tmp_path / "bare")), check=True)
        with pytest.raises(InvalidCommand):
            repository.look_at(tmp_path / place)


class TestPrices:
    @pytest.mark.parametrize("detach", [(), ("--detach",)])
    def test_a_wrong_price_file_is_refused_before_anything_starts(
        self, crewlog: Crewlog, tmp_path: Path, detach: tuple[str, ...]
    ) -> None:
        prices, data_dir = tmp_path / "prices.toml", tmp_path / "data"
        prices.write_text("[models.m]\ninput_usd_micros_per_mtok = nan")
        done = crewlog("up", "--prices", str(prices), "--data-dir", str(data_dir), *detach)
        assert done.returncode == ExitCode.USAGE
        assert "models.m.input_usd_micros_per_mtok must be a whole number" in done.stderr
        assert not data_dir.exists()

    def test_a_price_file_that_is_not_there_is_said(self, crewlog: Crewlog, tmp_path: Path) -> None:
        done = crewlog("up", "--prices", str(tmp_path / "none.toml"), "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 2 and "--prices" in done.stderr
