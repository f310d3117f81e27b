"""Fault 55 and 56: what passes is harmless to git, and what git would read as something else does not pass."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from crewlog.domain.errors import InvalidCommand
from crewlog.domain.git_names import check_branch, check_file_path, check_host_path, check_label, check_revision
from hypothesis import given, settings
from hypothesis import strategies as st

Check = Callable[[str, str], None]

NASTY = st.text(alphabet=st.sampled_from("aZ0-./~^:@{}*?[\\ \n\0é_+#'\"$`;|&"), max_size=24)


def passes(check: Check, value: str) -> bool:
    try:
        check("field", value)
    except InvalidCommand as refusal:
        assert "field" in refusal.violations
        return False
    return True


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (check_branch, ["main", "crewlog/fix-slug", "feature/ä", "v1.0", "a@b"]),
        (check_revision, ["main", "HEAD", "HEAD~2", "v1.0^", "main^2~3", "0" * 40, "origin/main"]),
        (check_label, ["base", "3-0", "x"]),
        (check_file_path, ["a", "src/a b.py", "-rf", ".gitignore", "a/.github/x", "ä"]),
        (check_host_path, ["/", "/home/me/my project", "/a/-b"]),
    ],
)
def test_good_names_pass(check: Check, good: list[str]) -> None:
    assert [name for name in good if not passes(check, name)] == []


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (
            check_branch,
            [
                "",
                "-x",
                "a/-x",
                "--upload-pack=x",
                "a..b",
                "a b",
                "a.lock",
                "a/",
                "/a",
                "a//b",
                "HEAD",
                "@",
                "refs/heads/a",
            ],
        ),
        (check_branch, ["a~1", "a^", "a:b", "a*", "a?", "a[", "a\\b", "a@{1}", ".a", "a.", "a\nb", "a\0b", "x" * 201]),
        (check_revision, ["", "-c", "--all", "^main", "~1", "main:file", "a..b", "@{-1}", "main~x", "HEAD^{/x}"]),
        (check_revision, ["main" + "~1" * 9, "x" * 251, "main ", "a b"]),
        (check_label, ["", "A", "a/b", "a.b", "a_b", "-a", "a-", "x" * 65, "a\n"]),
        (check_file_path, ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", ".git/config", "a/.GIT/x"]),
        (check_file_path, ["a\0b", "x" * 4097, "a/"]),
        (check_host_path, ["", "a", "~/x", "ext::sh -c id", "/a\nb", "/a\0", "/" + "x" * 4096]),
    ],
)
def test_bad_names_are_refused(check: Check, bad: list[str]) -> None:
    assert [name for name in bad if passes(check, name)] == []


@settings(max_examples=400, deadline=None)
@given(NASTY)
def test_nothing_that_passes_can_be_an_option_or_leave_its_place(value: str) -> None:
    for check in (check_branch, check_revision, check_label):
        if passes(check, value):
            assert not value.startswith("-")
            assert not set(value) & set("\0\n :*?[\\")
            assert ".." not in value
    if passes(check_file_path, value):
        assert not value.startswith("/")
        assert ".." not in value.split("/")


@settings(max_examples=60, deadline=None)
@given(NASTY)
def test_git_agrees_with_every_branch_that_passes(value: str) -> None:
    if passes(check_branch, value):
        answer = subprocess.run(["git", "check-ref-format", f"refs/heads/{value}"], check=False)
        assert answer.returncode == 0
