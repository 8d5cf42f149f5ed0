"""After a promotion or rollback: tell whatever serves, by commands or a webhook. A failure is a warning."""

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

TOLD_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class HookResult:
    """What came of one command or webhook. ``outcome``: "ok", or why not."""

    what: str
    outcome: str

    @property
    def ok(self) -> bool:
        """Whether it went well."""
        return self.outcome == "ok"


def run_hooks(policy: PromotionRules, entry: Entry) -> list[HookResult]:
    """Run the policy's commands and its webhook, one after the other; never raises for what they do.

    Commands get RAFT_ACTION, RAFT_MODEL, RAFT_COMMIT, RAFT_POLICY, RAFT_RUN, RAFT_ITERATION and
    RAFT_ENTRY; the webhook the same as JSON, without the prefix and in lower case.
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
    told = [_run(command, facts, policy.after_timeout_s) for command in policy.after]
    return told + ([_post(policy.webhook, facts, policy.after_timeout_s)] if policy.webhook else [])


def _run(command: str, facts: Mapping[str, str], timeout_s: float) -> HookResult:
    words = shlex.split(command)
    given = [f"RAFT_{name.upper()}={value}" for name, value in facts.items()]
    try:
        done = subprocess.run(
            ["env", *given, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return HookResult(words[0], f"took longer than {timeout_s:g} s and was ended")
    except OSError as error:
        return HookResult(words[0], str(error))
    said = (done.stderr or done.stdout).decode(errors="replace").strip()[-TOLD_CHARACTERS:]
    return HookResult(words[0], "ok" if done.returncode == 0 else f"exit code {done.returncode}: {said}")


class _NoRedirect(HTTPRedirectHandler):
    """The address in the policy is the one that gets the document."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(url: str, facts: Mapping[str, str], timeout_s: float) -> HookResult:
    where = f"webhook at {urlsplit(url).hostname}"
    request = Request(url, json.dumps(facts).encode(), {"Content-Type": "application/json"}, method="POST")
    try:
        with build_opener(_NoRedirect()).open(request, timeout=timeout_s):
            return HookResult(where, "ok")
    except (URLError, OSError, ValueError, HTTPException) as error:
        return HookResult(where, str(error)[:TOLD_CHARACTERS] or type(error).__name__)
