"""Hooks: commands and a webhook that run after a promotion or rollback. A failure is only a warning."""

import json
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from raft_core.promotion.ledger import Entry
from raft_core.promotion.rules import PromotionRules

MOST_CHARACTERS = 500
"""Of the output or error of a hook that are kept."""


@dataclass(frozen=True, slots=True)
class HookResult:
    """How one command or webhook ended. ``outcome``: "ok", or why it failed."""

    what: str
    outcome: str

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.outcome == "ok"


def run_hooks(rules: PromotionRules, entry: Entry) -> list[HookResult]:
    """Run the commands of ``rules.after``, then call the webhook, one after the other. Never raises if one fails.

    Commands get the environment variables RAFT_ACTION, RAFT_MODEL, RAFT_COMMIT, RAFT_POLICY, RAFT_RUN, RAFT_ITERATION
    and RAFT_ENTRY; the webhook gets the same as JSON, without the prefix and in lower case.
    """
    facts = {
        "action": entry.kind,
        "model": entry.model,
        "commit": entry.body["commit"],
        "policy": entry.body["policy"],
        "run": entry.body["run"],
        "iteration": str(entry.body["iteration"]),
        "entry": entry.digest,
    }
    results = [_run(command, facts, rules.after_timeout_s) for command in rules.after]
    return results + ([_post(rules.webhook, facts, rules.after_timeout_s)] if rules.webhook else [])


def _run(command: str, facts: Mapping[str, str], timeout_s: float) -> HookResult:
    words = shlex.split(command)
    given = [f"RAFT_{name.upper()}={value}" for name, value in facts.items()]
    try:
        done = subprocess.run(
            ["env", *given, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return HookResult(words[0], f"took longer than {timeout_s:g} s (after_timeout_s) and was stopped")
    except OSError as error:
        return HookResult(words[0], str(error))
    output = (done.stderr or done.stdout).decode(errors="replace").strip()[-MOST_CHARACTERS:]
    return HookResult(words[0], "ok" if done.returncode == 0 else f"exit code {done.returncode}: {output}")


class _NoRedirect(HTTPRedirectHandler):
    """Only the address in the rules file gets the document."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(url: str, facts: Mapping[str, str], timeout_s: float) -> HookResult:
    where = f"webhook at {urlsplit(url).hostname}"
    request = Request(url, json.dumps(facts).encode(), {"Content-Type": "application/json"}, method="POST")
    try:
        with build_opener(_NoRedirect()).open(request, timeout=timeout_s):
            return HookResult(where, "ok")
    except (URLError, OSError, ValueError, HTTPException) as error:
        return HookResult(where, str(error)[:MOST_CHARACTERS] or type(error).__name__)
