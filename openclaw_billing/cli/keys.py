"""Keys on the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from openclaw_billing import accounts
from openclaw_billing.cli.output import ACTOR, Json, dumped, opened, say, show, show_one, words
from openclaw_billing.errors import NotFound
from openclaw_billing.web.billing import GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX, key_by_id, key_list
from openclaw_billing.web.models import LINE_LENGTH_MAX
from openclaw_billing.web.views import KeyView

app = typer.Typer(no_args_is_help=True)

ClientId = Annotated[str, typer.Argument(help="The client's id.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, from `keys list`.")]


@app.command("list")
def list_keys(client_id: ClientId, as_json: Json = False) -> None:
    """List a client's keys by what may be shown of them."""
    with opened() as runtime:
        if runtime.view.clients.get(client_id) is None:
            raise NotFound("Client")
        rows = dumped(key_list(runtime, client_id).keys)
        show(
            rows,
            ("key_id", "name", "start", "last4", "state", "expires_at"),
            as_json=as_json,
            empty="No keys.",
        )


@app.command("issue")
def issue(
    client_id: ClientId,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Issue a key and show it, once."""
    name = words(name, LINE_LENGTH_MAX, "--name") if name else ""
    with opened() as runtime:
        key_text, key = runtime.new_key(client_id, name=name)
        runtime.write_and_wait(accounts.issue_key, client_id, key, actor=ACTOR)
        show_one(
            {**KeyView.of(key, runtime.now()).model_dump(mode="json"), "api_key": key_text}, as_json=as_json
        )
        say("Save the key now: it is stored nowhere.")


@app.command("rotate")
def rotate(
    client_id: ClientId,
    key_id: KeyId,
    grace_seconds: Annotated[
        int, typer.Option(min=0, max=GRACE_SECONDS_MAX, help="How long the old key goes on working.")
    ] = GRACE_SECONDS_DEFAULT,
    as_json: Json = False,
) -> None:
    """Put a new key in the place of one, and show it, once."""
    with opened() as runtime:
        old = key_by_id(runtime.view, client_id, key_id)
        key_text, key = runtime.new_key(client_id, name=old.name, expires_at=old.expires_at)
        grace = timedelta(seconds=grace_seconds)
        runtime.write_and_wait(accounts.rotate_key, client_id, key_id, new_key=key, grace=grace, actor=ACTOR)
        show_one(
            {**KeyView.of(key, runtime.now()).model_dump(mode="json"), "api_key": key_text}, as_json=as_json
        )
        say("Save the key now: it is stored nowhere.")


@app.command("revoke")
def revoke(client_id: ClientId, key_id: KeyId) -> None:
    """Revoke a key: when this ends, no process of this machine accepts it."""
    with opened() as runtime:
        runtime.write_and_wait(accounts.revoke_key, client_id, key_id, actor=ACTOR)
        say("Revoked.")
