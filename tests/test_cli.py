"""The command line: every command on a real store, beside a running gateway too."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from openclaw_billing import cli, jobs
from openclaw_billing.records import Job, Priority, TaskType
from openclaw_billing.runtime import Runtime
from tests.served import ROOT, clean_environment, served

KEY_TEXT = "oc_live_" + "ab" * 16


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "data"


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`python -m openclaw_billing …` in this process."""

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["openclaw_billing", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    return command


@pytest.fixture
def acme(run: Run) -> dict[str, Any]:
    created: dict[str, Any] = run(
        *("clients", "create", "--name", "Acme", "--email", "a@example.com", "--plan", "pro", "--json")
    ).json
    return created


COMMANDS = [
    ["clients", "list"],
    ["clients", "show"],
    ["clients", "create"],
    ["clients", "deactivate"],
    ["clients", "reactivate"],
    ["clients", "set"],
    ["clients", "rate"],
    ["jobs", "list"],
    ["jobs", "show"],
    ["jobs", "move"],
    ["keys", "list"],
    ["keys", "issue"],
    ["keys", "rotate"],
    ["keys", "revoke"],
    ["stripe", "sync"],
    ["stripe", "check"],
    ["stripe", "reconcile"],
    ["stripe", "replay"],
    ["stripe", "events"],
    ["db", "upgrade"],
    ["db", "version"],
    *(
        [each]
        for each in (
            "clients",
            "keys",
            "jobs",
            "stripe",
            "db",
            "credits",
            "plan",
            "ledger",
            "audit",
            "import",
            "export",
            "verify",
        )
    ),
    *([each] for each in ("backup", "restore", "repair", "adopt", "discard", "doctor", "move")),
    [],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_opens_nothing(run: Run, data: Path, command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.code == 0
    assert "Usage:" in done.out
    assert not data.exists()


def test_the_list_of_commands_here_is_the_whole(run: Run) -> None:
    top = set(re.findall(r"^  (\w+)  ", run("--help").out, re.MULTILINE))
    assert top == {each[0] for each in COMMANDS if each}


def told_of(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """What the help says of the command, of each thing it is given, and of all commands below it."""
    yield name, command.help or ""
    context = typer.Context(command)
    for each in command.params:
        record = each.get_help_record(context)
        # What it adds of its own stands in brackets.
        yield f"{name} {each.name}", "" if record is None else re.sub(r"\s*\[[^]]*\]$", "", record[1])
    for below, each in getattr(command, "commands", {}).items():
        yield from told_of(each, f"{name} {below}")


def test_every_argument_and_option_has_a_sentence_in_the_help(run: Run) -> None:
    told = dict(told_of(typer.main.get_command(cli.app), ""))
    assert len(told) > 100
    unsaid = [name for name, text in told.items() if not re.match(r"^\S.*\S.*[.)]$", text, re.DOTALL)]
    assert unsaid == []
    # And it reaches whoever asks.
    assert "How many to show at most." in run("ledger", "--help").out


def test_no_command_makes_an_admin_token(run: Run, acme: dict[str, Any], data: Path) -> None:
    assert (data / "pepper").exists()
    assert not (data / "admin_token").exists()
    assert run("doctor").code == 0
    assert not (data / "admin_token").exists()


def test_wrong_usage_ends_with_2(run: Run, data: Path) -> None:
    for wrong in (
        ["nothing"],
        ["credits"],
        ["clients", "create", "--name", "A"],
        ["export", "--format", "xml"],
    ):
        assert run(*wrong).code == 2
    assert run("clients", "list", "--status", "odd").code == 2
    assert not data.exists()


def test_a_client_is_created_shown_and_listed(run: Run, acme: dict[str, Any]) -> None:
    assert re.fullmatch(r"oc_live_[0-9a-f]{32}", acme["api_key"])
    assert acme["credits_remaining"] == 200
    shown = run("clients", "show", acme["client_id"], "--json").json
    assert shown["email"] == "a@example.com"
    assert "api_key" not in shown
    assert [each["client_id"] for each in run("clients", "list", "--json").json] == [acme["client_id"]]
    table = run("clients", "list")
    assert "Acme" in table.out
    assert "oc_live_" not in table.out
    assert run("clients", "list", "--search", "nobody").err == "No clients.\n"


def test_refusals_end_with_1_and_change_nothing(run: Run, acme: dict[str, Any]) -> None:
    for refused in (
        ["clients", "create", "--name", "B", "--email", "A@Example.com"],
        ["clients", "create", "--name", "B", "--email", "b@example.com", "--plan", "golden"],
        ["clients", "show", "nobody"],
        ["ledger", "nobody"],
        ["keys", "revoke", acme["client_id"], "nothing"],
        ["credits", acme["client_id"], "--reason", "x", "--", "-201"],
        ["plan", acme["client_id"], "pro"],
    ):
        done = run(*refused)
        assert done.code == 1, refused
        assert done.err.startswith("Refused: ")
        assert len(done.err.splitlines()) == 1
    assert len(run("clients", "list", "--json").json) == 1
    assert run("clients", "show", acme["client_id"], "--json").json["credits_remaining"] == 200


@pytest.mark.parametrize("text", ["two\nlines", "sur\udcffrogate", "\u202ereversed", " ", "x" * 600])
def test_what_would_forge_a_line_is_refused_everywhere(run: Run, acme: dict[str, Any], text: str) -> None:
    client_id = acme["client_id"]
    for wrong in (
        ["clients", "create", "--name", text, "--email", "b@example.com"],
        ["clients", "create", "--name", "B", "--email", text],
        ["credits", client_id, "5", "--reason", text],
        ["keys", "issue", client_id, "--name", text],
    ):
        assert run(*wrong).code in (1, 2), wrong
    assert len(run("audit", "--json").json) == 2


def test_keys_are_issued_rotated_and_revoked(run: Run, acme: dict[str, Any]) -> None:
    client_id = acme["client_id"]
    issued = run("keys", "issue", client_id, "--name", "ci", "--json").json
    assert issued["api_key"].startswith("oc_live_")
    rotated = run("keys", "rotate", client_id, issued["key_id"], "--grace-seconds", "0", "--json").json
    assert rotated["api_key"] != issued["api_key"]
    assert run("keys", "revoke", client_id, rotated["key_id"]).err == "Revoked.\n"
    listed = run("keys", "list", client_id, "--json")
    states = {each["key_id"]: each["state"] for each in listed.json}
    assert len(states) == 3
    assert states[rotated["key_id"]] == "revoked"
    assert issued["api_key"] not in listed.out
    assert run("keys", "rotate", client_id, rotated["key_id"]).code == 1
    assert run("keys", "rotate", client_id, issued["key_id"], "--grace-seconds", "-1").code == 2


def test_credits_are_added_once_under_one_id(run: Run, acme: dict[str, Any]) -> None:
    client_id = acme["client_id"]
    add = ("credits", client_id, "50", "--reason", "promo", "--once", "q1", "--json")
    assert run(*add).json == {"client_id": client_id, "previous_credits": 200, "new_credits": 250}
    run(*add)
    taken = run("credits", client_id, "--reason", "less", "--json", "--", "-5").json
    assert taken["new_credits"] == 245
    other = run("credits", client_id, "51", "--reason", "promo", "--once", "q1")
    assert (other.code, "before" in other.err) == (1, True)
    entries = run("ledger", client_id, "--json").json
    assert [each["amount"] for each in entries] == [-5, 50, 200]
    assert "promo" in run("ledger", client_id).out


def test_a_client_gets_a_rate_of_its_own_and_gives_it_back(run: Run, acme: dict[str, Any]) -> None:
    client_id = acme["client_id"]
    assert run("clients", "rate", client_id, "100/s, burst 500").err == "100/s, burst 500.\n"
    shown = run("clients", "show", client_id, "--json").json
    assert shown["rate_limit"] == {"per_second": 100, "burst": 500, "per_minute": 0}
    assert run("clients", "rate", client_id, "off").err == "off.\n"
    assert run("clients", "rate", client_id, "plan").err == "The plan's.\n"
    assert run("clients", "show", client_id, "--json").json["rate_limit"] is None
    assert len(run("audit", "--action", "client.updated", "--json").json) == 3
    assert run("clients", "rate", client_id, "100/h").code == 2
    assert run("clients", "rate", "nobody", "plan").code == 1


def test_a_client_is_changed_in_what_is_named_only(run: Run, acme: dict[str, Any]) -> None:
    client_id = acme["client_id"]
    changed = run("clients", "set", client_id, "--name", "Acme & Sons", "--note", "crm=7", "--note", "a=b=c")
    assert changed.code == 0
    shown = run("clients", "set", client_id, "--email", "b@example.com", "--note", "crm=", "--json").json
    assert (shown["name"], shown["email"]) == ("Acme & Sons", "b@example.com")
    assert (shown["metadata"], shown["version"]) == ({"a": "b=c"}, 3)
    assert run("clients", "set", client_id, "--json").json["version"] == 3
    for wrong in (["--email", "nobody"], ["--note", "crm"], ["--note", "=x"], ["--name", " "]):
        assert run("clients", "set", client_id, *wrong).code == 2
    assert run("clients", "set", "nobody", "--name", "X").err == "Refused: Client not found\n"
    assert run("clients", "show", client_id, "--json").json["version"] == 3


def test_jobs_are_listed_shown_and_moved(run: Run, acme: dict[str, Any]) -> None:
    client_id, now = acme["client_id"], datetime.now(UTC)
    runtime = Runtime()
    for number in range(2):
        job = Job(
            job_id=f"j{number}",
            client_id=client_id,
            project_name="Build",
            description="A feature",
            task_type=TaskType.OTHER,
            priority=Priority.P2,
            created_at=now,
            updated_at=now,
        )
        runtime.write_and_wait(jobs.submit, job=job, actor=None)
    runtime.close()
    assert [each["job_id"] for each in run("jobs", "list", "--client", client_id, "--json").json] == [
        "j1",
        "j0",
    ]
    assert run("jobs", "list", "--status", "done").err == "No jobs.\n"
    assert run("jobs", "move", "j0", "running").code == 0
    moved = run("jobs", "move", "j0", "done", "--cost", "1.5", "--json").json
    assert (moved["status"], moved["cost_usd_micros"]) == ("done", 1_500_000)
    assert run("jobs", "show", "j0", "--json").json == moved
    assert run("clients", "show", client_id, "--json").json["credits_remaining"] == 198
    assert run("jobs", "move", "j0", "done", "--refund").code == 0
    assert run("jobs", "move", "j1", "failed", "--no-refund").code == 0
    assert run("clients", "show", client_id, "--json").json["credits_remaining"] == 199
    assert run("jobs", "move", "j0", "failed").err == "Refused: A done job cannot become failed\n"
    for wrong in (["done", "--cost", "much"], ["done", "--cost", "nan"], ["lost"]):
        assert run("jobs", "move", "j0", *wrong).code == 2
    assert run("jobs", "show", "nope").code == 1


def test_credits_below_zero_need_no_dashes_before_them(run: Run, acme: dict[str, Any]) -> None:
    help_text = run("credits", "--help").out
    assert "credits ID -5 --reason" in help_text
    taken = run("credits", acme["client_id"], "-5", "--reason", "x", "--json")
    assert (taken.code, taken.json["new_credits"]) == (0, 195)
    assert run("credits", acme["client_id"], "--reason", "x", "--", "-15").code == 0
    assert run("credits", acme["client_id"], "-5", "--reasn", "x").code == 2
    assert "not 0" in run("credits", acme["client_id"], "0", "--reason", "x").err


@pytest.mark.parametrize("width", ["20", "60", "300"])
def test_ids_are_shown_whole_on_any_terminal_and_between_tabs_elsewhere(
    run: Run, acme: dict[str, Any], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    client_id = acme["client_id"]
    lists = {("clients", "list"): client_id, ("keys", "list", client_id): acme["key_id"]}
    for command, wanted in lists.items():
        lines = [line.split("\t") for line in run(*command).out.splitlines()]
        assert lines[0][0].endswith("_id")
        assert lines[1][0] == wanted
        assert len(lines[1]) == len(lines[0])
        with monkeypatch.context() as terminal:
            terminal.setattr(sys.stdout, "isatty", lambda: True)
            shown = run(*command).out
        assert "…" not in shown
        assert wanted in shown


def test_the_plan_is_changed_and_a_client_switched_off_and_on(run: Run, acme: dict[str, Any]) -> None:
    client_id = acme["client_id"]
    assert "starter" in run("plan", client_id, "starter").out
    assert run("clients", "deactivate", client_id).err == "Deactivated.\n"
    assert "already" in run("clients", "deactivate", client_id).err
    assert run("clients", "list", "--status", "active", "--json").json == []
    assert run("clients", "reactivate", client_id).err == "Reactivated.\n"
    actions = [each["action"] for each in run("audit", "--client", client_id, "--json").json]
    assert actions[:3] == ["client.reactivated", "client.deactivated", "client.plan_changed"]
    assert {each["actor"] for each in run("audit", "--json").json} == {"cli"}
    assert run("audit", "--action", "client.created").out.count("client.created") == 1


def seed_client(**changes: Any) -> dict[str, Any]:
    return {
        "client_id": "old-1",
        "name": "Old",
        "email": "old@example.com",
        "api_key": KEY_TEXT,
        "plan": "pro",
        "credits_remaining": 7,
        "total_spent": 5.5,
        "created_at": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        **changes,
    }


def test_an_import_is_tried_first_and_done_when_told_to(run: Run, tmp_path: Path, data: Path) -> None:
    file = tmp_path / "seed.json"
    file.write_text(json.dumps({"old-1": seed_client()}))
    before = file.read_bytes()
    tried = run("import", str(file))
    assert "7 credits" in tried.err
    assert "Nothing was changed" in tried.err
    assert not data.exists()
    done = run("import", str(file), "--yes")
    assert "Took over 1 clients." in done.err
    shown = run("clients", "show", "old-1", "--json").json
    assert (shown["credits_remaining"], shown["total_spent"]) == (7, 5.5)
    again = run("import", str(file), "--yes")
    assert (again.code, "old-1 is in the store already" in again.err) == (1, True)
    assert again.err.count("Refused") == 1
    assert KEY_TEXT not in tried.err + done.err + again.err
    assert file.read_bytes() == before
    file.write_text('{"old-1": }')
    broken = run("import", str(file))
    assert (broken.code, f"{file}: it is not valid JSON" in broken.err) == (78, True)
    link = tmp_path / "link.json"
    link.symlink_to(file)
    assert run("import", str(link)).code == 78


def test_exports_hold_every_client_no_key_and_no_formula(run: Run, acme: dict[str, Any]) -> None:
    run("clients", "create", "--name", "=HYPERLINK(1)", "--email", "b@example.com")
    rows = list(csv.DictReader(io.StringIO(run("export").out, newline="")))
    assert [row["name"] for row in rows] == ["Acme", "'=HYPERLINK(1)"]
    exported = run("export", "--format", "json")
    assert [each["name"] for each in exported.json] == ["Acme", "=HYPERLINK(1)"]
    assert acme["api_key"] not in exported.out


def test_markup_and_controls_in_a_name_reach_no_terminal(run: Run) -> None:
    run("clients", "create", "--name", "[red]Acme[/red]", "--email", "a@example.com")
    assert "[red]Acme[/red]" in run("clients", "list").out


def test_verify_is_content_with_a_whole_store(run: Run, acme: dict[str, Any]) -> None:
    done = run("verify", "--json")
    assert (done.code, done.json["clients"], done.json["problems"]) == (0, 1, 0)
    assert re.fullmatch(r"[0-9a-f]{64}", done.json["head"])


def test_verify_names_the_first_entry_that_was_tampered_with(
    run: Run, acme: dict[str, Any], data: Path
) -> None:
    run("credits", acme["client_id"], "50", "--reason", "promo")
    journal = data / "openclaw_clients.journal"
    journal.write_bytes(journal.read_bytes().replace(b'"reason":"promo"', b'"reason":"bribe"'))
    done = run("verify")
    assert done.code == 1
    assert re.search(r"openclaw_clients\.journal at byte \d+ \(entry \d+\)", done.err)
    for options in ([], ["--yes"]):
        refused = run("repair", *options)
        assert (refused.code, "restore the newest backup" in refused.err) == (1, True)


def cut(data: Path, lines: int = 6) -> None:
    journal = data / "openclaw_clients.journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-lines]))


def files_of(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()}


def test_an_end_that_was_cut_off_is_told_and_never_made_official(
    run: Run, acme: dict[str, Any], data: Path
) -> None:
    for number in range(6):
        run("credits", acme["client_id"], "1", "--reason", f"gift {number}")
    noted = run("verify", "--json").json
    head = f"{noted['seq']}:{noted['head']}"
    assert run("verify", "--head", head).code == 0
    cut(data)
    before = files_of(data)
    told = run("verify")
    assert (told.code, "its end was cut off" in told.err) == (1, True)
    for command in (["repair"], ["repair", "--yes"]):
        refused = run(*command)
        assert (refused.code, "its end was cut off" in refused.err) == (1, True)
        assert "restore the newest backup" in refused.err
    for command in (["clients", "list"], ["adopt"], ["discard"]):
        assert run(*command).code == 78
    assert run("doctor").code == 1
    assert files_of(data)["openclaw_clients.journal"] == before["openclaw_clients.journal"]
    assert files_of(data)["openclaw_clients.checkpoint"] == before["openclaw_clients.checkpoint"]
    # Whoever removes what knows of it is found by what was noted elsewhere.
    (data / "openclaw_clients.checkpoint").unlink()
    assert run("verify").code == 0
    assert run("verify", "--head", head).code == 1
    assert run("repair", "--head", head).code == 1
    assert run("verify", "--head", "12").code == 2


def test_doctor_tells_of_a_backup_that_knows_more(
    run: Run, acme: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = run("verify", "--json").json["seq"]
    run("credits", acme["client_id"], "1", "--reason", "gift")
    made = Path(run("backup").out.strip())
    earlier = tmp_path / "earlier"
    run("restore", str(made), str(earlier), "--to", str(seq))
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(earlier))
    assert run("doctor").err.endswith("All is well.\n")
    # Wanted or not, it is told of; what was restored on purpose goes on.
    (data / "backups").rename(earlier / "backups")
    told = run("doctor")
    assert (told.code, f"the backup {made.name} knows entry" in told.err) == (1, True)
    assert run("clients", "list").code == 0


def test_what_is_gone_is_not_begun_anew(run: Run, acme: dict[str, Any], data: Path) -> None:
    run("backup")
    for name in ("journal", "checkpoint", "json"):
        (data / f"openclaw_clients.{name}").unlink()
    refused = run("clients", "list")
    assert (refused.code, "openclaw_clients.journal: is missing beside" in refused.err) == (78, True)
    told = run("repair")
    assert (told.code, "is missing" in told.err, "restore the newest backup" in told.err) == (1, True, True)
    (data / "openclaw_clients.checkpoint.turn").unlink()
    assert run("clients", "list").code == 78


def test_a_history_that_was_tampered_with_is_not_shown_and_doctor_says_where(
    run: Run, acme: dict[str, Any], data: Path
) -> None:
    assert (data / "openclaw_clients.checkpoint").exists()
    journal = data / "openclaw_clients.journal"
    journal.write_bytes(journal.read_bytes().replace(b'"available":200', b'"available":900'))
    where = re.compile(r"openclaw_clients\.journal at byte \d+ \(entry \d+\): ")
    for command in (["ledger", acme["client_id"]], ["audit"]):
        done = run(*command)
        assert (done.code, done.out) == (78, "")
        assert where.search(done.err)
        assert done.err.count("\n") == 1
    assert run("clients", "show", acme["client_id"]).code == 0
    done = run("doctor")
    assert done.code == 1
    assert where.search(done.err)


def test_a_backup_is_restored_to_an_entry_and_to_a_moment(
    run: Run, acme: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_id = acme["client_id"]
    seq = run("verify", "--json").json["seq"]
    run("credits", client_id, "50", "--reason", "first")
    moment = run("audit", "--json").json[0]["time"]
    run("credits", client_id, "50", "--reason", "second")
    made = run("backup").out.strip()
    assert Path(made).parent == data / "backups"
    assert run("verify", made).code == 0
    for number, (to, credits) in enumerate((("", 300), (str(seq), 200), (moment, 200))):
        target = tmp_path / f"restored{number}"
        assert run("restore", made, str(target), *(["--to", to] if to else [])).code == 0
        monkeypatch.setenv("OPENCLAW_DATA_DIR", str(target))
        shown = run("clients", "show", client_id, "--json").json
        # The batch of a moment is durable a little after the moment that it was asked for.
        assert shown["credits_remaining"] in ({200, 250} if to == moment else {credits})
        assert run("verify").code == 0
        monkeypatch.setenv("OPENCLAW_DATA_DIR", str(data))


@pytest.mark.parametrize("nonsense", ["tomorrow", "³", "9" * 5_000, "-", "1.5", "\x00", "2026-13-01", "١٢"])
def test_a_restore_to_nonsense_is_refused_in_a_sentence(
    run: Run, acme: dict[str, Any], tmp_path: Path, nonsense: str
) -> None:
    made, target = run("backup").out.strip(), tmp_path / "target"
    done = run("restore", made, str(target), "--to", nonsense)
    assert done.code == 2
    assert "must be an entry's number or a moment" in " ".join(done.err.split())
    assert not target.exists()


def test_a_directory_that_is_not_there_is_named_and_not_made(
    run: Run, acme: dict[str, Any], tmp_path: Path
) -> None:
    wrong, target = tmp_path / "mistyped", tmp_path / "target"
    for command in (["verify", str(wrong)], ["restore", str(wrong), str(target)]):
        done = run(*command)
        assert (done.code, str(wrong) in done.err) == (78, True)
        assert not wrong.exists()
        assert not target.exists()
    assert str(tmp_path / "data") in run("verify").out


def test_a_restore_to_a_point_that_the_backup_does_not_reach_is_refused(
    run: Run, acme: dict[str, Any], tmp_path: Path
) -> None:
    made, target = run("backup").out.strip(), tmp_path / "target"
    seq = run("verify", made, "--json").json["seq"]
    for point in (str(seq + 1), "0", "2999-01-01T00:00:00Z", "2001-01-01T00:00:00Z"):
        done = run("restore", made, str(target), "--to", point)
        assert (done.code, made in done.err) == (78, True), point
        assert not target.exists()
    assert run("restore", made, str(target), "--to", str(seq)).code == 0


def test_a_backup_that_is_refused_leaves_nothing_behind(
    run: Run, acme: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    journal = data / "openclaw_clients.journal"
    journal.write_bytes(journal.read_bytes().replace(b"Acme", b"Evil"))
    made = tmp_path / "made"
    assert run("backup", str(made)).code == 78
    assert not made.exists()


def test_backups_are_their_owners_alone(run: Run, acme: dict[str, Any], data: Path) -> None:
    made = Path(run("backup").out.strip())
    assert [stat.S_IMODE(each.stat().st_mode) for each in (made, made.parent)] == [0o700, 0o700]


def test_a_restore_refuses_a_full_directory_and_a_tampered_backup(
    run: Run, acme: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    made = Path(run("backup", str(tmp_path / "made")).out.strip())
    before = sorted(path.name for path in data.iterdir())
    full = run("restore", str(made), str(data))
    assert (full.code, "is not empty" in full.err) == (78, True)
    assert sorted(path.name for path in data.iterdir()) == before
    again = run("backup", str(made))
    assert (again.code, again.err) == (1, f"{made}: File exists\n")
    journal = made / "openclaw_clients.journal"
    whole = journal.read_bytes()
    for damaged in (whole.replace(b"Acme", b"Evil"), whole[: whole.rindex(b"\n", 0, -1) + 1]):
        journal.write_bytes(damaged)
        done = run("restore", str(made), str(tmp_path / "target"))
        assert done.code == 78
        assert "Traceback" not in done.err
        assert done.err.count("\n") == 1
        assert "repair" not in done.err
        target = tmp_path / "target"
        assert not target.exists() or not list(target.iterdir())


@pytest.mark.parametrize(
    ("to", "said"), [("0", "and no entry 0"), ("2020-01-01T00:00:00Z", "and not of 2020-01-01")]
)
def test_a_moment_before_the_first_entry_is_nothing_to_restore(
    run: Run, acme: dict[str, Any], tmp_path: Path, to: str, said: str
) -> None:
    made, target = run("backup", str(tmp_path / "made")).out.strip(), tmp_path / "target"
    refused = run("restore", made, str(target), "--to", to)
    assert (refused.code, said in refused.err) == (78, True)
    assert not target.exists()


def test_repair_tells_first_and_rebuilds_what_is_derived(run: Run, acme: dict[str, Any], data: Path) -> None:
    assert "All files are as they were written." in run("repair").err
    checkpoint = data / "openclaw_clients.checkpoint"
    assert checkpoint.exists()
    checkpoint.write_bytes(b"garbage\n")
    assert run("clients", "list").code == 78
    assert "Nothing was changed" in run("repair").err
    assert run("repair", "--yes").code == 0
    assert run("clients", "show", acme["client_id"], "--json").json["credits_remaining"] == 200


def edit(data: Path, client_id: str, **changes: Any) -> None:
    file = data / "openclaw_clients.json"
    clients = json.loads(file.read_text())
    clients[client_id] |= changes
    file.write_text(json.dumps(clients))


def kept(data: Path) -> list[Path]:
    return sorted(data.glob("openclaw_clients.json.foreign-*"))


def test_an_edited_clients_file_is_adopted_or_discarded(run: Run, acme: dict[str, Any], data: Path) -> None:
    client_id = acme["client_id"]
    edit(data, client_id, credits_remaining=260, name="Acme & Sons", rate_limit="5/s")
    refused = run("clients", "list")
    assert (refused.code, "credits_remaining" in refused.err) == (78, True)
    adopted = run("adopt")
    assert adopted.code == 0
    assert "+60 credits" in adopted.err
    assert "rate limit 5/s, burst 5" in adopted.err
    [first] = kept(data)
    assert f"is kept as {first}" in adopted.err
    shown = run("clients", "show", client_id, "--json").json
    assert (shown["credits_remaining"], shown["name"]) == (260, "Acme & Sons")
    assert shown["rate_limit"] == {"per_second": 5, "burst": 5, "per_minute": 0}
    assert {"adopt"} < {each["actor"] for each in run("audit", "--json").json}
    edit(data, client_id, credits_remaining=999, api_key="x")
    discarded = run("discard")
    assert discarded.code == 0
    assert f"is kept as {kept(data)[1]}" in discarded.err
    assert run("clients", "show", client_id, "--json").json["credits_remaining"] == 260
    assert run("verify").code == 0


@pytest.mark.parametrize("command", ["adopt", "discard"])
def test_a_clients_file_that_nobody_edited_stays_where_it_is(
    run: Run, acme: dict[str, Any], data: Path, command: str
) -> None:
    before = (data / "openclaw_clients.json").stat()
    done = run(command)
    assert (done.code, done.err) == (0, "The clients file says what the store says.\n")
    assert kept(data) == []
    assert (data / "openclaw_clients.json").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "damage",
    [
        "not json",
        "[]",
        '{"nobody": {}}',
        "{}",
        '{"ID": {"credits_remaining": -5}}',
        '{"ID": {"rate_limit": "5/h"}}',
        '{"ID": {"name": "two\\nlines"}}',
    ],
)
def test_an_edit_that_cannot_be_is_not_adopted_and_ends_with_1(
    run: Run, acme: dict[str, Any], data: Path, damage: str
) -> None:
    (data / "openclaw_clients.json").write_text(damage.replace("ID", acme["client_id"]))
    done = run("adopt")
    assert done.code == 1
    assert "not adopted" in done.err
    [aside] = kept(data)
    assert f"is kept as {aside}" in done.err
    shown = run("clients", "show", acme["client_id"], "--json").json
    assert (shown["credits_remaining"], shown["name"], shown["rate_limit"]) == (200, "Acme", None)


def test_what_only_the_store_says_is_not_adopted(run: Run, acme: dict[str, Any], data: Path) -> None:
    edit(data, acme["client_id"], total_spent=5.5, credits_remaining=201)
    done = run("adopt")
    assert done.code == 1
    assert f"{acme['client_id']}: total_spent not adopted" in done.err
    assert "+1 credits" in done.err


def test_doctor_says_what_is_wrong_in_sentences(
    run: Run, acme: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("doctor").err == "All is well.\n"
    monkeypatch.setenv("OPENCLAW_ADMIN_TOKEN", "canary-short")
    monkeypatch.setenv("OPENCLAW_DATA_DIRR", "x")
    done = run("doctor")
    assert done.code == 1
    assert "OPENCLAW_ADMIN_TOKEN is published, or shorter" in done.err
    assert "did you mean OPENCLAW_DATA_DIR?" in done.err
    assert "canary" not in done.err
    monkeypatch.setenv("OPENCLAW_PORT", "many")
    assert "OPENCLAW_PORT is wrong" in run("doctor").err


@pytest.mark.parametrize("door", [[str(ROOT / "client_auth.py")], ["-m", "client_auth"]])
def test_the_door_is_a_command_line_too(tmp_path: Path, door: list[str]) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(OPENCLAW_DATA_DIR=str(tmp_path / "data"), PYTHONPATH=str(ROOT))
        return subprocess.run(
            [sys.executable, *door, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    made = command("clients", "create", "--name", "Acme", "--email", "a@example.com", "--json")
    assert (made.returncode, json.loads(made.stdout)["plan"]) == (0, "free")
    assert command("nothing").returncode == 2


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[tuple[Any, Callable[..., subprocess.CompletedProcess[str]]]]:
    """A running gateway, and the command line as a process of its own on the same store."""
    with served(tmp_path) as running:

        def command(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "openclaw_billing", *arguments],
                env={**running.environment, "PYTHONPATH": str(ROOT)},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )

        yield running, command


def test_commands_work_while_a_gateway_runs_on_the_same_store(beside: Any, tmp_path: Path) -> None:
    running, command = beside
    create = ("clients", "create", "--name", "Acme", "--email", "a@example.com", "--json")
    made = json.loads(command(*create).stdout)
    key = {"X-Client-Key": made["api_key"]}
    assert httpx.get(f"{running.base}/api/billing/usage", headers=key).json()["credits_remaining"] == 5
    command("credits", made["client_id"], "50", "--reason", "promo")
    job = {"project_name": "Build", "description": "x", "task_type": "other"}
    assert httpx.post(f"{running.base}/api/intake", headers=key, json=job).json()["credits_remaining"] == 54
    backup = command("backup", str(tmp_path / "made"))
    assert backup.returncode == 0, backup.stderr
    assert command("verify", "--json").returncode == 0
    assert command("keys", "revoke", made["client_id"], made["key_id"]).returncode == 0
    assert httpx.get(f"{running.base}/api/billing/usage", headers=key).status_code == 401
    nobody = command("clients", "show", "nobody")
    assert (nobody.returncode, nobody.stderr, nobody.stdout) == (1, "Refused: Client not found\n", "")
