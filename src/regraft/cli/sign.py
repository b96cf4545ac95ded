"""`regraft sign` and `verify`: who made an artifact, proven with a key pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, results
from regraft.cli.flags import with_options
from regraft.cli.show import emit_json
from regraft.verbs import SignOptions

_KEYS = """\b
A key pair:
  openssl ecparam -name prime256v1 -genkey -noout -out key.pem     signs; keep it to yourself
  openssl ec -in key.pem -pubout -out key.pub                      verifies; give it to everybody
The password of an encrypted key stands in the environment variable REGRAFT_KEY_PASSWORD."""


@click.command(epilog=_KEYS)
@click.argument("artifact", type=click.Path(path_type=Path))
@with_options(SignOptions)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def sign(artifact: Path, as_json: bool, values: dict[str, Any]) -> None:
    """Sign every file of ARTIFACT with the private key --key; the signature stands beside it, in ARTIFACT.sig."""
    place = lifecycle.sign(artifact, **values)
    (people() if as_json else results()).print(f"signed: {place}", markup=False, soft_wrap=True)
    if as_json:
        emit_json({"artifact": str(artifact), "signature": str(place)})


@click.command(epilog=_KEYS)
@click.argument("artifact", type=click.Path(path_type=Path))
@with_options(SignOptions)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def verify(artifact: Path, as_json: bool, values: dict[str, Any]) -> None:
    """Refuse ARTIFACT unless the holder of the pair of the public key --key signed every file as it is now."""
    whole = lifecycle.verify(artifact, **values)
    told = f"{whole.path}: signed with the pair of {values['key']}, {len(whole.manifest.files) + 1} files as they were"
    (people() if as_json else results()).print(told, markup=False, soft_wrap=True)
    if as_json:
        emit_json({"artifact": str(whole.path), "digest": whole.digest, "verified": True})
